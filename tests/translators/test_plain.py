"""Plain replies and runs of deltas, read and written at once, say what they say in full."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from proxy import corpus
from tests import cases
from tests.translators.streams import context
from translators import CODECS
from translators.canonical import Message, Reasoning, Request, Response, Role, ToolCall, ToolKind
from translators.chat.reader import ChatReader
from translators.chat.writer import ChatWriter
from translators.codec import StreamReader, StreamWriter
from translators.context import Context
from translators.dialect import Dialect
from translators.errors import TranslationError, UpstreamProtocolError
from translators.events import (
    ArgumentsDelta,
    DeltaRun,
    Event,
    ItemStart,
    PartEnd,
    ReasoningDelta,
    RefusalDelta,
    ResponseStart,
    RunKind,
    TextDelta,
)
from translators.profiles import ChatReasoning, Policy, ReasoningAs, ThinkTags
from translators.responses.reader import ResponsesReader
from translators.responses.writer import ResponsesWriter
from translators.sse import Frame
from translators.translation import Translation
from translators.wire import JSON, decode_object, encode

CHOICE: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": None}
CHUNK: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
}
CALL: dict[str, Any] = {"index": 0, "id": "call_1", "function": {"name": "f", "arguments": "{"}}


def chunk(delta: JSON, **choice: Any) -> dict[str, Any]:
    return {**CHUNK, "choices": [{**CHOICE, "delta": delta, **choice}]}


def arguments(text: JSON, **entry: Any) -> dict[str, Any]:
    return chunk({"tool_calls": [{"index": 0, "function": {"arguments": text}, **entry}]})


TEXT = chunk({"content": "one"})
THOUGHT = chunk({"reasoning": "one"})
ARGUMENTS = chunk({"tool_calls": [CALL]})


def frame(body: JSON) -> Frame:
    return Frame(None, encode(body))


def chat(first: JSON, **profile: Any) -> ChatReader:
    """A reader that has read this chunk."""
    reader = ChatReader(context("f", "g", **profile))
    reader.feed(frame(first))
    return reader


def run_of(reader: StreamReader, *bodies: JSON) -> list[Event] | None:
    run = reader.read_run([frame(body) for body in bodies])
    return None if run is None else run.events()


def one_by_one(reader: StreamReader, *bodies: JSON) -> list[Event]:
    return [event for body in bodies for event in reader.feed(frame(body))]


AGAIN = [
    *(
        (TEXT, chunk({"content": text}))
        for text in ("two", '"', "\\", "\u2028", "😀", "a" * 10_000)
    ),
    (TEXT, chunk({"content": "a", "role": "assistant", "tool_calls": [], "refusal": None})),
    (TEXT, {**chunk({"content": "a"}, token_ids=None), "usage": None, "obfuscation": "x"}),
    (TEXT, {"choices": [{"delta": {"content": "a"}}]}),
    (THOUGHT, chunk({"reasoning": "a"})),
    (THOUGHT, chunk({"reasoning": "a", "reasoning_content": "a", "content": None})),
    (THOUGHT, chunk({"reasoning_content": "b", "content": ""})),
    (ARGUMENTS, arguments("}")),
    (ARGUMENTS, arguments("}", id=None, type="function")),
]


@pytest.mark.parametrize(("first", "body"), AGAIN)
def test_more_of_the_same_is_a_run(first: JSON, body: JSON) -> None:
    run = run_of(chat(first), body, body)
    assert run == one_by_one(chat(first), body, body)
    assert run is not None and len(run) == 2


def test_escaped_text_is_the_same_text() -> None:
    data = encode(TEXT).replace(b'"one"', b'"\\u00e9\\/"')
    run = chat(TEXT).read_run([Frame(None, data)])
    assert run is not None
    assert run.texts == ["é/"]


OTHERS = [
    {**TEXT, "usage": {"prompt_tokens": 1}},
    {**TEXT, "prompt_token_ids": [1]},
    {**TEXT, "error": {"message": "No."}},
    {**TEXT, "choices": []},
    {**TEXT, "choices": TEXT["choices"] * 2},
    chunk({"content": "a"}, index=1),
    chunk({"content": "a"}, finish_reason="stop"),
    chunk({"content": "a"}, logprobs={"content": [{}]}),
    chunk({"content": "a"}, token_ids=[]),
    chunk({"content": ""}),
    chunk({"content": None}),
    chunk({"content": [{"type": "text", "text": "a"}]}),
    chunk({"content": "a", "reasoning": "b"}),
    chunk({"content": "a", "refusal": "no"}),
    chunk({"content": "a", "annotations": [{}]}),
    chunk({"content": "a", "vendor": 0}),
    chunk({"content": "a", "tool_calls": [CALL]}),
    chunk({"reasoning": "a", "vendor": 0}),
    chunk({"reasoning": "", "reasoning_content": None}),
    arguments("a", id="call_2"),
    arguments("a", index=1),
    arguments("a", custom={"input": "a"}),
    arguments({}),
    arguments(""),
    chunk({"tool_calls": [{"index": 0, "function": {"name": "g", "arguments": "{"}}]}),
    chunk({"tool_calls": [CALL, CALL]}),
    chunk({"tool_calls": [CALL], "vendor": 0}),
]


@pytest.mark.parametrize("first", [TEXT, THOUGHT, ARGUMENTS])
@pytest.mark.parametrize("body", OTHERS)
def test_anything_else_is_read_one_by_one(first: JSON, body: JSON) -> None:
    assert run_of(chat(first), body) is None
    assert run_of(chat(first), first, body) == run_of(chat(first), first)


@pytest.mark.parametrize(
    "data", [encode(TEXT)[:-1], encode(TEXT).replace(b"one", b"\xff"), b"[DONE]", b""]
)
def test_what_is_no_chunk_is_read_one_by_one(data: bytes) -> None:
    assert chat(TEXT).read_run([Frame(None, data)]) is None


def test_a_named_frame_is_read_one_by_one() -> None:
    assert chat(TEXT).read_run([Frame("error", encode(TEXT))]) is None


@pytest.mark.parametrize(
    ("first", "body"), [(TEXT, THOUGHT), (THOUGHT, TEXT), (TEXT, arguments("a")), (ARGUMENTS, TEXT)]
)
def test_another_kind_is_read_one_by_one(first: JSON, body: JSON) -> None:
    assert run_of(chat(first), body) is None


@pytest.mark.parametrize(
    "first",
    [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": " "}),
        chunk({"refusal": "no"}),
        chunk({"content": "a"}, finish_reason="stop"),
    ],
)
def test_there_is_a_run_only_after_a_delta(first: JSON) -> None:
    reader = chat(first)
    events = one_by_one(chat(first), TEXT)
    assert (run_of(reader, TEXT) or one_by_one(reader, TEXT)) == events


def test_no_run_after_the_end() -> None:
    reader = chat(TEXT)
    reader.feed(frame(chunk({}, finish_reason="stop")))
    reader.feed(Frame(None, b"[DONE]"))
    assert run_of(reader, TEXT) is None


def test_logprobs_that_wait_for_a_text_are_not_left_behind() -> None:
    reader = chat(TEXT)
    reader.feed(frame(chunk({}, logprobs={"content": [{"token": "a"}]})))
    assert run_of(reader, TEXT) is None


def test_text_that_may_hold_a_tag_is_read_one_by_one() -> None:
    inside = chat(chunk({"content": "<think>a"}), think_tags=ThinkTags.TAGS)
    assert run_of(inside, TEXT) is None
    after = chat(chunk({"content": "<think>a</think>b"}), think_tags=ThinkTags.TAGS)
    assert run_of(after, TEXT) is not None


def test_a_stream_without_plain_chunks_is_not_tried_for_ever() -> None:
    reader = chat(TEXT)
    body = chunk({"content": "a", "vendor": 0})
    for _ in range(100):
        assert run_of(reader, body) is None
        reader.feed(frame(body))
    assert run_of(reader, TEXT) is None


# --- a Responses upstream --------------------------------------------------------------------


def delta(kind: str, text: str = "a", **members: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}.delta", "output_index": 0, "delta": text, **members}


SAID = delta("output_text", item_id="msg_1", content_index=0, sequence_number=4, logprobs=[])
ADDED = {
    "type": "response.output_item.added",
    "output_index": 0,
    "item": {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": ""},
}


def responses(*bodies: JSON) -> ResponsesReader:
    """A reader that has read these frames."""
    reader = ResponsesReader(context())
    one_by_one(reader, *bodies)
    return reader


@pytest.mark.parametrize(
    ("before", "body"),
    [
        ([SAID], {**SAID, "sequence_number": 5, "obfuscation": "x"}),
        ([delta("reasoning_text")], delta("reasoning_text", "b")),
        ([ADDED, delta("function_call_arguments")], delta("function_call_arguments", "b")),
    ],
)
def test_more_of_the_same_from_responses(before: list[JSON], body: JSON) -> None:
    whole = {"type": "response.output_item.done", "output_index": 0, "item": {"type": "x"}}
    reader, other = responses(*before), responses(*before)
    assert run_of(reader, body, body) == one_by_one(other, body, body) != []
    assert [i.sent for i in reader._items.values()] == [i.sent for i in other._items.values()]
    reader.feed(frame(whole))
    assert run_of(reader, body) is None


@pytest.mark.parametrize(
    "body",
    [
        {**SAID, "output_index": 1},
        {**SAID, "logprobs": [{"token": "a", "logprob": 0.0}]},
        {**SAID, "delta": ""},
        {**SAID, "delta": None},
        {**SAID, "vendor": 0},
        delta("reasoning_text"),
        delta("refusal"),
        {"type": "response.output_text.delta", "delta": "a"},
        {"type": "error", "message": "No."},
    ],
)
def test_anything_else_from_responses_is_read_one_by_one(body: JSON) -> None:
    assert run_of(responses(SAID), body) is None
    assert run_of(responses(SAID), SAID, body) == run_of(responses(SAID), SAID)


def test_a_responses_stream_without_plain_deltas_is_not_tried_for_ever() -> None:
    reader = responses(SAID)
    for _ in range(100):
        assert run_of(reader, {**SAID, "vendor": 0}) is None
        reader.feed(frame(SAID))
    assert run_of(reader, SAID) is None


# --- writers ---------------------------------------------------------------------------------

START = ResponseStart("c", "m%s", 5)
MESSAGE = ItemStart(0, Message(Role.ASSISTANT, []))
THINKING = ItemStart(0, Reasoning())
CUSTOM = ItemStart(0, ToolCall("x", "g", "", ToolKind.CUSTOM))
SHELL = ItemStart(0, ToolCall("x", "g", "", ToolKind.SHELL))
CALLS: list[Event] = [ItemStart(i, ToolCall(f"c{i}", "f", "")) for i in (0, 1)]

BEFORE: list[tuple[RunKind, list[Event]]] = [
    (TextDelta, [MESSAGE, TextDelta(0, "a")]),
    (TextDelta, [MESSAGE, TextDelta(0, "a", [{"token": "a"}])]),
    (TextDelta, [MESSAGE, TextDelta(0, "a"), RefusalDelta(0, "no")]),
    (TextDelta, [MESSAGE, TextDelta(0, "a"), PartEnd(0)]),
    (ReasoningDelta, [THINKING, ReasoningDelta(0, "a")]),
    (ReasoningDelta, [THINKING, ReasoningDelta(0, "a"), PartEnd(0)]),
    (ReasoningDelta, [THINKING, ReasoningDelta(0, "a", True)]),
    (ReasoningDelta, [THINKING, ReasoningDelta(0, "a"), ReasoningDelta(0, "b", True)]),
    (ArgumentsDelta, [CUSTOM, ArgumentsDelta(0, "a")]),
    (ArgumentsDelta, [SHELL, ArgumentsDelta(0, "a")]),
    (ArgumentsDelta, [*CALLS, ArgumentsDelta(0, "a")]),
    (ArgumentsDelta, [*CALLS[::-1], ArgumentsDelta(0, "a")]),
]


@pytest.mark.parametrize("reasoning_as", ReasoningAs)
@pytest.mark.parametrize("make", [ChatWriter, ResponsesWriter])
@pytest.mark.parametrize(("kind", "before"), BEFORE)
def test_a_run_is_written_like_its_deltas(
    make: Callable[[Request, Context], StreamWriter],
    kind: RunKind,
    before: list[Event],
    reasoning_as: ReasoningAs,
) -> None:
    policy = Policy(reasoning_as=reasoning_as, chat_reasoning=ChatReasoning.BOTH)
    run = DeltaRun(kind, 0, ["b", '"\u2028', "c"])
    last = kind(0, "d")
    events = [START, *before, *run.events(), last]
    writer = make(Request("m", []), context(policy=policy))
    expected = [writer.feed(deepcopy(event)) for event in events]
    writer = make(Request("m", []), context(policy=policy))
    written = [writer.feed(deepcopy(event)) for event in [START, *before]]
    written += [writer.write_run(run), writer.feed(last)]
    assert b"".join(expected) == b"".join(written)


# --- whole replies ---------------------------------------------------------------------------

REPLIES = [
    pytest.param(case, id=case.id) for case in cases.CASES if (case.folder / corpus.REPLY).exists()
]
MESSAGE_BODY: dict[str, Any] = {"role": "assistant", "content": "a", "refusal": None}
REPLY: dict[str, Any] = {
    **CHUNK,
    "choices": [{**CHOICE, "message": MESSAGE_BODY, "finish_reason": "stop"}],
}


def reply(message: JSON, **choice: Any) -> dict[str, Any]:
    return {**REPLY, "choices": [{**REPLY["choices"][0], "message": message, **choice}]}


@pytest.mark.parametrize("case", REPLIES)
def test_a_reply_from_its_text(case: corpus.Case) -> None:
    """It is the one that it is from its members, or as wrong."""

    def outcome(read: Callable[[Translation], Response]) -> Response | TranslationError:
        try:
            return read(case.begin())
        except TranslationError as error:
            return error

    text = case.read(corpus.REPLY)
    found = outcome(lambda translation: translation.read(text))
    expected = outcome(
        lambda translation: translation.upstream.read_response(
            decode_object(text, UpstreamProtocolError), translation.ctx
        )
    )
    if isinstance(expected, TranslationError):
        assert (type(found), str(found)) == (type(expected), str(expected))
    else:
        assert found == expected


@pytest.mark.parametrize(
    "body",
    [
        REPLY,
        {**REPLY, "usage": {"prompt_tokens": 1, "completion_tokens": 2, "vendor": 3}},
        {**REPLY, "service_tier": None, "prompt_logprobs": None, "kv_transfer_params": None},
        reply(MESSAGE_BODY, stop_reason=None, token_ids=None),
        reply(MESSAGE_BODY, finish_reason="length", logprobs={"content": [{"token": "a"}]}),
        reply({**MESSAGE_BODY, "reasoning": "b", "annotations": [{"type": "x"}]}),
        reply({"content": None, "tool_calls": [{**CALL, "type": "function"}]}),
        reply({"content": [{"type": "text", "text": "a"}]}),
    ],
)
def test_a_plain_reply(body: JSON) -> None:
    found = CODECS[Dialect.CHAT].read_plain(encode(body), context("f"))
    assert found is not None
    assert found == CODECS[Dialect.CHAT].read_response(body, context("f"))


@pytest.mark.parametrize(
    "body",
    [
        {**REPLY, "system_fingerprint": "fp"},
        {**REPLY, "prompt_token_ids": [1]},
        {**REPLY, "error": {"message": "No."}},
        {**REPLY, "choices": REPLY["choices"] * 2},
        {**REPLY, "choices": []},
        {"error": {"message": "No."}},
        {"detail": "No."},
        reply(MESSAGE_BODY, stop_reason=2),
        reply({**MESSAGE_BODY, "generation_token_ids": [1]}),
        reply({**MESSAGE_BODY, "vendor": 0}),
        reply(None),
        [],
    ],
)
def test_any_other_reply_is_read_in_full(body: JSON) -> None:
    assert CODECS[Dialect.CHAT].read_plain(encode(body), context("f")) is None


def test_a_plain_reply_is_utf8_throughout() -> None:
    body = encode({**REPLY, "usage": {"prompt_tokens": 1, "vendor": "x"}})
    assert CODECS[Dialect.CHAT].read_plain(body, context()) is not None
    assert CODECS[Dialect.CHAT].read_plain(body.replace(b"x", b"\xff"), context()) is None


def test_a_delta_belongs_to_the_item_that_was_announced_last() -> None:
    writer = ChatWriter(Request("m", []), context())
    for event in (START, CALLS[0], ArgumentsDelta(0, "a"), CALLS[0]):
        writer.feed(event)
    run = DeltaRun(ArgumentsDelta, 0, ["b"])
    assert b'"tool_calls":[{"index":1,' in writer.write_run(run)
