"""Stream writers, where goldens say too little."""

import pytest

from tests.translators.streams import context
from translators.canonical import Message, Reasoning, Request, Role, StopReason, ToolCall
from translators.chat.writer import ChatWriter
from translators.context import Context
from translators.errors import ErrorInfo
from translators.events import (
    AnnotationAdded,
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
from translators.profiles import ChatReasoning, Policy
from translators.responses.writer import ResponsesWriter
from translators.sse import SSEDecoder
from translators.wire import JSON, decode

START = ResponseStart("c", "m", 5)
END = ResponseEnd(StopReason.STOP)


def asked() -> Request:
    return Request(model="m", items=[], echo={"store": False})


def bodies(stream: bytes) -> list[JSON]:
    """Bodies of frames but for the end marker."""
    frames = SSEDecoder().feed(stream)
    return [decode(frame.data) for frame in frames if frame.data != b"[DONE]"]


def chunks(*events: Event, ctx: Context | None = None) -> list[JSON]:
    """Choices of the chunks after the first."""
    writer = ChatWriter(asked(), ctx or context())
    stream = b"".join(writer.feed(event) for event in (START, *events))
    return [body["choices"][0] for body in bodies(stream)[1:]]


def thoughts(*events: Event) -> str:
    """The reasoning that a Chat caller gets."""
    ctx = context(policy=Policy(chat_reasoning=ChatReasoning.REASONING))
    deltas = [choice["delta"] for choice in chunks(*events, ctx=ctx)]
    return "".join(delta.get("reasoning", "") for delta in deltas)


def responses(*events: Event) -> list[JSON]:
    writer = ResponsesWriter(asked(), context())
    return bodies(b"".join(writer.feed(event) for event in events))


# --- to Chat callers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "delta", "logprobs"),
    [
        (TextDelta(0, "a"), {"content": "a"}, None),
        (TextDelta(0, "", [1]), {"content": ""}, {"content": [1], "refusal": None}),
        (RefusalDelta(0, "no", [1]), {"refusal": "no"}, {"content": None, "refusal": [1]}),
        (RefusalDelta(0, "no"), {"refusal": "no"}, None),
    ],
)
def test_log_probs_stand_beside_their_delta(event: Event, delta: JSON, logprobs: JSON) -> None:
    [choice] = chunks(ItemStart(0, Message(Role.ASSISTANT, [])), event)[:1]
    assert (choice["delta"], choice["logprobs"]) == (delta, logprobs)


def test_an_empty_delta_is_no_chunk() -> None:
    assert chunks(ItemStart(0, Message(Role.ASSISTANT, [])), TextDelta(0, "")) == []


def test_parts_and_items_of_reasoning_are_parted_by_line_ends() -> None:
    """As in whole replies; what follows the reasoning has nothing to do with it."""
    assert (
        thoughts(
            ItemStart(0, Reasoning()),
            PartEnd(0),
            ReasoningDelta(0, "a"),
            PartEnd(0),
            ReasoningDelta(0, "b"),
            ReasoningDelta(0, "c"),
            ItemEnd(0),
            ItemStart(1, Message(Role.ASSISTANT, [])),
            TextDelta(1, "x"),
            PartEnd(1),
            ItemEnd(1),
            ItemStart(2, Reasoning()),
            ReasoningDelta(2, "d"),
        )
        == "a\nbc\nd"
    )


def test_a_message_between_parts_leaves_reasoning_whole() -> None:
    assert (
        thoughts(
            ItemStart(0, Reasoning()),
            ReasoningDelta(0, "a"),
            ItemStart(1, Message(Role.ASSISTANT, [])),
            PartEnd(1),
            ReasoningDelta(0, "b"),
        )
        == "ab"
    )


def test_of_reasoning_and_its_digest_the_first_is_told() -> None:
    """Each item on its own."""
    assert (
        thoughts(
            ItemStart(0, Reasoning()),
            ReasoningDelta(0, "raw"),
            ReasoningDelta(0, "digest", True),
            ReasoningDelta(0, ""),
            ItemEnd(0),
            ItemStart(1, Reasoning()),
            ReasoningDelta(1, "digest", True),
            ReasoningDelta(1, "raw"),
        )
        == "raw\ndigest"
    )


