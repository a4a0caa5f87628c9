"""Canonical stream events, their legal order, and their fold into a reply.

| state         | event                                   | next            |
|---------------|-----------------------------------------|-----------------|
| idle          | ResponseStart                           | started         |
| idle, started | ResponseFailed                          | failed          |
| started       | ItemStart(i), i new                     | started, i open |
| started       | a delta or PartEnd of i, i open         | started         |
| started       | ItemEnd(i), i open                      | started         |
| started       | UsageUpdate, AlternativeEvent           | started         |
| started       | ResponseEnd, nothing open               | ended           |
| ended, failed | anything                                | an error        |

Several tool calls may be open at once; a message or reasoning item is closed before the next one.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any

import msgspec

from translators.canonical import (
    Item,
    Message,
    Reasoning,
    Refusal,
    Response,
    Status,
    StopReason,
    Text,
    ToolCall,
    Usage,
)
from translators.errors import ErrorInfo
from translators.wire import JSON


class ResponseStart(msgspec.Struct, gc=False):
    """The upstream began to answer; ``created`` is Unix time in seconds."""

    id: str
    model: str
    created: int


class ItemStart(msgspec.Struct):
    """An item begins; ``item`` is complete but for what the deltas will bring."""

    index: int
    item: Item


class TextDelta(msgspec.Struct):
    """More text of a message, with the log-probs of its tokens if they were asked for."""

    index: int
    text: str
    logprobs: list[JSON] = []


class RefusalDelta(msgspec.Struct):
    """More of a message's refusal."""

    index: int
    text: str
    logprobs: list[JSON] = []


class AnnotationAdded(msgspec.Struct):
    """A citation in a message's current text part, flat as in Responses."""

    index: int
    annotation: JSON


class ReasoningDelta(msgspec.Struct, gc=False):
    """More reasoning, raw or (``summary``) digested."""

    index: int
    text: str
    summary: bool = False


class ArgumentsDelta(msgspec.Struct, gc=False):
    """More of a tool call's arguments."""

    index: int
    text: str


class PartEnd(msgspec.Struct, gc=False):
    """The next delta of this item begins a new part."""

    index: int


class ItemEnd(msgspec.Struct, gc=False):
    """An item is final. ``extra`` holds vendor members that came after the item's start."""

    index: int
    status: Status = Status.COMPLETED
    extra: dict[str, JSON] = {}


class UsageUpdate(msgspec.Struct):
    """Token counts so far; the last one counts."""

    usage: Usage


class ResponseEnd(msgspec.Struct):
    """The reply is whole. ``extra`` holds the vendor members that the stream brought."""

    stop: StopReason
    raw_stop: str | None = None
    extra: dict[str, JSON] = {}


class ResponseFailed(msgspec.Struct):
    """The reply broke off; what was sent before stands."""

    error: ErrorInfo


class AlternativeEvent(msgspec.Struct):
    """An event of a further answer to the same request, which is a stream of its own.

    ``number`` counts such answers from 1. None of them fails by itself.
    """

    number: int
    event: "Event"


Event = (
    ResponseStart
    | ItemStart
    | TextDelta
    | RefusalDelta
    | AnnotationAdded
    | ReasoningDelta
    | ArgumentsDelta
    | PartEnd
    | ItemEnd
    | UsageUpdate
    | AlternativeEvent
    | ResponseEnd
    | ResponseFailed
)
ItemEvent = (
    ItemStart
    | TextDelta
    | RefusalDelta
    | AnnotationAdded
    | ReasoningDelta
    | ArgumentsDelta
    | PartEnd
    | ItemEnd
)


RunKind = type[TextDelta] | type[ReasoningDelta] | type[ArgumentsDelta]
"""Deltas that may come in runs; such reasoning is raw."""


class DeltaRun(msgspec.Struct, gc=False):
    """Deltas of one open item, which has had one of their kind before, with nothing but texts.

    Nearly all events of a stream come in runs. They mean the same as one by one, and cost a third.
    No text is empty.
    """

    kind: RunKind
    index: int
    texts: list[str]

    def events(self) -> list[Event]:
        """The deltas one by one."""
        return [self.kind(self.index, text) for text in self.texts]


class IllegalEvent(Exception):
    """A reader broke the order of events: a fault of ours, never of a peer."""


class State(Enum):
    """Where a stream is in its life."""

    IDLE = "idle"
    STARTED = "started"
    ENDED = "ended"
    FAILED = "failed"


class _Fold:
    """One item being folded: its skeleton, and the pieces that its deltas brought.

    ``fresh`` says that the next delta begins a new part, ``summary`` to which of a reasoning
    item's two lists the pieces belong.
    """

    __slots__ = ("fresh", "is_open", "item", "pieces", "summary")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.is_open = True
        self.fresh = True
        self.summary = False
        self.pieces: list[str] = []


