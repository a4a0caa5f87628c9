"""Frames of a Responses upstream as events, however little it says."""

import pytest

from tests.translators.streams import context, frame
from translators.canonical import Message, Reasoning, Role, Status, StopReason, ToolCall, ToolKind
from translators.errors import UpstreamProtocolError
from translators.events import (
    AnnotationAdded,
    ArgumentsDelta,
    Event,
    ItemEnd,
    ItemStart,
    PartEnd,
    ReasoningDelta,
    RefusalDelta,
    ResponseEnd,
    ResponseFailed,
    ResponseStart,
    TextDelta,
)
from translators.responses.reader import ResponsesReader
from translators.sse import Frame
from translators.wire import JSON

MESSAGE = Message(Role.ASSISTANT, [])
CREATED = frame(
    {"type": "response.created", "response": {"id": "r", "model": "m", "created_at": 5}}
)


def event(kind: str, **members: JSON) -> Frame:
    return frame({"type": f"response.{kind}", **members})


def added(index: int | None, item: JSON) -> Frame:
    members = {"item": item} if index is None else {"item": item, "output_index": index}
    return event("output_item.added", **members)


def done(index: int | None, item: JSON) -> Frame:
    members = {"item": item} if index is None else {"item": item, "output_index": index}
    return event("output_item.done", **members)


def text(delta: str, index: int | None = 0) -> Frame:
    members = {} if index is None else {"output_index": index}
    return event("output_text.delta", delta=delta, **members)


def completed(*output: JSON, **members: JSON) -> Frame:
    return event("completed", response={"status": "completed", "output": [*output], **members})


def said(*texts: str, **members: JSON) -> JSON:
    content = [{"type": "output_text", "text": text} for text in texts]
    return {"type": "message", "role": "assistant", "content": content, **members}


def read(*frames: Frame) -> list[Event]:
    """Events of a stream after its start."""
    reader = ResponsesReader(context())
    events = [event for one in (CREATED, *frames) for event in reader.feed(one)]
    assert events[0] == ResponseStart("r", "m", 5)
    return events[1:]


# --- beginning and end -----------------------------------------------------------------------


def test_a_stream_without_a_beginning() -> None:
    [start] = ResponsesReader(context()).feed(event("in_progress", response={}))
    assert start == ResponseStart("resp_1", "", 7)


def test_the_name_of_the_frame_stands_in_for_the_type() -> None:
    reader = ResponsesReader(context())
    body = {"delta": "a", "output_index": 0}
    assert TextDelta(0, "a") in reader.feed(frame(body, "response.output_text.delta"))


@pytest.mark.parametrize(
    "body",
    [
        {"type": "error", "message": "no", "code": "server_error"},
        {"error": {"message": "no"}},
        {"detail": "no"},
    ],
)
def test_nothing_follows_an_error(body: JSON) -> None:
    reader = ResponsesReader(context())
    [failed] = reader.feed(frame(body))
    assert isinstance(failed, ResponseFailed)
    assert failed.error.message == "no"
    assert reader.feed(text("late")) == []
    assert reader.finish() == []


def test_a_frame_that_is_not_json_is_the_upstreams_fault() -> None:
    with pytest.raises(UpstreamProtocolError):
        ResponsesReader(context()).feed(Frame(None, b"{"))


def test_a_stream_that_breaks_off_fails_once() -> None:
    reader = ResponsesReader(context())
    reader.feed(CREATED)
    [failed] = reader.finish()
    assert isinstance(failed, ResponseFailed)
    assert (failed.error.status, failed.error.code) == (502, "upstream_stream_truncated")
    assert reader.feed(text("late")) == []
    assert reader.finish() == []


def test_the_end_keeps_the_upstreams_own_words() -> None:
    assert read(completed(said("a"), mood="calm"))[-1] == ResponseEnd(
        StopReason.STOP, "completed", {"mood": "calm"}
    )


# --- items -----------------------------------------------------------------------------------


def test_an_item_that_nobody_announced_begins_with_its_first_delta() -> None:
    assert read(text("a"), text("b"))[:3] == [
        ItemStart(0, MESSAGE),
        TextDelta(0, "a"),
        TextDelta(0, "b"),
    ]


def test_frames_without_an_index_speak_of_the_last_item() -> None:
    frames = [
        added(None, {"type": "reasoning", "summary": []}),
        event("reasoning_text.delta", delta="a"),
        added(None, said()),
        text("b", None),
        event("output_text.annotation.added", annotation={"type": "x"}),
    ]
    assert read(*frames) == [
        ItemStart(0, Reasoning()),
        ReasoningDelta(0, "a"),
        ItemEnd(0),
        ItemStart(1, MESSAGE),
        TextDelta(1, "b"),
        TextDelta(1, ""),
        AnnotationAdded(1, {"type": "x"}),
    ]


