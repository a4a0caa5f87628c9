"""The translator of a stream, the splitting of thoughts, and replies told as streams."""

import pytest

from translators.canonical import (
    Item,
    Message,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Response,
    Role,
    Status,
    StopReason,
    Text,
    ToolCall,
    ToolKind,
    Usage,
)
from translators.codec import StreamReader, StreamWriter
from translators.dialect import Dialect
from translators.errors import ErrorInfo, UpstreamProtocolError
from translators.events import (
    Event,
    ItemEnd,
    ItemStart,
    ResponseEnd,
    ResponseFailed,
    ResponseStart,
    UsageUpdate,
    fold,
)
from translators.sse import Frame
from translators.stream import StreamTranslator
from translators.think import ThinkSplitter, split
from translators.translation import Translation, random_id
from translators.unfold import unfold
from translators.wire import JSON

END = ResponseEnd(StopReason.STOP)
USAGE = Usage(1, 2, 3)


class ScriptedReader(StreamReader):
    """Gives the events that its frames name; ``bad`` is a frame of a broken schema."""

    def __init__(self, last: list[Event] | None = None) -> None:
        self.last = last

    def feed(self, frame: Frame) -> list[Event]:
        match frame.data:
            case b"start":
                return [ResponseStart("c", "m", 5)]
            case b"usage":
                return [UsageUpdate(USAGE)]
            case b"end":
                return [END, UsageUpdate(Usage(9, 9, 9))]
            case b"fail":
                return [ResponseFailed(ErrorInfo("No."))]
        raise UpstreamProtocolError("Bad frame.")

    def finish(self) -> list[Event]:
        if self.last is None:
            raise UpstreamProtocolError("Bad end.")
        return self.last


class NamingWriter(StreamWriter):
    """Writes the names of events."""

    def feed(self, event: Event) -> bytes:
        match event:
            case ResponseFailed(error=error):
                return f"[{error.message}]".encode()
        return f"[{type(event).__name__}]".encode()

    def heartbeat(self) -> bytes:
        return b"[alive]"


def translator(last: list[Event] | None = None) -> StreamTranslator:
    return StreamTranslator(ScriptedReader(last), NamingWriter())


def frames(*names: str) -> bytes:
    return b"".join(b"data: " + name.encode() + b"\n\n" for name in names)


def test_nothing_is_written_after_the_end() -> None:
    stream = translator([])
    assert (stream.failure, stream.usage, stream.is_over) == (None, None, False)
    assert stream.heartbeat() == b"[alive]"
    body = stream.feed(frames("start", "usage", "end", "bad", "start"))
    assert body == b"[ResponseStart][UsageUpdate][ResponseEnd]"
    assert (stream.failure, stream.usage, stream.is_over) == (None, USAGE, True)
    assert stream.heartbeat() == b""
    assert stream.feed(frames("start")) == b""
    assert stream.fail(ErrorInfo("late")) == b""
    assert stream.finish() == b""


@pytest.mark.parametrize(("name", "message"), [("fail", "No."), ("bad", "Bad frame.")])
def test_a_failure_ends_the_stream_and_is_kept(name: str, message: str) -> None:
    stream = translator([])
    body = stream.feed(frames("start", name, "end"))
    assert body.startswith(b"[ResponseStart][")
    assert body.endswith(f"{message}]".encode())
    assert b"ResponseEnd" not in body
    assert stream.is_over
    assert stream.failure is not None
    assert stream.failure.message.endswith(message)


def test_an_endless_frame_is_a_failure() -> None:
    stream = translator([])
    stream._decoder._limit_bytes = 8
    assert b"exceeds 8 bytes" in stream.feed(b"data: 123456789")
    assert stream.is_over


def test_the_last_frames_blank_line_may_be_missing() -> None:
    stream = translator([END])
    assert stream.feed(b"data: start\n\ndata: usage") == b"[ResponseStart]"
    assert stream.finish() == b"[UsageUpdate][ResponseEnd]"


def test_a_last_frame_that_ends_the_stream() -> None:
    stream = translator([ResponseFailed(ErrorInfo("too late"))])
    assert stream.feed(b"data: end") == b""
    assert stream.finish() == b"[ResponseEnd]"


def test_a_last_frame_that_was_cut_is_passed_over() -> None:
    stream = translator([END])
    stream.feed(b"data: bad")
    assert stream.finish() == b"[ResponseEnd]"


def test_an_end_that_cannot_be_read_is_a_failure() -> None:
    stream = translator()
    stream.feed(b"data: usage")
    assert stream.finish().startswith(b"[UsageUpdate][")
    assert stream.failure is not None
    assert stream.failure.message.endswith("Bad end.")


def test_a_whole_reply_is_replayed() -> None:
    stream = translator()
    assert stream.replay([ResponseStart("c", "m", 5), END]) == b"[ResponseStart][ResponseEnd]"
    assert stream.is_over


# --- whole replies as streams ----------------------------------------------------------------


