"""Chunks of a Chat upstream as events."""

import pytest

from tests.translators.streams import context, frame
from translators.canonical import Message, Reasoning, Role, Status, StopReason, ToolCall, ToolKind
from translators.chat.reader import ChatReader
from translators.context import Context
from translators.errors import ErrorInfo, UpstreamProtocolError
from translators.events import (
    AnnotationAdded,
    ArgumentsDelta,
    Event,
    ItemEnd,
    ItemStart,
    ReasoningDelta,
    RefusalDelta,
    ResponseEnd,
    ResponseFailed,
    ResponseStart,
    TextDelta,
)
from translators.profiles import ThinkTags
from translators.sse import Frame
from translators.wire import JSON

DONE = Frame(None, b"[DONE]")


def chunk(delta: JSON, finish: str | None = None, **members: JSON) -> Frame:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, **members}
    return frame({"id": "c", "model": "m", "created": 5, "choices": [choice]})


def read(*frames: Frame, ctx: Context | None = None) -> list[Event]:
    """Events of a stream but for its start, which all of them have."""
    reader = ChatReader(ctx or context())
    events = [event for one in frames for event in reader.feed(one)] + reader.finish()
    assert isinstance(events[0], ResponseStart)
    return events[1:]


def call(index: int | None, name: str = "", arguments: str = "", call_id: str = "") -> JSON:
    """A delta with one fragment of a call."""
    body = {"name": name, "arguments": arguments}
    entry: JSON = {"function": {k: v for k, v in body.items() if v}}
    if index is not None:
        entry["index"] = index
    if call_id:
        entry["id"] = call_id
    return {"tool_calls": [entry]}


def starts(events: list[Event]) -> list[tuple[int, str, str]]:
    """Calls that begin: item index, call id and name."""
    return [
        (event.index, event.item.call_id, event.item.name)
        for event in events
        if isinstance(event, ItemStart) and isinstance(event.item, ToolCall)
    ]


def arguments(events: list[Event]) -> dict[int, str]:
    """Arguments of calls by item index."""
    texts: dict[int, str] = {}
    for event in events:
        if isinstance(event, ArgumentsDelta):
            texts[event.index] = texts.get(event.index, "") + event.text
    return texts


# --- beginning and end -----------------------------------------------------------------------


def test_the_start_is_the_first_chunks() -> None:
    reader = ChatReader(context())
    assert reader.feed(chunk({})) == [ResponseStart("c", "m", 5)]


def test_a_start_without_id_model_and_time() -> None:
    reader = ChatReader(context())
    assert reader.feed(frame({"choices": []})) == [ResponseStart("chatcmpl_1", "", 7)]


def test_nothing_follows_an_error() -> None:
    """An error's parameter is named as the caller's dialect will know it."""
    reader = ChatReader(context())
    body = {"error": {"message": "too long", "type": "invalid_request_error", "param": "messages"}}
    error = ErrorInfo("too long", 502, "invalid_request_error", None, "items")
    assert reader.feed(frame(body)) == [ResponseFailed(error)]
    assert reader.feed(chunk({"content": "late"})) == []
    assert reader.finish() == []


def test_a_stream_that_breaks_off_fails_once() -> None:
    reader = ChatReader(context())
    reader.feed(chunk({"content": "a"}))
    [failed] = reader.finish()
    assert isinstance(failed, ResponseFailed)
    assert (failed.error.status, failed.error.code) == (502, "upstream_stream_truncated")
    assert reader.feed(chunk({"content": "b"})) == []
    assert reader.finish() == []


def test_the_end_keeps_the_upstreams_own_words() -> None:
    """The ``finish_reason`` as it came, and the vendor members of all levels."""
    ending = read(chunk({"content": "a", "mood": "calm"}, "eos", stop_token=9))[-1]
    assert ending == ResponseEnd(StopReason.STOP, "eos", {"stop_token": 9, "mood": "calm"})


def test_only_the_first_choice_is_read() -> None:
    choices = [{"index": 1, "delta": {"content": "b"}}, {"index": 0, "delta": {"content": "a"}}]
    assert TextDelta(0, "a") in read(frame({"choices": choices}), DONE)
    assert TextDelta(0, "b") not in read(frame({"choices": choices}), DONE)


# --- messages and reasoning ------------------------------------------------------------------


def test_a_whole_message_instead_of_a_delta() -> None:
    """Some servers stream ``message``, as in a whole reply."""
    choice = {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}
    assert TextDelta(0, "a") in read(frame({"choices": [choice]}))


def test_content_that_is_a_list_of_parts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text"}, {"type": "text", "text": "c"}]
    assert TextDelta(0, "ac") in read(chunk({"content": parts}, "stop"))


