"""openai-python over Chat Completions: ``openai_chat.py BASE_URL MODEL``.

Prints the same document as ``openai_responses.py``, so that the two can be compared.
"""

import json
import sys
from typing import Any

from openai import APIStatusError, LengthFinishReasonError, OpenAI
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

client = OpenAI(base_url=sys.argv[1], max_retries=0)
model = sys.argv[2]


class Plan(BaseModel):
    city: str
    days: int
    pace: str | None


WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
IMAGES: Any = [
    {"type": "text", "text": "What is in these?"},
    {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
]


def ask(messages: Any, *, streamed: bool, **options: Any) -> ChatCompletion:
    if not streamed:
        reply: ChatCompletion = client.chat.completions.create(
            model=model, messages=messages, **options
        )
        return reply
    counting: Any = {"include_usage": True}
    deltas = ""
    try:
        with client.chat.completions.stream(
            model=model, messages=messages, stream_options=counting, **options
        ) as stream:
            for event in stream:
                deltas += event.delta if event.type == "content.delta" else ""
            final: ChatCompletion = stream.get_final_completion()
    except LengthFinishReasonError as error:  # this helper's way to say it
        final = error.completion
    assert deltas == (final.choices[0].message.content or ""), "the deltas add up"
    return final


def summary(reply: ChatCompletion) -> Any:
    [choice] = reply.choices
    calls = [call.function for call in choice.message.tool_calls or [] if call.type == "function"]
    usage = reply.usage
    assert usage is not None
    assert usage.completion_tokens_details is not None
    return {
        "reasoning": getattr(choice.message, "reasoning", None),
        "text": choice.message.content or "",
        "calls": [[call.name, call.arguments] for call in calls],
        "cut": choice.finish_reason == "length",
        "tokens": [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens],
        "reasoning_tokens": usage.completion_tokens_details.reasoning_tokens,
    }


def tool_loop(*, streamed: bool) -> Any:
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Oslo and in Lima?"}]
    first = ask(messages, tools=[WEATHER], streamed=streamed)
    messages.append(first.choices[0].message)
    for call in first.choices[0].message.tool_calls or []:
        assert call.type == "function"
        result = f"{json.loads(call.function.arguments)['city']}: rain"
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return [summary(first), summary(ask(messages, tools=[WEATHER], streamed=streamed))]


def structured(*, streamed: bool) -> Any:
    messages: Any = [
        {"role": "system", "content": "Plan trips."},
        {"role": "user", "content": "Plan 3 days in Oslo"},
    ]
    if not streamed:
        reply = client.chat.completions.parse(model=model, messages=messages, response_format=Plan)
    else:
        with client.chat.completions.stream(
            model=model, messages=messages, response_format=Plan
        ) as stream:
            reply = stream.get_final_completion()
    plan = reply.choices[0].message.parsed
    assert isinstance(plan, Plan)
    return plan.model_dump()


def refusal(*, streamed: bool, **options: Any) -> Any:
    try:
        ask([{"role": "user", "content": "Hi"}], streamed=streamed, **options)
    except APIStatusError as error:
        body: Any = error.body
        return [error.status_code, type(error).__name__, body["message"], body["param"]]
    raise AssertionError("the request was not refused")


def everything(*, streamed: bool) -> Any:
    hello = [{"role": "user", "content": "Say it back, please"}]
    found: dict[str, Any] = {
        "text": summary(ask(hello, streamed=streamed)),
        "cut": summary(ask(hello, max_completion_tokens=12, streamed=streamed)),
        "tool_loop": tool_loop(streamed=streamed),
        "structured": structured(streamed=streamed),
        "image": summary(ask([{"role": "user", "content": IMAGES}], streamed=streamed)),
        "bad_request": refusal(reasoning_effort="boundless", streamed=streamed),
    }
    global model
    served, model = model, "no-such-model"
    found["unknown_model"] = refusal(streamed=streamed)
    model = served
    return found


found = {"plain": everything(streamed=False), "streamed": everything(streamed=True)}
json.dump(found, sys.stdout)
