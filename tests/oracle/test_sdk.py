"""The official SDK reads our streams and ends with what a whole reply says."""

from typing import Any

import httpx2
import openai
import pytest

from proxy import corpus, outcomes
from proxy.corpus import Case
from tests import cases
from tests.oracle.responses_stream import check_responses_stream
from translators.canonical import Response, StopReason, ToolCall, ToolKind
from translators.events import fold
from translators.wire import JSON, decode_object

RESPONSES = [pytest.param(c, id=c.id) for c in cases.STREAM_CASES if c.caller == "responses"]
CHAT = [pytest.param(c, id=c.id) for c in cases.STREAM_CASES if c.caller == "chat"]


def client_of(stream: bytes) -> openai.OpenAI:
    """A client whose server answers everything with this stream."""

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=stream)

    return openai.OpenAI(
        api_key="none",
        base_url="http://upstream.invalid/v1",
        http_client=httpx2.Client(transport=httpx2.MockTransport(answer)),
        max_retries=0,
    )


def said(document: JSON) -> JSON:
    """A document without nulls."""
    if isinstance(document, dict):
        return {name: said(v) for name, v in document.items() if v is not None}
    if isinstance(document, list):
        return [said(v) for v in document]
    return document


@pytest.mark.parametrize("case", RESPONSES)
def test_responses_stream(case: Case) -> None:
    stream = case.golden("caller.stream.sse")
    expected = check_responses_stream(stream)
    with client_of(stream) as client:
        if expected["status"] == "failed":
            with pytest.raises(openai.APIError, match=r".") as caught:
                list(client.responses.create(model="m", input="x", stream=True))
            assert expected["error"]["message"] == caught.value.message
            return
        events: list[Any] = list(client.responses.create(model="m", input="x", stream=True))
        assert said(expected) == said(events[-1].response.to_dict(exclude_unset=True))
        if expected["status"] != "completed":
            return
        with client.responses.stream(model="m", input="x") as accumulator:
            final = accumulator.get_final_response()
    assert expected["id"] == final.id
    assert said(expected["output"]) == said(
        [item.to_dict(exclude_unset=True) for item in final.output]
    )
    assert text_of(expected) == final.output_text


def text_of(response: JSON) -> str:
    return "".join(
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
        if part["type"] == "output_text"
    )


def completion_of(accumulator: Any, response: Response) -> Any:
    """The completion that the accumulator ends with.

    The SDK collects custom calls, but its last step, which parses function arguments, cannot
    read what it has collected (openai 3.54): then the completion is what was collected.
    """
    kinds = {item.kind for item in response.output if isinstance(item, ToolCall)}
    if ToolKind.CUSTOM not in kinds:
        return accumulator.get_final_completion()
    with pytest.raises(AttributeError, match="'dict' object has no attribute 'name'"):
        accumulator.get_final_completion()
    return accumulator.current_completion_snapshot


@pytest.mark.parametrize("case", CHAT)
def test_chat_stream(case: Case) -> None:
    translation = case.begin()
    response = fold(outcomes.read_events(case, translation))
    options = decode_object(case.read(corpus.REQUEST)).get("stream_options") or {}
    expected = translation.write(response)
    with (
        client_of(case.golden("caller.stream.sse")) as client,
        client.chat.completions.stream(model="m", messages=[]) as accumulator,
    ):
        if response.error is not None:
            with pytest.raises(openai.APIError) as caught:
                accumulator.get_final_completion()
            assert response.error.message == caught.value.message
            return
        try:
            actual: JSON = completion_of(accumulator, response).to_dict(exclude_unset=True)
        except (openai.LengthFinishReasonError, openai.ContentFilterFinishReasonError) as error:
            assert response.stop in (StopReason.LENGTH, StopReason.CONTENT_FILTER)
            assert error.completion is not None
            actual = error.completion.to_dict(exclude_unset=True)
    if not options.get("include_usage"):
        del expected["usage"]
    for name in response.extra.keys() - {"system_fingerprint"}:
        # What the upstream says at the end, where the SDK is blind.
        expected.pop(name, None)
        expected["choices"][0].pop(name, None)
    for call in actual["choices"][0]["message"].get("tool_calls") or ():
        del call["index"]
    message = expected["choices"][0]["message"]
    message["content"] = message["content"] or ""  # the first chunk says so
    assert said(expected) == said(actual)
