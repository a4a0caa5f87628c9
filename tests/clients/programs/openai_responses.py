"""openai-python over Responses: ``openai_responses.py BASE_URL MODEL``.

Prints the same document as ``openai_chat.py``, so that the two can be compared.
"""

import json
import sys
from typing import Any

from openai import APIStatusError, OpenAI
from openai.types.responses import Response
from pydantic import BaseModel

client = OpenAI(base_url=sys.argv[1], max_retries=0)
model = sys.argv[2]


class Plan(BaseModel):
    city: str
    days: int
    pace: str | None


WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
IMAGES: Any = [
    {"type": "input_text", "text": "What is in these?"},
    {"type": "input_image", "image_url": "https://example.org/a.png", "detail": "low"},
    {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="},
]


def ask(items: Any, *, streamed: bool, **options: Any) -> Response:
    if not streamed:
        reply: Response = client.responses.create(model=model, input=items, **options)
        return reply
    final: Response | None = None
    text = reasoning = ""
    numbers = []
    with client.responses.stream(model=model, input=items, **options) as stream:
        for event in stream:
            numbers.append(event.sequence_number)
            if event.type == "response.output_text.delta":
                text += event.delta
            elif event.type == "response.reasoning_summary_text.delta":
                reasoning += event.delta
            elif event.type in ("response.completed", "response.incomplete"):
                final = event.response
    assert final is not None
    assert numbers == list(range(len(numbers))), "no event is missing"
    assert text == final.output_text, "the deltas add up"
    assert reasoning == (thought(final) or ""), "the deltas add up"
    return final


def thought(reply: Response) -> str | None:
    items = [item for item in reply.output if item.type == "reasoning"]
    return "".join(part.text for item in items for part in item.summary) or None


def summary(reply: Response) -> Any:
    calls = [item for item in reply.output if item.type == "function_call"]
    why = reply.incomplete_details
    usage = reply.usage
    assert usage is not None
    return {
        "reasoning": thought(reply),
        "text": reply.output_text,
        "calls": [[call.name, call.arguments] for call in calls],
        "cut": why is not None and why.reason == "max_output_tokens",
        "tokens": [usage.input_tokens, usage.output_tokens, usage.total_tokens],
        "reasoning_tokens": usage.output_tokens_details.reasoning_tokens,
    }


def tool_loop(*, streamed: bool) -> Any:
    items: list[Any] = [{"role": "user", "content": "What is the weather in Oslo and in Lima?"}]
    first = ask(items, tools=[WEATHER], streamed=streamed)
    items += first.output
    for call in first.output:
        if call.type == "function_call":
            result = f"{json.loads(call.arguments)['city']}: rain"
            output = {"type": "function_call_output", "call_id": call.call_id, "output": result}
            items.append(output)
    return [summary(first), summary(ask(items, tools=[WEATHER], streamed=streamed))]


def structured(*, streamed: bool) -> Any:
    asked: Any = {"instructions": "Plan trips.", "input": "Plan 3 days in Oslo"}
    if not streamed:
        reply = client.responses.parse(model=model, text_format=Plan, **asked)
    else:
        with client.responses.stream(model=model, text_format=Plan, **asked) as stream:
            reply = stream.get_final_response()
    assert isinstance(reply.output_parsed, Plan)
    return reply.output_parsed.model_dump()


def refusal(*, streamed: bool, **options: Any) -> Any:
    try:
        ask([{"role": "user", "content": "Hi"}], streamed=streamed, **options)
    except APIStatusError as error:
        body: Any = error.body
        return [error.status_code, type(error).__name__, body["message"], body["param"]]
    raise AssertionError("the request was not refused")


def everything(*, streamed: bool) -> Any:
    hello = "Say it back, please"
    found = {
        "text": summary(ask(hello, streamed=streamed)),
        "cut": summary(ask(hello, max_output_tokens=12, streamed=streamed)),
        "tool_loop": tool_loop(streamed=streamed),
        "structured": structured(streamed=streamed),
        "image": summary(ask([{"role": "user", "content": IMAGES}], streamed=streamed)),
        "bad_request": refusal(reasoning={"effort": "boundless"}, streamed=streamed),
    }
    global model
    served, model = model, "no-such-model"
    found["unknown_model"] = refusal(streamed=streamed)
    model = served
    return found


found = {"plain": everything(streamed=False), "streamed": everything(streamed=True)}
json.dump(found, sys.stdout)
