"""The tiny model on a real vLLM, through both APIs, with the official SDK.

The Chat API is relayed byte for byte, so what it gives is what vLLM itself gives: the Responses
API has to give the same.
"""

import json
import re
import urllib.request
from typing import Any

import openai
import pytest

from tests.vllm.conftest import Served

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

MODEL = "tiny"
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
CHAT_TOOL: Any = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather", "parameters": WEATHER},
}
RESPONSES_TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather",
    "parameters": WEATHER,
    "strict": False,
}
CITY: Any = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "country": {"type": "string"}},
    "required": ["city", "country"],
    "additionalProperties": False,
}


def chat(client: openai.OpenAI, question: str, **more: Any) -> Any:
    messages: Any = [{"role": "user", "content": question}]
    return client.chat.completions.create(model=MODEL, messages=messages, temperature=0, **more)


def responses(client: openai.OpenAI, question: Any, **more: Any) -> Any:
    return client.responses.create(model=MODEL, input=question, temperature=0, **more)


def streamed(client: openai.OpenAI, question: Any, **more: Any) -> tuple[Any, list[Any]]:
    """The final response of a stream, and its events."""
    events = list(
        client.responses.create(model=MODEL, input=question, temperature=0, stream=True, **more)
    )
    return events[-1].response, events


def thought(response: Any) -> str:
    items = [item for item in response.output if item.type == "reasoning"]
    return "".join(part.text for item in items for part in item.summary)


def calls(response: Any) -> list[tuple[str, str]]:
    return [(c.name, c.arguments) for c in response.output if c.type == "function_call"]


@pytest.mark.parametrize("question", ["Hello!", "Where is Oslo?", "Count to ten."])
def test_text_and_reasoning_are_those_of_chat(client: openai.OpenAI, question: str) -> None:
    message = chat(client, question).choices[0].message
    whole = responses(client, question)
    final, _ = streamed(client, question)
    assert message.content
    for response in (whole, final):
        assert response.status == "completed"
        assert response.output_text == message.content
        assert thought(response) == (message.reasoning or "")


def test_usage_is_that_of_chat(client: openai.OpenAI) -> None:
    expected = chat(client, "Where is Oslo?").usage
    final, _ = streamed(client, "Where is Oslo?")
    for usage in (responses(client, "Where is Oslo?").usage, final.usage):
        assert usage.input_tokens == expected.prompt_tokens
        assert usage.output_tokens == expected.completion_tokens
        assert usage.total_tokens == expected.total_tokens
        assert usage.output_tokens_details.reasoning_tokens > 0


def test_a_long_answer_streams_in_many_pieces(client: openai.OpenAI) -> None:
    message = chat(client, "Count to fifty.").choices[0].message
    final, events = streamed(client, "Count to fifty.")
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(deltas) > 50
    assert "".join(deltas) == message.content == final.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))


@pytest.mark.parametrize("is_stream", [False, True])
def test_parallel_tools_run_in_two_steps_over_responses(
    client: openai.OpenAI, is_stream: bool
) -> None:
    history: list[Any] = [{"role": "user", "content": "What is the weather in Paris and in Rome?"}]

    def ask() -> Any:
        if is_stream:
            return streamed(client, history, tools=[RESPONSES_TOOL])[0]
        return responses(client, history, tools=[RESPONSES_TOOL])

    first = ask()
    arguments = [(name, json.loads(text)) for name, text in calls(first)]
    assert arguments == [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Rome"})]
    history += first.output
    weathers = {"Paris": "sunny", "Rome": "rainy"}
    for call in first.output:
        if call.type == "function_call":
            weather = weathers[json.loads(call.arguments)["city"]]
            history.append(
                {"type": "function_call_output", "call_id": call.call_id, "output": weather}
            )
    assert ask().output_text == "It is sunny in Paris and rainy in Rome."


@pytest.mark.parametrize("is_stream", [False, True])
def test_parallel_tools_run_in_two_steps_over_chat(client: openai.OpenAI, is_stream: bool) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Paris and in Rome?"}]

    def ask() -> Any:
        options: Any = {"model": MODEL, "messages": messages, "temperature": 0}
        if not is_stream:
            return client.chat.completions.create(**options, tools=[CHAT_TOOL]).choices[0].message
        with client.chat.completions.stream(**options, tools=[CHAT_TOOL]) as stream:
            return stream.get_final_completion().choices[0].message

    first = ask()
    cities = [json.loads(call.function.arguments)["city"] for call in first.tool_calls]
    assert cities == ["Paris", "Rome"]
    messages.append(first.model_dump(exclude_none=True))
    for call, weather in zip(first.tool_calls, ("sunny", "rainy"), strict=True):
        messages.append({"role": "tool", "tool_call_id": call.id, "content": weather})
    assert ask().content == "It is sunny in Paris and rainy in Rome."


def test_a_forced_tool_is_called(client: openai.OpenAI) -> None:
    response = responses(
        client,
        "Where is Oslo?",
        tools=[{**RESPONSES_TOOL, "strict": True}],
        tool_choice={"type": "function", "name": "get_weather"},
    )
    assert [name for name, _ in calls(response)] == ["get_weather"]
    assert json.loads(calls(response)[0][1]).keys() == {"city"}


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("syntax", "definition", "pattern"),
    [
        (
            "lark",
            'start: "hello" LF NAME\nNAME: /[a-z]{2,5}/\n%import common.LF',
            r"hello\n[a-z]{2,5}",
        ),
        ("regex", "(ping|pong)!{2}", r"(ping|pong)!!"),
    ],
)
def test_a_grammar_binds_a_forced_tools_input(
    client: openai.OpenAI, is_stream: bool, syntax: str, definition: str, pattern: str
) -> None:
    grammar = {"type": "grammar", "syntax": syntax, "definition": definition}
    say = {"type": "custom", "name": "say", "description": "Says a text.", "format": grammar}
    more: Any = {"tools": [say, RESPONSES_TOOL], "tool_choice": {"type": "custom", "name": "say"}}
    if is_stream:
        response, events = streamed(client, "Say pong.", **more)
        kind = "response.custom_tool_call_input.delta"
        deltas = [event.delta for event in events if event.type == kind]
        assert len(deltas) > 1
        assert "".join(deltas) == response.output[-1].input
    else:
        response = responses(client, "Say pong.", **more)
    assert [item.type for item in response.output] == ["reasoning", "custom_tool_call"]
    assert response.output[-1].name == "say"
    assert re.fullmatch(pattern, response.output[-1].input)


