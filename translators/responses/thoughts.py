"""Reasoning that a Responses upstream leaves in its text.

Servers without a reasoning parser leave it at both of their endpoints. A block at the beginning of
the first message becomes a reasoning item before it, in streams as it comes.
"""

from collections.abc import Iterable

import msgspec

from translators.canonical import Item, Message, Reasoning, Text
from translators.codec import StreamReader
from translators.context import Context
from translators.events import (
    AnnotationAdded,
    Event,
    ItemEnd,
    ItemEvent,
    ItemStart,
    ReasoningDelta,
    TextDelta,
)
from translators.profiles import ThinkTags
from translators.sse import Frame
from translators.think import ThinkSplitter, split
from translators.token_ids import carried, carry
from translators.wire import JSON


def split_thoughts(output: list[Item], ctx: Context) -> list[Item]:
    """The items of a reply, with the reasoning taken out of the first message."""
    if ctx.profile.think_tags is ThinkTags.OFF:
        return output
    for place, item in enumerate(output):
        if isinstance(item, Message):
            return [*output[:place], *_split_message(item, ctx), *output[place + 1 :]]
    return output


def _split_message(message: Message, ctx: Context) -> list[Item]:
    match message.parts:
        case [Text() as text, *others]:
            is_open = ctx.profile.think_tags is ThinkTags.OPENED
            thought, answer = split(text.text, is_open=is_open, is_json=ctx.wants_json)
            if not thought:
                said = [msgspec.structs.replace(text, text=answer), *others]
                return [msgspec.structs.replace(message, parts=said)]
            if not answer and not others:
                thoughts = Reasoning(content=[thought], status=message.status)
                carry(thoughts, carried(message))
                return [thoughts]
            said = [msgspec.structs.replace(text, text=answer), *others] if answer else others
            return [Reasoning(content=[thought]), msgspec.structs.replace(message, parts=said)]
    return [message]


class ThoughtReader(StreamReader):
    """Reads a stream whose first message may begin with reasoning.

    Indexes from that message's on are one higher than the reader's, so that there is one for the
    reasoning.
    """

    def __init__(self, reader: StreamReader, ctx: Context) -> None:
        """Make a reader for one stream out of one that reads the text as it is."""
        self._reader = reader
        is_open = ctx.profile.think_tags is ThinkTags.OPENED
        self._splitter: ThinkSplitter | None = ThinkSplitter(
            is_open=is_open, is_json=ctx.wants_json
        )
        self._index: int | None = None
        self._message: ItemStart | None = None
        self._is_thinking = False
        self._logprobs: list[JSON] = []

    def feed(self, frame: Frame) -> list[Event]:
        """Events of one frame.

        Raises:
            UpstreamProtocolError: The frame breaks the dialect's schema.
        """
        return self._turn(self._reader.feed(frame))

    def finish(self) -> list[Event]:
        """Events of the end of the bytes; a failure if the stream is not whole."""
        return self._turn(self._reader.finish())

    def _turn(self, events: list[Event]) -> list[Event]:
        return [turned for event in events for turned in self._turn_one(event)]

    def _turn_one(self, event: Event) -> list[Event]:
        if not isinstance(event, ItemEvent):
            return [event]
        if self._index is None and isinstance(event, ItemStart) and isinstance(event.item, Message):
            self._index = event.index
            self._message = event  # held back until it says something
            return []
        if self._index is None or event.index < self._index:
            return [event]
        if self._splitter is None or event.index > self._index:
            return [_shifted(event)]
        if isinstance(event, TextDelta):
            self._logprobs += event.logprobs
            return self._split(self._splitter.feed(event.text))
        return self._split(self._splitter.finish()) + self._go_on(event)

    def _split(self, pieces: Iterable[tuple[bool, str]]) -> list[Event]:
        assert self._index is not None
        events: list[Event] = []
        for is_thought, piece in pieces:
            if piece and is_thought:
                if not self._is_thinking:
                    self._is_thinking = True
                    events.append(ItemStart(self._index, Reasoning()))
                events.append(ReasoningDelta(self._index, piece))
            elif piece:
                events += self._begin_message()
                events.append(TextDelta(self._index + 1, piece, self._logprobs))
                self._logprobs = []
        return events

    def _begin_message(self) -> list[Event]:
        """The start of the message, unless it has started; the reasoning ends before it."""
        self._splitter = None
        events: list[Event] = []
        if self._is_thinking:
            assert self._index is not None
            events.append(ItemEnd(self._index))
        if self._message is not None:
            events.append(_shifted(self._message))
            self._message = None
        return events

    def _go_on(self, event: ItemEvent) -> list[Event]:
        """What is no text, when the text before it has been split."""
        if isinstance(event, ItemEnd) and self._is_thinking:
            self._splitter = self._message = None
            return [event]
        events = self._begin_message()
        if isinstance(event, AnnotationAdded):
            events.append(TextDelta(event.index + 1, ""))
        return [*events, _shifted(event)]


def _shifted(event: ItemEvent) -> Event:
    return msgspec.structs.replace(event, index=event.index + 1)