def test_a_refusal_has_its_log_probs() -> None:
    probs = [{"token": "no", "logprob": -1.0}]
    frames = chunk({"refusal": "no"}, "stop", logprobs={"content": None, "refusal": probs})
    assert RefusalDelta(0, "no", probs) in read(frames)


def test_a_citation_ahead_of_all_text_has_a_part_to_stand_in() -> None:
    citation = {"type": "url_citation", "url_citation": {"url": "u"}}
    assert read(chunk({"annotations": [citation]}, "stop"))[:3] == [
        ItemStart(0, Message(Role.ASSISTANT, [])),
        TextDelta(0, ""),
        AnnotationAdded(0, {"type": "url_citation", "url": "u"}),
    ]


def test_reasoning_stays_one_item_until_something_else_begins() -> None:
    frames = [chunk({"reasoning": "a"}), chunk({"reasoning": "b"}), chunk({"content": "c"}, "stop")]
    assert read(*frames)[:-2] == [
        ItemStart(0, Reasoning()),
        ReasoningDelta(0, "a"),
        ReasoningDelta(0, "b"),
        ItemEnd(0),
        ItemStart(1, Message(Role.ASSISTANT, [])),
        TextDelta(1, "c"),
    ]


def test_items_are_numbered_in_their_order() -> None:
    frames = [
        chunk({"reasoning": "a"}),
        chunk({"content": "b"}),
        chunk({"reasoning": "c"}),
        chunk(call(0, "f", "{}", "x")),
        chunk(call(1, "g", "{}", "y"), "tool_calls"),
    ]
    events = read(*frames)
    indexes = [event.index for event in events if isinstance(event, ItemStart)]
    assert indexes == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kept", ["<thi", "a</thin"])
def test_what_may_be_a_tag_is_given_at_the_end(kept: str) -> None:
    tags = ThinkTags.TAGS if kept.startswith("<") else ThinkTags.OPENED
    events = read(chunk({"content": kept}), DONE, ctx=context(think_tags=tags))
    deltas = [e.text for e in events if isinstance(e, TextDelta | ReasoningDelta)]
    assert "".join(deltas) == kept


@pytest.mark.parametrize("text", [" \n", "<thi"])
def test_what_may_be_a_tag_is_text_before_a_call(text: str) -> None:
    ctx = context(think_tags=ThinkTags.TAGS)
    ctx.token_ids = True  # blank text counts
    frames = [chunk({"content": text}), chunk(call(0, "f", "{}", "x"), "tool_calls"), DONE]
    events = read(*frames, ctx=ctx)
    assert [type(e.item) for e in events if isinstance(e, ItemStart)] == [Message, ToolCall]
    assert [e.text for e in events if isinstance(e, TextDelta)] == [text]


def test_split_reasoning_stays_one_item() -> None:
    ctx = context(think_tags=ThinkTags.OPENED)
    events = read(chunk({"content": "a"}), chunk({"content": "b</think>c"}, "stop"), ctx=ctx)
    assert [e.item for e in events if isinstance(e, ItemStart)] == [
        Reasoning(),
        Message(Role.ASSISTANT, []),
    ]


def test_blank_text_between_calls_begins_no_message() -> None:
    frames = [
        chunk(call(0, "f", "{}", "x")),
        chunk({"content": "\n"}),
        chunk(call(1, "g", "{}", "y"), "tool_calls"),
    ]
    assert not any(isinstance(event, TextDelta) for event in read(*frames))


# --- calls -----------------------------------------------------------------------------------


def test_a_declared_name_is_announced_at_once() -> None:
    reader = ChatReader(context("weather"))
    reader.feed(chunk({}))
    assert starts(reader.feed(chunk(call(0, "weather", call_id="x")))) == [(0, "x", "weather")]


def test_a_name_that_may_go_on_is_not_announced() -> None:
    reader = ChatReader(context("get", "get_time"))
    reader.feed(chunk({}))
    assert reader.feed(chunk(call(0, "get", call_id="x"))) == []
    assert starts(reader.feed(chunk(call(0, "_time")))) == [(0, "x", "get_time")]


def test_calls_without_arguments_are_numbered_when_the_stream_ends() -> None:
    frames = [
        chunk({"content": "a"}),
        chunk(call(0, "f", call_id="x")),
        chunk(call(1, "g", call_id="y")),
        chunk(call(2, "h", call_id="z"), "tool_calls"),
    ]
    events = read(*frames)
    assert starts(events) == [(1, "x", "f"), (2, "y", "g"), (3, "z", "h")]
    assert arguments(events) == {1: "{}", 2: "{}", 3: "{}"}
    assert events.index(ItemEnd(0)) < min(
        place for place, event in enumerate(events) if event == ArgumentsDelta(1, "{}")
    )


