"""A pair of connected sockets between a worker and its owner, one for each.

On them go frames: four bytes with the length of a message, most significant first, and the message
in MessagePack.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final, Generic, TypeVar, cast

import msgspec

_LENGTH_BYTES: Final = 4

T = TypeVar("T")


class Channel(asyncio.Protocol, Generic[T]):
    """One end of a channel, on an event loop."""

    def __init__(
        self, read: Callable[[bytes], T], receive: Callable[[T], None], lost: Callable[[], None]
    ) -> None:
        """Make an end that is not connected.

        Args:
            read: Decodes a message.
            receive: Is called with each message.
            lost: Is called once, when the other end is gone.
        """
        self._read = read
        self._receive = receive
        self._lost = lost
        self._begun = b""
        self._transport: asyncio.WriteTransport | None = None

    async def connect(self, sock: socket.socket) -> None:
        """Use a socket, which is owned from now on."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self, sock=sock)

    def send(self, message: msgspec.Struct) -> None:
        """Send a message; if the other end is gone nobody hears it."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame(message))

    def close(self) -> None:
        """Close this end; may be called again."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        data = self._begun + data
        at = 0
        while (body := at + _LENGTH_BYTES) <= len(data):
            end = body + int.from_bytes(data[at:body])
            if end > len(data):
                break
            self._receive(self._read(data[body:end]))
            at = end
        self._begun = data[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self._lost()


def frame(message: msgspec.Struct) -> bytes:
    """The bytes of a message on a channel."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(_LENGTH_BYTES) + body


def receive_first(sock: socket.socket) -> bytes:
    """The first message on a blocking socket, not decoded, and not a byte more.

    Raises:
        EOFError: The other end is gone.
    """
    return _receive_exactly(sock, int.from_bytes(_receive_exactly(sock, _LENGTH_BYTES)))


def _receive_exactly(sock: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        data = sock.recv(size - len(received))
        if not data:
            raise EOFError
        received += data
    return received