def test_a_citation_begins_its_message() -> None:
    frame_ = event("output_text.annotation.added", output_index=3, annotation={"type": "x"})
    assert read(frame_) == [
        ItemStart(0, MESSAGE),
        TextDelta(0, ""),
        AnnotationAdded(0, {"type": "x"}),
    ]


def test_indexes_with_gaps_are_closed_up() -> None:
    assert read(added(4, said()), text("a", 4), done(4, said("a")))[:3] == [
        ItemStart(0, MESSAGE),
        TextDelta(0, "a"),
        ItemEnd(0),
    ]


def test_a_message_ends_where_the_next_item_begins() -> None:
    call = {"type": "function_call", "call_id": "x", "name": "f", "arguments": ""}
    frames = [added(0, said()), text("a"), added(1, call), added(2, call)]
    assert [e for e in read(*frames) if isinstance(e, ItemEnd)] == [ItemEnd(0)]


def test_the_last_event_brings_items_that_no_other_announced() -> None:
    call = {"type": "function_call", "call_id": "x", "name": "f", "arguments": "{}"}
    assert read(added(0, said()), text("a"), completed(said("a"), call))[:-1] == [
        ItemStart(0, MESSAGE),
        TextDelta(0, "a"),
        ItemEnd(0),
        ItemStart(1, ToolCall("x", "f", "")),
        ArgumentsDelta(1, "{}"),
        ItemEnd(1),
    ]


def test_an_item_that_only_its_end_told_of_is_told_once() -> None:
    frames = [done(0, said("a")), done(1, said("b"))]
    repeated = read(*frames, completed(said("a"), said("b")))
    assert repeated[:-1] == read(*frames)
    assert [event.text for event in repeated if isinstance(event, TextDelta)] == ["a", "b"]


def test_the_last_event_completes_items_that_are_open() -> None:
    assert read(added(0, said()), completed(said("a")))[:-1] == [
        ItemStart(0, MESSAGE),
        TextDelta(0, "a"),
        ItemEnd(0),
    ]


def test_what_the_last_event_leaves_out_ends_all_the_same() -> None:
    assert read(added(0, said()), text("a"), completed())[-2] == ItemEnd(0)


@pytest.mark.parametrize("response", [{}, {"status": "completed"}, {"status": None, "output": []}])
def test_a_failed_response_without_an_error_is_a_failure(response: JSON) -> None:
    (failed,) = read(event("failed", response=response))
    assert isinstance(failed, ResponseFailed)
    assert (failed.error.status, failed.error.message) == (502, "The response was failed.")


def test_the_last_events_name_stands_in_for_the_status() -> None:
    assert read(event("incomplete", response={}))[-1] == ResponseEnd(
        StopReason.LENGTH, "incomplete"
    )
    assert read(event("completed", response={}))[-1] == ResponseEnd(StopReason.STOP, "completed")


def test_a_call_without_arguments_has_an_empty_object() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": ""}
    cut = {**call, "status": "incomplete"}
    assert ArgumentsDelta(0, "{}") in read(added(0, call), done(0, call))
    assert not any(isinstance(e, ArgumentsDelta) for e in read(added(0, cut), done(0, cut)))


def test_a_final_item_tells_its_status() -> None:
    final = said("a", status="incomplete")
    assert ItemEnd(0, Status.INCOMPLETE) in read(added(0, said()), text("a"), done(0, final))


def test_encrypted_reasoning_comes_with_the_final_item() -> None:
    item = {"type": "reasoning", "id": "i", "summary": []}
    frames = [added(0, item), done(0, {**item, "encrypted_content": "c"})]
    [start, end] = read(*frames)
    assert start == ItemStart(0, Reasoning(encrypted="c", id="i"))
    assert end == ItemEnd(0)


# --- deltas ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "member", "start", "make"),
    [
        ("output_text", "text", MESSAGE, TextDelta(0, "b")),
        ("refusal", "refusal", MESSAGE, RefusalDelta(0, "b")),
        ("reasoning_text", "text", Reasoning(), ReasoningDelta(0, "b")),
        ("reasoning_summary_text", "text", Reasoning(), ReasoningDelta(0, "b", True)),
    ],
)
def test_what_the_deltas_left_out_comes_with_done(
    kind: str, member: str, start: Message | Reasoning, make: Event
) -> None:
    frames = [
        event(f"{kind}.delta", delta="a", output_index=0),
        event(f"{kind}.done", output_index=0, **{member: "ab"}),
    ]
    events = read(*frames)
    assert events[0] == ItemStart(0, start)
    assert events[2:] == [make]


