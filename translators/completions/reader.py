"""Streams of a Completions upstream: chunks in, events out.

Spec: Completions, "The completion object", with ``stream``.
"""

from collections.abc import Callable

from translators.chat.reader import ChatReader
from translators.codec import StreamReader
from translators.completions import schema
from translators.completions.response import PARAMS, read_choice
from translators.completions.token_ids import Gatherer
from translators.context import Context
from translators.envelope import error_of, is_error
from translators.errors import UpstreamProtocolError
from translators.events import AlternativeEvent, Event, ResponseFailed
from translators.sse import Frame
from translators.wire import JSON, decode, open_as


class CompletionsReader(StreamReader):
    """Reads the upstream's chunks into events, each choice by a Chat reader of its own."""

    def __init__(self, ctx: Context) -> None:
        """Make a reader for one stream."""
        self._ctx = ctx
        self._main = ChatReader(ctx)
        self._gatherer = Gatherer() if ctx.token_ids else None
        self._alternatives: dict[int, ChatReader] = {}
        self._is_over = False

    def feed(self, frame: Frame) -> list[Event]:
        """Events of one frame; none after the end.

        Raises:
            UpstreamProtocolError: The frame is not a chunk, or the last one lacks token ids.
        """
        if self._is_over:
            return []
        if frame.data == b"[DONE]":
            return self._end(lambda reader: reader.feed(frame))
        chunk = decode(frame.data, UpstreamProtocolError)
        if is_error(chunk, "choices") or frame.event == "error":
            self._is_over = True
            return [ResponseFailed(error_of(chunk, 200, PARAMS))]
        wire = open_as(schema.Completion, chunk, "", UpstreamProtocolError)
        return self._read(chunk, wire.choices or [])

    def finish(self) -> list[Event]:
        """Events of the end of the stream; see ``ChatReader.finish``."""
        return [] if self._is_over else self._end(lambda reader: reader.finish())

    def _read(self, chunk: dict[str, JSON], choices: list[JSON]) -> list[Event]:
        """Events of a chunk; what it has beside its choices is the main answer's."""
        read = [
            read_choice(choice, i, "delta", self._ctx, self._gatherer)
            for i, choice in enumerate(choices)
        ]
        main = [choice for index, choice in read if index == 0]
        events = self._main.read({**chunk, "choices": main})
        bare = {name: chunk.get(name) for name in ("id", "created", "model")}
        for index, choice in read:
            if 0 < index < self._ctx.choices:
                reader = self._alternatives.setdefault(index, ChatReader(self._ctx))
                found = reader.read({**bare, "choices": [choice]})
                events += [AlternativeEvent(index, event) for event in found]
        return events

    def _end(self, end: Callable[[ChatReader], list[Event]]) -> list[Event]:
        """Events of the end, the main answer's last; a failure of one choice is the stream's."""
        self._is_over = True
        events: list[Event] = []
        for index, reader in self._alternatives.items():
            events += [AlternativeEvent(index, event) for event in end(reader)]
        events += end(self._main)
        for event in events:
            inner = event.event if isinstance(event, AlternativeEvent) else event
            if isinstance(inner, ResponseFailed):
                return [inner]
        return events
