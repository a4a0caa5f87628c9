"""Compaction: a summary that the caller keeps and only we can read."""

import pytest

from tests.translators.streams import PlainSeal, context
from translators.canonical import (
    FunctionTool,
    Message,
    Reasoning,
    Refusal,
    Request,
    Response,
    Role,
    StopReason,
    Text,
    ToolChoice,
)
from translators.context import Context
from translators.errors import (
    ErrorInfo,
    MalformedRequest,
    UnsupportedFeature,
    UpstreamProtocolError,
)
from translators.events import (
    Event,
    ItemEnd,
    ItemStart,
    ResponseEnd,
    ResponseFailed,
    ResponseStart,
    TextDelta,
)
from translators.responses import CODEC
from translators.responses.compaction import as_compaction, ask_for_summary
from translators.sse import SSEDecoder
from translators.wire import JSON, decode

TRIGGER = {"type": "compaction_trigger"}
QUESTION = {"type": "message", "role": "user", "content": "Why?"}
BLOB = {"type": "compaction", "encrypted_content": "sealed:It rained."}


def sealing() -> Context:
    ctx = context()
    ctx.seal = PlainSeal()
    return ctx


def request(*items: JSON, ctx: Context, **members: JSON) -> Request:
    return CODEC.read_request({"model": "m", "input": [*items], **members}, ctx)


# --- the endpoint's bodies -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "items"),
    [
        ("Why?", [{"role": "user", "content": "Why?"}]),
        ([QUESTION], [QUESTION]),
        (None, []),
    ],
)
def test_a_compaction_request_ends_with_the_trigger(given: JSON, items: list[JSON]) -> None:
    document = {"model": "m", "input": given, "instructions": "Be brief.", "stream": True}
    assert ask_for_summary(document) == {
        "model": "m",
        "input": [*items, TRIGGER],
        "instructions": "Be brief.",
        "stream": False,
    }


@pytest.mark.parametrize(
    ("document", "param"), [({"input": "a"}, "model"), ({"model": "m", "input": 5}, "input")]
)
def test_a_compaction_request_that_says_too_little(document: JSON, param: str) -> None:
    with pytest.raises(MalformedRequest, match=f"'{param}'") as caught:
        ask_for_summary(document)
    assert caught.value.param == param


def test_the_reply_to_a_compaction_request() -> None:
    kept = {"id": "resp_1", "created_at": 5, "output": [BLOB], "usage": {"total_tokens": 3}}
    resource = {**kept, "object": "response", "status": "completed", "tools": []}
    assert as_compaction(resource) == {**kept, "object": "response.compaction"}


# --- requests --------------------------------------------------------------------------------


def test_the_trigger_asks_the_model_for_a_summary() -> None:
    """No tool may be called, and no format binds the summary."""
    ctx = sealing()
    tool = {"type": "function", "name": "f"}
    asked = request(
        QUESTION,
        TRIGGER,
        ctx=ctx,
        tools=[tool],
        tool_choice="required",
        text={"format": {"type": "json_object"}},
    )
    assert ctx.compacts
    assert asked.items[0] == Message(Role.USER, [Text("Why?")])
    prompt = asked.items[1]
    assert isinstance(prompt, Message)
    assert prompt.role is Role.USER
    assert isinstance(prompt.parts[0], Text)
    assert prompt.parts[0].text.startswith("Write a summary of this conversation")
    assert (asked.tools, asked.tool_choice, asked.format) == ([], None, None)


def test_without_the_trigger_tools_stay() -> None:
    asked = request(QUESTION, ctx=sealing(), tools=[{"type": "function", "name": "f"}])
    assert asked.tools == [FunctionTool("f")]
    assert asked.tool_choice != ToolChoice("none")


def test_the_trigger_comes_last() -> None:
    with pytest.raises(MalformedRequest) as caught:
        request(TRIGGER, QUESTION, ctx=sealing())
    assert caught.value.param == "input[0]"


def test_nothing_is_compacted_without_a_seal() -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        request(QUESTION, TRIGGER, ctx=context())
    assert caught.value.param == "input[1]"


def test_a_compaction_is_told_to_the_model_again() -> None:
    told, _ = request(BLOB, QUESTION, ctx=sealing()).items
    assert told == Message(Role.USER, [Text("Summary of the conversation so far:\n\nIt rained.")])