def test_the_stream_of_a_reply_folds_to_the_reply() -> None:
    parts: list[Part] = [
        Text("a", [{"type": "x"}], [{"token": "a"}]),
        Text("b"),
        Refusal("no", [{"token": "no"}]),
        Refusal("never"),
    ]
    call = ToolCall("x", "f", "{}", ToolKind.CUSTOM, "ns", "fc", Status.INCOMPLETE, {"mood": 1})
    opaque = Opaque(Dialect.RESPONSES, "new", {"type": "new"})
    output: list[Item] = [
        Reasoning(["a", "b"], ["c", "d"], "e", "rs", Status.INCOMPLETE),
        Message(Role.ASSISTANT, parts, "msg", Status.INCOMPLETE, "bot", "final_answer"),
        call,
        ToolCall("y", "g", ""),
        opaque,
    ]
    response = Response("c", "m", 5, output, StopReason.STOP, "eos", USAGE, extra={"mood": 1})
    assert fold(unfold(response)) == response


def test_the_skeletons_of_a_stream_are_empty() -> None:
    said = Message(Role.ASSISTANT, [Text("a")])
    thought = Reasoning(["a"], ["b"])
    call = ToolCall("x", "f", "{}")
    events = unfold(Response("c", "m", 5, [said, thought, call], StopReason.STOP))
    assert [event.item for event in events if isinstance(event, ItemStart)] == [
        Message(Role.ASSISTANT, []),
        Reasoning(),
        ToolCall("x", "f", ""),
    ]
    assert [event.index for event in events if isinstance(event, ItemEnd)] == [0, 1, 2]
    assert (said.parts, thought.content, call.arguments) == ([Text("a")], ["a"], "{}")


def test_vendor_members_come_with_the_end_of_any_item() -> None:
    extra: JSON = {"generation_token_ids": [1]}
    said = Message(Role.ASSISTANT, [Text("a")], extra=extra)
    call = ToolCall("x", "f", "{}", extra=extra)
    events = unfold(Response("c", "m", 5, [said, Reasoning(["a"], extra=extra), call]))
    ends = [event for event in events if isinstance(event, ItemEnd)]
    assert [end.extra for end in ends] == [extra] * 3


def test_a_failed_reply_ends_with_its_error() -> None:
    error = ErrorInfo("No.")
    events = unfold(Response("c", "m", 5, [], error=error))
    assert events == [ResponseStart("c", "m", 5), ResponseFailed(error)]


def test_a_reply_without_an_end_has_none() -> None:
    assert unfold(Response("c", "m", 5, [])) == [ResponseStart("c", "m", 5)]


# --- thoughts in tags ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "is_open", "thought", "answer"),
    [
        ("<think>a</think>b", False, "a", "b"),
        (" \n<think>a</think>b</think>c", False, "a", "b</think>c"),
        ("a</think>b", True, "a", "b"),
        ("a</think>b", False, "", "a</think>b"),
        ("a <think>b</think>", False, "", "a <think>b</think>"),
        ("<think>a", False, "a", ""),
        ("<think>a</thin", False, "a</thin", ""),
        ("a<</think>b", True, "a<", "b"),
        ("<thi", False, "", "<thi"),
        ("  ", False, "", "  "),
        ("a", True, "a", ""),
    ],
)
def test_thoughts_are_split_from_answers(
    text: str, is_open: bool, thought: str, answer: str
) -> None:
    assert split(text, is_open=is_open) == (thought, answer)


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ('{"a": 1}', "", '{"a": 1}'),
        (' \n[1, "</think>"]', "", ' \n[1, "</think>"]'),
        ('a {</think>{"a": 1}', "a {", '{"a": 1}'),
        ("a", "a", ""),
        (" ", " ", ""),
    ],
)
def test_bound_json_holds_no_thought(text: str, thought: str, answer: str) -> None:
    """Where JSON was asked for, what begins as JSON is the answer, however it is cut."""
    assert split(text, is_open=True, is_json=True) == (thought, answer)
    splitter = ThinkSplitter(is_open=True, is_json=True)
    pieces = [piece for character in text for piece in splitter.feed(character)]
    pieces += splitter.finish()
    assert "".join(piece for is_thought, piece in pieces if is_thought) == thought
    assert "".join(piece for is_thought, piece in pieces if not is_thought) == answer


def test_nothing_is_told_twice_at_the_end() -> None:
    splitter = ThinkSplitter(is_open=True)
    assert list(splitter.feed("a</thin")) == [(True, "a")]
    assert list(splitter.finish()) == [(True, "</thin")]
    assert list(splitter.finish()) == [(True, "")]


# --- the front door --------------------------------------------------------------------------


def test_random_ids_have_their_prefix() -> None:
    first, second = random_id("resp"), random_id("resp")
    assert first != second
    assert first.startswith("resp_")
    assert len(first) == len("resp_") + 32


def test_a_request_and_its_reply() -> None:
    translation = Translation.between("responses", "chat", now=lambda: 7.0)
    body = {"model": "m", "input": "q", "stream": True}
    assert translation.request(body, upstream_model="n")["model"] == "n"
    assert translation.is_stream is True
    message: JSON = {"message": {"content": "a"}, "finish_reason": "stop"}
    reply = translation.reply({"choices": [message]})
    assert reply["model"] == "n"
    assert reply["output"][0]["content"][0]["text"] == "a"
    assert reply["created_at"] == 7