def test_a_grammar_that_vllm_cannot_read_is_a_400_that_says_so(client: openai.OpenAI) -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: nothing"}
    say: Any = {"type": "custom", "name": "say", "format": grammar}
    with pytest.raises(openai.BadRequestError, match="unknown name"):
        responses(client, "Say pong.", tools=[say], tool_choice="required")


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_json_schema_binds_the_answer(client: openai.OpenAI, is_stream: bool) -> None:
    text: Any = {"format": {"type": "json_schema", "name": "city", "schema": CITY, "strict": True}}
    question = "Give me a JSON object for Oslo."
    if is_stream:
        response, _ = streamed(client, question, text=text)
    else:
        response = responses(client, question, text=text)
    assert json.loads(response.output_text) == {"city": "Oslo", "country": "Norway"}


def test_log_probs_are_those_of_chat(client: openai.OpenAI) -> None:
    expected = chat(client, "Hello!", logprobs=True, top_logprobs=2).choices[0].logprobs.content
    include: Any = ["message.output_text.logprobs"]
    more: Any = {"include": include, "top_logprobs": 2}
    final, _ = streamed(client, "Hello!", **more)
    for response in (responses(client, "Hello!", **more), final):
        part = response.output[-1].content[0]
        assert [entry.token for entry in part.logprobs] == [entry.token for entry in expected]
        for entry, other in zip(part.logprobs, expected, strict=True):
            assert entry.logprob == pytest.approx(other.logprob, abs=0.05)
            assert len(entry.top_logprobs) == 2


def test_a_limit_cuts_the_reply_and_says_so(client: openai.OpenAI) -> None:
    final, events = streamed(client, "Count to fifty.", max_output_tokens=20)
    whole = responses(client, "Count to fifty.", max_output_tokens=20)
    for response in (whole, final):
        assert response.status == "incomplete"
        assert response.incomplete_details.reason == "max_output_tokens"
        assert response.usage.output_tokens == 20
    assert events[-1].type == "response.incomplete"
    assert final.output_text == whole.output_text


def test_instructions_and_developer_messages_reach_a_strict_template(
    client: openai.OpenAI,
) -> None:
    response = responses(
        client,
        [
            {"role": "developer", "content": "Answer briefly."},
            {"role": "user", "content": "Where is Oslo?"},
        ],
        instructions="You are a helpful assistant.",
    )
    assert "Oslo" in response.output_text


def test_vendor_members_pass_in_both_directions(client: openai.OpenAI) -> None:
    extra = {"return_token_ids": True, "chat_template_kwargs": {"enable_thinking": False}}
    expected = chat(client, "Hello!", extra_body=extra)
    response = responses(client, "Hello!", extra_body=extra)
    assert response.prompt_token_ids == expected.prompt_token_ids
    assert response.token_ids == expected.choices[0].token_ids
    final, _ = streamed(client, "Hello!", extra_body=extra)
    assert final.token_ids == expected.choices[0].token_ids


def test_errors_of_vllm_keep_their_status(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        responses(client, "Hello! " * 5000)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError) as missing:
        client.responses.create(model="nobody", input="Hello!")
    assert missing.value.code == "model_not_found"


def test_a_conversation_is_remembered(client: openai.OpenAI) -> None:
    history: list[Any] = [{"role": "user", "content": "My name is Ana."}]
    history += responses(client, history).output
    history.append({"role": "user", "content": "What is my name?"})
    assert "Ana" in responses(client, history).output_text


def test_models_are_vllms(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_progress_was_shown_while_vllm_loaded(tiny: Served) -> None:
    with urllib.request.urlopen(f"{tiny.root}/ready", timeout=10) as reply:
        assert json.load(reply)["status"] == "ready"
    phases = [json.loads(line).get("phase") for line in tiny.lines if '"phase"' in line]
    assert len(set(phases)) > 2