@pytest.mark.parametrize("blob", ["foreign", 5, None])
def test_a_foreign_compaction_is_refused(blob: JSON) -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        request(QUESTION, {"type": "compaction", "encrypted_content": blob}, ctx=sealing())
    assert caught.value.param == "input[1]"


def test_no_compaction_is_read_without_a_seal() -> None:
    with pytest.raises(UnsupportedFeature):
        request(BLOB, ctx=context())


def test_sealed_reasoning_is_opened() -> None:
    """What is ours becomes raw reasoning; what is not, or is readable anyway, stays as it is."""
    ours = {"type": "reasoning", "id": "a", "summary": [], "encrypted_content": "sealed:Hm."}
    foreign = {**ours, "id": "b", "encrypted_content": "foreign"}
    readable = {**ours, "id": "c", "content": [{"type": "reasoning_text", "text": "Oh."}]}
    plain = {"type": "reasoning", "id": "d", "summary": []}
    assert request(ours, foreign, readable, plain, QUESTION, ctx=sealing()).items[:-1] == [
        Reasoning(content=["Hm."], id="a"),
        Reasoning(encrypted="foreign", id="b"),
        Reasoning(content=["Oh."], encrypted="sealed:Hm.", id="c"),
        Reasoning(id="d"),
    ]


# --- replies ---------------------------------------------------------------------------------


def answer(*texts: str, stop: StopReason = StopReason.STOP) -> Response:
    refusal = Message(Role.ASSISTANT, [Refusal("no")])
    said = [Message(Role.ASSISTANT, [Text(text)]) for text in texts]
    return Response("c", "m", 5, [Reasoning(content=["Hm."]), *said, refusal], stop)


def test_a_reply_holds_the_sealed_summary_alone() -> None:
    ctx = sealing()
    asked = request(QUESTION, TRIGGER, ctx=ctx)
    body = CODEC.write_response(answer(" It ", "rained. "), asked, ctx)
    assert body["status"] == "completed"
    assert body["output"] == [
        {"id": "cmp_1", "type": "compaction", "encrypted_content": "sealed:It rained."}
    ]


@pytest.mark.parametrize(
    "response", [answer(), answer("  "), answer("It rained, and", stop=StopReason.LENGTH)]
)
def test_a_reply_without_a_whole_summary_is_a_fault(response: Response) -> None:
    ctx = sealing()
    asked = request(QUESTION, TRIGGER, ctx=ctx)
    with pytest.raises(UpstreamProtocolError, match="no whole summary"):
        CODEC.write_response(response, asked, ctx)


def test_a_stream_holds_the_compaction_alone() -> None:
    ctx = sealing()
    writer = CODEC.writer(request(QUESTION, TRIGGER, ctx=ctx), ctx)
    events: list[Event] = [
        ResponseStart("c", "m", 5),
        ItemStart(0, Message(Role.ASSISTANT, [])),
        TextDelta(0, "It rained."),
        ItemEnd(0),
        ResponseEnd(StopReason.STOP),
    ]
    pieces = [writer.feed(event) for event in events]
    assert pieces[1:-1] == [b"", b"", b""]
    frames = SSEDecoder().feed(b"".join(pieces))
    assert [frame.event for frame in frames] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.output_item.done",
        "response.completed",
        None,
    ]
    compaction = {"id": "cmp_1", "type": "compaction", "encrypted_content": "sealed:It rained."}
    assert decode(frames[2].data)["item"] == compaction
    assert decode(frames[3].data)["item"] == compaction
    assert decode(frames[4].data)["response"]["output"] == [compaction]


def test_the_stream_of_a_compaction_counts_tokens_and_lives() -> None:
    ctx = sealing()
    writer = CODEC.writer(request(QUESTION, TRIGGER, ctx=ctx), ctx)
    writer.feed(ResponseStart("c", "m", 5))
    assert b"response.in_progress" in writer.heartbeat()


def test_a_compaction_that_fails_says_so() -> None:
    ctx = sealing()
    writer = CODEC.writer(request(QUESTION, TRIGGER, ctx=ctx), ctx)
    writer.feed(ResponseStart("c", "m", 5))
    assert b"response.failed" in writer.feed(ResponseFailed(ErrorInfo("No.")))


def test_a_stream_without_a_compaction_passes() -> None:
    ctx = sealing()
    writer = CODEC.writer(request(QUESTION, ctx=ctx), ctx)
    writer.feed(ResponseStart("c", "m", 5))
    assert b"output_item.added" in writer.feed(ItemStart(0, Message(Role.ASSISTANT, [])))
