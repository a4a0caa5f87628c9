"""A stream's translation: the upstream's bytes in, the caller's bytes out."""

from collections.abc import Iterable, Sequence
from contextlib import suppress

from translators.canonical import Usage
from translators.codec import StreamReader, StreamWriter
from translators.envelope import info_of
from translators.errors import ErrorInfo, TranslationError, UpstreamProtocolError
from translators.events import DeltaRun, Event, ResponseEnd, ResponseFailed, UsageUpdate
from translators.sse import Frame, SSEDecoder

_OF_THE_WHOLE = frozenset({UsageUpdate, ResponseEnd, ResponseFailed})


class StreamTranslator:
    """Joins a decoder, a reader and a writer.

    Attributes:
        failure: Why the stream failed, once it has.
        usage: Token counts, once they are known.
        is_over: Whether the terminal event has been written.
    """

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._decoder = SSEDecoder()
        self._reader = reader
        self._writer = writer
        self.failure: ErrorInfo | None = None
        self.usage: Usage | None = None
        self.is_over = False

    def feed(self, chunk: bytes) -> bytes:
        """The frames that a piece of the upstream's stream makes possible, in one piece."""
        try:
            frames = self._decoder.feed(chunk)
        except TranslationError as error:
            return self.fail(info_of(error))
        run = self._reader.read_run(frames)
        if run is not None and len(run.texts) == len(frames) and not self.is_over:
            return self._writer.write_run(run)
        return self._read(frames, run)

    def finish(self) -> bytes:
        """The frames that remain when the upstream's stream has ended.

        A last frame without its blank line counts if it can be read; else it was cut.
        """
        out = b""
        with suppress(UpstreamProtocolError):
            for frame in self._decoder.finish():
                out += self._write(self._reader.feed(frame))
        if self.is_over:
            return out
        try:
            return out + self._write(self._reader.finish())
        except TranslationError as error:
            return out + self.fail(info_of(error))

    def fail(self, error: ErrorInfo) -> bytes:
        """The frames that tell the caller of a failure; none after the end."""
        return self._write([ResponseFailed(error)])

    def replay(self, events: Iterable[Event]) -> bytes:
        """The frames of a reply that came whole."""
        return self._write(events)

    def heartbeat(self) -> bytes:
        """A frame that means nothing but that the stream is alive; none after the end."""
        return b"" if self.is_over else self._writer.heartbeat()

    def _read(self, frames: Sequence[Frame], run: DeltaRun | None) -> bytes:
        """The frames that others make possible, of which the first may be a run."""
        out = []
        while not self.is_over:
            if run is not None:
                out.append(self._writer.write_run(run))
                frames = frames[len(run.texts) :]
            if not frames:
                break
            try:
                out.append(self._write(self._reader.feed(frames[0])))
            except TranslationError as error:
                out.append(self.fail(info_of(error)))
            frames = frames[1:]
            run = self._reader.read_run(frames)
        return b"".join(out)

    def _write(self, events: Iterable[Event]) -> bytes:
        out = []
        for event in events:
            if self.is_over:
                break
            out.append(self._writer.feed(event))
            if type(event) in _OF_THE_WHOLE:
                self._note(event)
        return b"".join(out)

    def _note(self, event: Event) -> None:
        match event:
            case UsageUpdate(usage=usage):
                self.usage = usage
            case ResponseEnd():
                self.is_over = True
            case ResponseFailed(error=error):
                self.is_over = True
                self.failure = error
