"""The table of ``translators.events``: what is legal, and what it folds to."""

import pytest

from translators.canonical import (
    Message,
    Part,
    Reasoning,
    Refusal,
    Role,
    Status,
    StopReason,
    Text,
    ToolCall,
    Usage,
)
from translators.errors import ErrorInfo
from translators.events import (
    AlternativeEvent,
    AnnotationAdded,
    ArgumentsDelta,
    Assembler,
    Event,
    IllegalEvent,
    ItemEnd,
    ItemStart,
    PartEnd,
    ReasoningDelta,
    RefusalDelta,
    ResponseEnd,
    ResponseFailed,
    ResponseStart,
    State,
    TextDelta,
    UsageUpdate,
    fold,
)
from translators.unfold import unfold

BEGIN = ResponseStart("resp_1", "m", 5)
END = ResponseEnd(StopReason.STOP)
FAILED = ResponseFailed(ErrorInfo("No."))
USAGE = UsageUpdate(Usage(1, 2, 3))


def message(index: int = 0) -> ItemStart:
    return ItemStart(index, Message(Role.ASSISTANT, []))


def call(index: int = 0) -> ItemStart:
    return ItemStart(index, ToolCall("call_a", "f", ""))


def thought(index: int = 0) -> ItemStart:
    return ItemStart(index, Reasoning())


@pytest.mark.parametrize(
    "events",
    [
        [message()],
        [USAGE],
        [END],
        [BEGIN, BEGIN],
        [BEGIN, END, END],
        [BEGIN, END, message()],
        [BEGIN, END, USAGE],
        [BEGIN, END, FAILED],
        [BEGIN, FAILED, FAILED],
        [BEGIN, FAILED, END],
        [FAILED, BEGIN],
        [BEGIN, message(), END],
        [BEGIN, message(), message()],
        [BEGIN, message(), ItemEnd(0), message()],
        [BEGIN, TextDelta(0, "x")],
        [BEGIN, ItemEnd(0)],
        [BEGIN, PartEnd(0)],
        [BEGIN, message(), ItemEnd(0), TextDelta(0, "x")],
        [BEGIN, message(), ItemEnd(0), ItemEnd(0)],
        [BEGIN, message(), ArgumentsDelta(0, "x")],
        [BEGIN, message(), ReasoningDelta(0, "x")],
        [BEGIN, message(), AnnotationAdded(0, {})],
        [BEGIN, call(), TextDelta(0, "x")],
        [BEGIN, call(), RefusalDelta(0, "x")],
        [BEGIN, call(), AnnotationAdded(0, {})],
        [BEGIN, thought(), TextDelta(0, "x")],
        [BEGIN, message(), FAILED, TextDelta(0, "x")],
        [AlternativeEvent(1, BEGIN)],
        [BEGIN, AlternativeEvent(1, message())],
        [BEGIN, AlternativeEvent(1, BEGIN), END],
        [BEGIN, END, AlternativeEvent(1, BEGIN)],
    ],
)
def test_illegal_orders(events: list[Event]) -> None:
    """All but the last event are legal."""
    assembler = Assembler()
    for event in events[:-1]:
        assembler.feed(event)
    with pytest.raises(IllegalEvent):
        assembler.feed(events[-1])


def test_text_refusal_and_parts() -> None:
    """The kind of part follows the kind of delta; PartEnd begins a new one of the same kind."""
    response = fold(
        [
            BEGIN,
            message(),
            TextDelta(0, "a", [1]),
            TextDelta(0, "b", [2]),
            AnnotationAdded(0, {"type": "x"}),
            PartEnd(0),
            TextDelta(0, "c"),
            RefusalDelta(0, "d"),
            ItemEnd(0),
            END,
        ]
    )
    parts: list[Part] = [Text("ab", [{"type": "x"}], [1, 2]), Text("c"), Refusal("d")]
    assert [Message(Role.ASSISTANT, parts)] == response.output


def test_reasoning_and_its_summary() -> None:
    response = fold(
        [
            BEGIN,
            thought(),
            ReasoningDelta(0, "a"),
            ReasoningDelta(0, "b"),
            ReasoningDelta(0, "c", summary=True),
            PartEnd(0),
            ReasoningDelta(0, "d", summary=True),
            ItemEnd(0),
            END,
        ]
    )
    assert [Reasoning(content=["ab"], summary=["c", "d"])] == response.output


def test_several_open_calls() -> None:
    response = fold(
        [
            BEGIN,
            call(0),
            call(1),
            ArgumentsDelta(1, "{"),
            ArgumentsDelta(0, "["),
            ArgumentsDelta(1, "}"),
            ItemEnd(1),
            ArgumentsDelta(0, "]"),
            ItemEnd(0, Status.INCOMPLETE),
            USAGE,
            ResponseEnd(StopReason.LENGTH, "length", {"x": 1}),
        ]
    )
    first = ToolCall("call_a", "f", "[]", status=Status.INCOMPLETE)
    assert [first, ToolCall("call_a", "f", "{}")] == response.output
    assert (
        response.stop,
        response.raw_stop,
        response.extra,
    ) == (StopReason.LENGTH, "length", {"x": 1})
    assert Usage(1, 2, 3) == response.usage


def test_a_call_may_start_with_arguments() -> None:
    call = ToolCall("c", "f", '{"x":')
    events: list[Event] = [BEGIN, ItemStart(0, call), ArgumentsDelta(0, " 1}"), ItemEnd(0)]
    (folded,) = fold(events).output
    assert isinstance(folded, ToolCall)
    assert folded.arguments == '{"x": 1}'


def test_failure_keeps_what_was_said() -> None:
    assembler = Assembler()
    for event in (BEGIN, message(), TextDelta(0, "Hi"), FAILED):
        assembler.feed(event)
    assert State.FAILED is assembler.state
    assert [Message(Role.ASSISTANT, [Text("Hi")])] == assembler.response.output
    assert ErrorInfo("No.") == assembler.response.error


def test_failure_before_the_start() -> None:
    assert ErrorInfo("No.") == fold([FAILED]).error


def test_the_last_usage_counts() -> None:
    events: list[Event] = [BEGIN, USAGE, UsageUpdate(Usage(1, 5, 6)), END]
    assert Usage(1, 5, 6) == fold(events).usage


def test_unfold_is_the_inverse_of_fold() -> None:
    response = fold(
        [
            BEGIN,
            thought(0),
            ReasoningDelta(0, "a"),
            ReasoningDelta(0, "b", summary=True),
            ItemEnd(0),
            message(1),
            TextDelta(1, "c", [1]),
            AnnotationAdded(1, {"type": "x"}),
            RefusalDelta(1, "d"),
            ItemEnd(1),
            call(2),
            ArgumentsDelta(2, "{}"),
            ItemEnd(2),
            call(3),
            ItemEnd(3, Status.INCOMPLETE),
            USAGE,
            END,
        ]
    )
    assert response == fold(unfold(response))
