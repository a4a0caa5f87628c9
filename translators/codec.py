"""What a dialect offers to the rest: its readers and writers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from translators.canonical import Request, Response
from translators.context import Context
from translators.dialect import Dialect
from translators.errors import ErrorInfo
from translators.events import DeltaRun, Event
from translators.sse import Frame
from translators.wire import JSON


class StreamReader(Protocol):
    """Reads an upstream's frames into events."""

    def read_run(self, frames: Sequence[Frame]) -> DeltaRun | None:
        """The deltas of which the first of these frames consist, one text for each frame.

        ``None`` if the very first frame has to be fed.
        """
        return None

    def feed(self, frame: Frame) -> list[Event]:
        """Events of one frame.

        Raises:
            UpstreamProtocolError: The frame breaks the dialect's schema.
        """

    def finish(self) -> list[Event]:
        """Events of the end of the bytes; a failure if the stream is not whole."""


class StreamWriter(Protocol):
    """Writes events as a caller's frames."""

    def feed(self, event: Event) -> bytes:
        """The frames of one event, possibly none."""

    def write_run(self, run: DeltaRun) -> bytes:
        """The frames of deltas that came at a time."""
        return b"".join([self.feed(event) for event in run.events()])

    def heartbeat(self) -> bytes:
        """A frame that means nothing but that the stream is alive."""


def never_plain(body: bytes, ctx: Context) -> Response | None:
    """No reply, for dialects in which none is read without being decoded first."""
    return None


@dataclass(frozen=True, kw_only=True)
class UpstreamCodec:
    """One dialect, as it is spoken to an upstream.

    Attributes:
        dialect: Its name.
        path: Its path below the API root.
        write_request: Canonical request -> upstream's body.
        read_response: Upstream's reply -> canonical reply.
        read_plain: JSON text of an upstream's reply -> canonical reply, or ``None`` if it has to
            be decoded for ``read_response``.
        read_error: Status and body of an upstream's error -> canonical error.
        reader: Makes a reader for one stream.
    """

    dialect: Dialect
    path: str
    write_request: Callable[[Request, Context], dict[str, JSON]]
    read_response: Callable[[dict[str, JSON], Context], Response]
    read_error: Callable[[int, bytes], ErrorInfo]
    reader: Callable[[Context], StreamReader]
    read_plain: Callable[[bytes, Context], Response | None] = never_plain


@dataclass(frozen=True, kw_only=True)
class Codec(UpstreamCodec):
    """One dialect that callers speak as well.

    Attributes:
        params: Canonical request members -> the dialect's, where the names differ.
        read_request: Caller's body -> canonical request.
        write_response: Canonical reply -> caller's reply.
        write_error: Canonical error -> caller's body.
        writer: Makes a writer for one stream.
    """

    params: Mapping[str, str]
    read_request: Callable[[dict[str, JSON], Context], Request]
    write_response: Callable[[Response, Request, Context], dict[str, JSON]]
    write_error: Callable[[ErrorInfo], dict[str, JSON]]
    writer: Callable[[Request, Context], StreamWriter]