class Assembler:
    """Folds a stream's events into a reply and checks their order.

    ``response`` may be read at any time; texts of open items are joined when the items end.
    """

    def __init__(self) -> None:
        """Make an assembler for one stream."""
        self.state = State.IDLE
        self.response = Response(id="", model="", created=0, output=[])
        self._folds: dict[int, _Fold] = {}
        self._alternatives: dict[int, Assembler] = {}

    def feed(self, event: Event) -> None:
        """Fold one event.

        Raises:
            IllegalEvent: The event may not come now.
        """
        _FEED[type(event)](self, event)

    def go_on(self, run: DeltaRun) -> None:
        """Fold deltas of the kind that the item's last event was of."""
        self._folds[run.index].pieces += run.texts

    def item(self, index: int) -> Item:
        """The item that started with this index, as far as it is folded."""
        return self._folds[index].item

    def _require(self, state: State, event: Event) -> None:
        if self.state is not state:
            raise IllegalEvent(f"{event} while {self.state.value}")

    def _open(self, index: int) -> _Fold:
        fold = self._folds.get(index)
        if fold is None or not fold.is_open or self.state is not State.STARTED:
            raise IllegalEvent(f"item {index} is not open")
        return fold

    def _start(self, event: ResponseStart) -> None:
        self._require(State.IDLE, event)
        self.state = State.STARTED
        self.response.id = event.id
        self.response.model = event.model
        self.response.created = event.created

    def _start_item(self, event: ItemStart) -> None:
        self._require(State.STARTED, event)
        if event.index in self._folds:
            raise IllegalEvent(f"item {event.index} starts twice")
        self._folds[event.index] = _Fold(event.item)
        self.response.output.append(event.item)

    def _add_text(self, event: TextDelta | RefusalDelta) -> None:
        fold = self._open(event.index)
        message = fold.item
        if not isinstance(message, Message):
            raise IllegalEvent(f"{event} does not fit {message}")
        kind = Text if isinstance(event, TextDelta) else Refusal
        last = message.parts[-1] if message.parts else None
        if fold.fresh or not isinstance(last, kind):
            self._flush(fold)
            fold.fresh = False
            last = kind(text="")
            message.parts.append(last)
        fold.pieces.append(event.text)
        last.logprobs.extend(event.logprobs)

    def _add_reasoning(self, event: ReasoningDelta) -> None:
        fold = self._open(event.index)
        if not isinstance(fold.item, Reasoning):
            raise IllegalEvent(f"{event} does not fit {fold.item}")
        texts = fold.item.summary if event.summary else fold.item.content
        if fold.fresh or event.summary is not fold.summary or not texts:
            self._flush(fold)
            if fold.fresh or not texts:
                texts.append("")
            fold.fresh = False
            fold.summary = event.summary
        fold.pieces.append(event.text)

    def _add_arguments(self, event: ArgumentsDelta) -> None:
        fold = self._open(event.index)
        if not isinstance(fold.item, ToolCall):
            raise IllegalEvent(f"{event} does not fit {fold.item}")
        fold.pieces.append(event.text)

    def _add_annotation(self, event: AnnotationAdded) -> None:
        fold = self._open(event.index)
        match fold.item:
            case Message(parts=[*_, Text() as last]):
                last.annotations.append(event.annotation)
            case item:
                raise IllegalEvent(f"{event} does not fit {item}")

    def _end_part(self, event: PartEnd) -> None:
        fold = self._open(event.index)
        self._flush(fold)
        fold.fresh = True

    def _end_item(self, event: ItemEnd) -> None:
        fold = self._open(event.index)
        self._flush(fold)
        fold.is_open = False
        if isinstance(fold.item, Message | Reasoning | ToolCall):
            fold.item.status = event.status
            if event.extra:
                fold.item.extra = {**fold.item.extra, **event.extra}

    def _flush(self, fold: _Fold) -> None:
        if not fold.pieces:
            return
        pieces, fold.pieces = fold.pieces, []
        match fold.item:
            case Message(parts=[*_, Text() | Refusal() as last]):
                last.text = "".join(pieces)
            case Reasoning(summary=summary, content=content):
                texts = summary if fold.summary else content
                texts[-1] += "".join(pieces)
            case ToolCall() as call:
                call.arguments += "".join(pieces)

    def _count(self, event: UsageUpdate) -> None:
        self._require(State.STARTED, event)
        self.response.usage = event.usage

    def _add_alternative(self, event: AlternativeEvent) -> None:
        self._require(State.STARTED, event)
        self._alternatives.setdefault(event.number, Assembler()).feed(event.event)

    def _end(self, event: ResponseEnd) -> None:
        self._require(State.STARTED, event)
        if any(fold.is_open for fold in self._folds.values()):
            raise IllegalEvent("the response ends while an item is open")
        alternatives = [part for _, part in sorted(self._alternatives.items())]
        if any(part.state is not State.ENDED for part in alternatives):
            raise IllegalEvent("the response ends before its alternatives")
        self.state = State.ENDED
        self.response.stop = event.stop
        self.response.raw_stop = event.raw_stop
        self.response.extra = event.extra
        self.response.alternatives = [part.response for part in alternatives]

    def _fail(self, event: ResponseFailed) -> None:
        if self.state not in (State.IDLE, State.STARTED):
            raise IllegalEvent(f"{event} after the end")
        self.state = State.FAILED
        self.response.error = event.error
        for fold in self._folds.values():
            self._flush(fold)


_FEED: dict[type[Event], Callable[[Assembler, Any], None]] = {
    ResponseStart: Assembler._start,
    ItemStart: Assembler._start_item,
    TextDelta: Assembler._add_text,
    RefusalDelta: Assembler._add_text,
    AnnotationAdded: Assembler._add_annotation,
    ReasoningDelta: Assembler._add_reasoning,
    ArgumentsDelta: Assembler._add_arguments,
    PartEnd: Assembler._end_part,
    ItemEnd: Assembler._end_item,
    UsageUpdate: Assembler._count,
    AlternativeEvent: Assembler._add_alternative,
    ResponseEnd: Assembler._end,
    ResponseFailed: Assembler._fail,
}
"""A table, since a match asks for one type after the other: 1 us for the last."""


def fold(events: list[Event]) -> Response:
    """Fold a whole stream's events into a reply.

    Raises:
        IllegalEvent: The events are not in a legal order.
    """
    assembler = Assembler()
    for event in events:
        assembler.feed(event)
    return assembler.response