def test_a_call_without_arguments_at_the_limit_is_whole() -> None:
    """Its arguments are the empty object, so the limit did not cut it."""
    ctx = context()
    ctx.output_limit = 9
    usage = frame({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 9}})
    events = read(chunk(call(0, "f", call_id="x"), "tool_calls"), usage, DONE, ctx=ctx)
    assert ItemEnd(0, Status.COMPLETED) in events
    assert isinstance(events[-1], ResponseEnd)
    assert events[-1].stop is StopReason.TOOL_CALLS


def test_ids_tell_calls_without_an_index_apart() -> None:
    frames = [
        chunk(call(None, "f", '{"a"', "x")),
        chunk(call(None, "g", '{"b"', "y")),
        chunk(call(None, arguments=":1}", call_id="x")),
        chunk(call(None, arguments=":2}", call_id="y"), "tool_calls"),
    ]
    events = read(*frames)
    assert starts(events) == [(0, "x", "f"), (1, "y", "g")]
    assert arguments(events) == {0: '{"a":1}', 1: '{"b":2}'}


def test_a_new_id_without_an_index_begins_a_call() -> None:
    frames = [
        chunk(call(None, "f", call_id="x")),
        chunk(call(None, "f", call_id="y"), "tool_calls"),
    ]
    assert starts(read(*frames)) == [(0, "x", "f"), (1, "y", "f")]


def test_only_complete_calls_are_closed_as_another_begins() -> None:
    """The first is still half, so it stays open; the second is closed."""
    frames = [
        chunk(call(0, "f", '{"a"', "x")),
        chunk(call(1, "g", "{}", "y")),
        chunk(call(2, "h", "{}", "z")),
        chunk(call(0, arguments=":1}"), "tool_calls"),
    ]
    events = read(*frames)
    ended = [event.index for event in events if isinstance(event, ItemEnd)]
    assert ended == [1, 0, 2]
    assert arguments(events)[0] == '{"a":1}'


def test_calls_that_became_complete_together_are_all_closed() -> None:
    frames = [
        chunk(call(0, "f", '{"a"', "x")),
        chunk(call(1, "g", '{"b"', "y")),
        chunk(call(0, arguments=":1}")),
        chunk(call(1, arguments=":2}")),
        chunk(call(2, "h", "{", "z")),
    ]
    reader = ChatReader(context())
    events = [event for one in frames for event in reader.feed(one)]
    assert [event for event in events if isinstance(event, ItemEnd)] == [ItemEnd(0), ItemEnd(1)]


def test_a_call_that_is_closed_cannot_go_on() -> None:
    reader = ChatReader(context())
    reader.feed(chunk(call(0, "f", "{}", "x")))
    reader.feed(chunk(call(1, "g", "{", "y")))
    with pytest.raises(UpstreamProtocolError, match="call of 'f'"):
        reader.feed(chunk(call(0, arguments="{}")))


def test_only_the_last_call_is_cut_by_the_limit() -> None:
    frames = [chunk(call(0, "f", "{", "x")), chunk(call(1, "g", "{", "y"), "length")]
    events = read(*frames)
    assert [event for event in events if isinstance(event, ItemEnd)] == [
        ItemEnd(0, Status.COMPLETED),
        ItemEnd(1, Status.INCOMPLETE),
    ]


def test_a_message_after_the_calls_is_what_the_limit_cuts() -> None:
    frames = [chunk(call(0, "f", "{", "x")), chunk({"content": "and"}, "length")]
    events = read(*frames)
    assert [event for event in events if isinstance(event, ItemEnd)] == [
        ItemEnd(0, Status.COMPLETED),
        ItemEnd(1, Status.INCOMPLETE),
    ]


def test_a_custom_call_is_read_as_such() -> None:
    entries = [
        {"index": 0, "id": "x", "type": "custom", "custom": {"name": "patch", "input": "*** "}},
        {"index": 0, "custom": {"input": "End"}},
    ]
    frames = [chunk({"tool_calls": [entry]}) for entry in entries]
    events = read(*frames, chunk({}, "tool_calls"))
    assert events[:3] == [
        ItemStart(0, ToolCall("x", "patch", "", ToolKind.CUSTOM)),
        ArgumentsDelta(0, "*** "),
        ArgumentsDelta(0, "End"),
    ]


def test_a_custom_call_without_input_is_left_empty() -> None:
    entry = {"index": 0, "id": "x", "type": "custom", "custom": {"name": "patch"}}
    events = read(chunk({"tool_calls": [entry]}, "tool_calls"))
    assert arguments(events) == {}