@pytest.mark.parametrize(
    ("kind", "member", "tool"),
    [
        ("function_call_arguments", "arguments", ToolKind.FUNCTION),
        ("custom_tool_call_input", "input", ToolKind.CUSTOM),
    ],
)
def test_a_call_that_nobody_announced(kind: str, member: str, tool: ToolKind) -> None:
    frame_ = event(f"{kind}.done", item_id="x", name="f", output_index=0, **{member: "{}"})
    assert read(frame_) == [
        ItemStart(0, ToolCall("x", "f", "", tool)),
        ArgumentsDelta(0, "{}"),
    ]


def test_a_call_waits_for_its_name() -> None:
    call = {"type": "function_call", "call_id": "x", "name": "", "arguments": ""}
    final = {**call, "name": "f", "arguments": "{}"}
    delta = event("function_call_arguments.delta", delta="{", item_id="i", output_index=0)
    named = event("function_call_arguments.done", name="f", arguments="{}", output_index=0)
    expected = [ItemStart(0, ToolCall("x", "f", "")), ArgumentsDelta(0, "{}")]
    assert read(added(0, call), delta, named) == expected
    assert read(added(0, call), delta, done(0, final)) == [*expected, ItemEnd(0)]
    assert read(added(0, call), delta, completed(final))[:-1] == [*expected, ItemEnd(0)]
    assert read(delta, done(0, final)) == [*expected, ItemEnd(0)]


def test_a_call_that_is_never_named_is_the_upstreams_fault() -> None:
    call = {"type": "function_call", "call_id": "x", "name": "f", "arguments": "{}"}
    for member in ("name", "call_id"):
        unready = {**call, member: ""}
        with pytest.raises(UpstreamProtocolError, match="the call has no name or no call_id"):
            read(added(0, unready), done(0, unready))


def test_a_call_waits_for_its_id() -> None:
    final = {"type": "function_call", "call_id": "x", "name": "f", "arguments": "{}"}
    named = event("function_call_arguments.done", name="f", arguments="{}", output_index=0)
    events = read(added(0, {**final, "call_id": ""}), named, done(0, final))
    assert events == [ItemStart(0, ToolCall("x", "f", "")), ArgumentsDelta(0, "{}"), ItemEnd(0)]


def test_the_rest_of_arguments_comes_with_the_final_item() -> None:
    call = {"type": "function_call", "call_id": "x", "name": "f"}
    frames = [
        added(0, {**call, "arguments": ""}),
        event("function_call_arguments.delta", delta='{"a"', output_index=0),
        done(0, {**call, "arguments": '{"a":1}'}),
    ]
    assert read(*frames)[1:] == [ArgumentsDelta(0, '{"a"'), ArgumentsDelta(0, ":1}"), ItemEnd(0)]


def test_parts_are_counted_each_on_its_own() -> None:
    """The second part's ``done`` knows nothing more than its own delta."""
    part = {"type": "output_text", "text": ""}
    frames = [
        added(0, said()),
        event("content_part.added", output_index=0, part=part),
        text("long"),
        event("content_part.added", output_index=0, part=part),
        text("b"),
        event("output_text.done", output_index=0, text="b"),
        event("output_text.done", output_index=0, text="bc"),
    ]
    assert read(*frames)[1:] == [
        TextDelta(0, "long"),
        PartEnd(0),
        TextDelta(0, "b"),
        TextDelta(0, "c"),
    ]


def test_parts_of_items_that_are_not_there_are_passed_over() -> None:
    part = {"type": "output_text", "text": ""}
    assert read(event("content_part.added", part=part)) == []
    frames = [added(0, said()), text("a"), done(0, said("a"))]
    again = event("content_part.added", output_index=0, part=part)
    assert read(*frames, again, again) == read(*frames)


def test_log_probs_come_with_their_text() -> None:
    probs = [{"token": "a"}]
    frame_ = event("output_text.delta", delta="a", output_index=0, logprobs=probs)
    assert read(frame_)[1] == TextDelta(0, "a", probs)


def test_log_probs_may_come_without_text() -> None:
    probs = [{"token": ""}]
    frame_ = event("output_text.delta", delta="", output_index=0, logprobs=probs)
    assert read(frame_)[1] == TextDelta(0, "", probs)


def test_nothing_is_added_to_an_item_that_has_ended() -> None:
    frames = [added(0, said()), text("a"), done(0, said("a"))]
    late = [
        text("b"),
        event("output_text.annotation.added", output_index=0, annotation={}),
        done(0, said("ab")),
    ]
    assert read(*frames, *late) == read(*frames)


def test_token_ids_of_an_item_that_is_done_come_with_its_end() -> None:
    ids: JSON = {
        "prompt_token_ids": [1],
        "generation_token_ids": [2],
        "generation_log_probs": [-0.5],
    }
    events = read(added(0, said()), text("a"), done(0, said("a", **ids)))
    assert events[-1] == ItemEnd(0, extra=ids)