def test_vendor_members_come_with_the_last_chunk() -> None:
    writer = ChatWriter(asked(), context())
    writer.feed(START)
    [last] = bodies(writer.feed(ResponseEnd(StopReason.STOP, extra={"id": "x", "mood": "calm"})))
    assert (last["id"], last["mood"]) == ("c", "calm")


def test_a_sign_of_life_for_chat_callers_is_a_comment() -> None:
    heartbeat = ChatWriter(asked(), context()).heartbeat()
    assert heartbeat.startswith(b":")
    assert SSEDecoder().feed(heartbeat) == []


# --- to Responses callers --------------------------------------------------------------------


def test_signs_of_life_are_counted_events() -> None:
    """Before the upstream speaks it is the beginning, which then is not repeated."""
    writer = ResponsesWriter(asked(), context())
    first, second = bodies(writer.heartbeat())
    assert (first["type"], second["type"]) == ("response.created", "response.in_progress")
    assert (first["response"]["id"], first["response"]["created_at"]) == ("resp_1", 7)
    assert first["response"]["model"] == "m"
    assert writer.feed(START) == b""
    [third] = bodies(writer.heartbeat())
    assert (third["type"], third["sequence_number"]) == ("response.in_progress", 2)
    assert third["response"] == first["response"]


def test_a_failure_before_the_beginning() -> None:
    created, _, error, failed = responses(ResponseFailed(ErrorInfo("No.")))
    assert created["response"]["created_at"] == 7
    assert error["message"] == "No."
    assert failed["response"]["id"] == created["response"]["id"] == "resp_1"
    assert failed["response"]["model"] == "m"


def test_a_failure_closes_what_is_open() -> None:
    frames = responses(
        START,
        ItemStart(0, Message(Role.ASSISTANT, [])),
        TextDelta(0, "a"),
        ResponseFailed(ErrorInfo("No.")),
    )
    assert [frame["type"] for frame in frames[-5:]] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "error",
        "response.failed",
    ]
    assert frames[-3]["item"]["status"] == "incomplete"
    assert frames[-1]["response"]["output"] == [frames[-3]["item"]]


def test_a_failure_leaves_a_broken_call_out() -> None:
    frames = responses(
        START, ItemStart(0, ToolCall("x", "f", "")), ResponseFailed(ErrorInfo("No."))
    )
    assert frames[-1]["response"]["output"] == []
    assert "response.output_item.done" not in [frame["type"] for frame in frames]


def test_citations_are_counted_within_their_part() -> None:
    frames = responses(
        START,
        ItemStart(0, Message(Role.ASSISTANT, [])),
        TextDelta(0, "a"),
        AnnotationAdded(0, {"n": 1}),
        AnnotationAdded(0, {"n": 2}),
        PartEnd(0),
        TextDelta(0, "b"),
        AnnotationAdded(0, {"n": 3}),
    )
    found = [frame for frame in frames if frame["type"].endswith("annotation.added")]
    assert [(f["content_index"], f["annotation_index"]) for f in found] == [(0, 0), (0, 1), (1, 0)]


def test_raw_reasoning_and_its_digest_are_parts_of_their_own() -> None:
    frames = responses(
        START,
        ItemStart(0, Reasoning()),
        ReasoningDelta(0, "raw"),
        ReasoningDelta(0, "digest", True),
        ItemEnd(0),
        END,
    )
    done = [frame for frame in frames if frame["type"] == "response.reasoning_summary_text.done"]
    assert [(frame["summary_index"], frame["text"]) for frame in done] == [
        (0, "raw"),
        (1, "digest"),
    ]


def test_a_part_ends_once_and_whole() -> None:
    frames = responses(
        START,
        ItemStart(0, Message(Role.ASSISTANT, [])),
        TextDelta(0, "a"),
        PartEnd(0),
        ItemEnd(0),
        END,
    )
    types = [frame["type"] for frame in frames]
    assert types.count("response.content_part.done") == 1
    done = frames[types.index("response.output_text.done")]
    assert done["text"] == "a"
    assert frames[-1]["response"]["output"][0]["content"][0]["text"] == "a"
