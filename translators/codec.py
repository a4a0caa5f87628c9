"""What a dialect offers to the rest: its readers and writers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from translators.canonical import Request, Response
from translators.context import Context
from translators.dialect import Dialect
from translators.errors import ErrorInfo
from translators.events import Event
from translators.sse import Frame
from translators.wire import JSON


class StreamReader(Protocol):
    """Reads an upstream's frames into events."""

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

    def heartbeat(self) -> bytes:
        """A frame that means nothing but that the stream is alive."""


@dataclass(frozen=True)
class Codec:
    """One dialect.

    Attributes:
        dialect: Its name.
        path: Its path below the API root.
        params: Canonical request members -> the dialect's, where the names differ.
        read_request: Caller's body -> canonical request.
        write_request: Canonical request -> upstream's body.
        read_response: Upstream's reply -> canonical reply.
        write_response: Canonical reply -> caller's reply.
        read_error: Status and body of an upstream's error -> canonical error.
        write_error: Canonical error -> caller's body.
        reader: Makes a reader for one stream.
        writer: Makes a writer for one stream.
    """

    dialect: Dialect
    path: str
    params: Mapping[str, str]
    read_request: Callable[[dict[str, JSON], Context], Request]
    write_request: Callable[[Request, Context], dict[str, JSON]]
    read_response: Callable[[dict[str, JSON], Context], Response]
    write_response: Callable[[Response, Request, Context], dict[str, JSON]]
    read_error: Callable[[int, bytes], ErrorInfo]
    write_error: Callable[[ErrorInfo], dict[str, JSON]]
    reader: Callable[[Context], StreamReader]
    writer: Callable[[Request, Context], StreamWriter]
