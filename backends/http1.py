"""One HTTP/1.1 connection to an upstream: an asyncio protocol around the httptools parser.

Spec: RFC 9112; framing is the parser's business, which is the one of Node.js.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Final, cast

import httptools
import httpx

from backends.base import Take

HIGH_WATER_BYTES: Final = 256 * 1024
"""So much of a body may wait for its reader before the socket is left unread."""

LONGEST_HEAD_BYTES: Final = 256 * 1024
"""So many bytes may come without a reply's head being complete."""

_JOIN_BELOW: Final = 64 * 1024  # a larger body is not copied to join it to its head


class Connection(asyncio.Protocol):
    """A connection that carries one exchange at a time.

    The reader of an exchange looks at the state, and calls ``wait`` when there is nothing for it.

    Attributes:
        idle_since_s: Loop time at which the last exchange ended.
        is_lost: Whether it is closed.
        is_silent: Whether no byte of the reply has come.
        head_done: Whether ``status`` and ``headers`` are those of the reply.
        complete: Whether all of the body has come.
        error: Why the exchange failed.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_lost: Callable[["Connection"], None]
    ) -> None:
        """Make a protocol; ``on_lost`` is told when the connection is closed."""
        self.idle_since_s = 0.0
        self.is_lost = False
        self._loop = loop
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[Awaitable[None] | None] | None = None
        self._take: Take | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline_s = 0.0
        self._timeout_s: float | None = None
        self._is_paused = False
        self._reset()

    def _reset(self) -> None:
        self.is_busy = False
        self.is_silent = True
        self.head_done = False
        self.complete = False
        self.error: httpx.TransportError | None = None
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._keeps_alive = False
        self._is_framed = False  # the reply's end is told by its framing, not by EOF
        self._head_bytes = 0
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._begun_s = 0.0

    # --- the exchange ----------------------------------------------------------------------

    def begin(self, head: bytes, body: bytes, timeout_s: float | None) -> None:
        """Send a request; ``timeout_s`` is the longest silence before or inside the reply."""
        assert self._transport is not None
        self._reset()
        self.is_busy = True
        self._begun_s = self._loop.time()
        self._timeout_s = timeout_s
        if len(body) < _JOIN_BELOW:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    async def wait(self, take: Take | None = None) -> Awaitable[None] | None:
        """Return after the next read of the socket, or when the exchange failed.

        With ``take`` it gets what the reads bring of the body, in the callback that reads. Then
        this returns what it wants to be waited for, and when there is nothing more to read.

        Raises:
            Exception: What ``take`` raised.
        """
        if self._timeout_s is not None:
            self._deadline_s = self._loop.time() + self._timeout_s
            if self._timer is None:  # one timer for many waits: it is moved on when it fires
                self._timer = self._loop.call_at(self._deadline_s, self._check_deadline)
        self._waiter = self._loop.create_future()
        self._take = take
        try:
            return await self._waiter
        finally:
            self._waiter = self._take = None

    def busy_s(self) -> float:
        """Seconds since the exchange began."""
        return self._loop.time() - self._begun_s

    def take(self) -> bytes:
        """The body's bytes that have come since the last call; empty when there are none."""
        parts = self._parts
        if not parts:
            return b""
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._parts_bytes = 0
        self._resume()
        return data

    def end(self) -> bool:
        """Finish the exchange; whether the connection can carry another one."""
        if not self.is_busy:
            return False
        self._parts = []
        self.headers = []
        if self._can_go_on():
            self.is_busy = False
            self.idle_since_s = self._loop.time()
            self._resume()
            return True
        self.abort()
        return False

    def abort(self) -> None:
        """Close the connection now; who waits for more of the reply waits no longer."""
        self.is_busy = False
        self.error = None  # its traceback leads back here
        if not self.is_lost and self._transport is not None:
            self._transport.abort()
        self._wake()

    def _can_go_on(self) -> bool:
        if not self.complete or not self._keeps_alive or self.is_lost or self.error is not None:
            return False
        # A server may answer before it has read the request.
        return self._transport is not None and self._transport.get_write_buffer_size() == 0

    def _resume(self) -> None:
        if self._is_paused and not self.is_lost and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()

    def _check_deadline(self) -> None:
        self._timer = None
        if self._waiter is None:
            return
        if self._loop.time() < self._deadline_s - 0.001:
            self._timer = self._loop.call_at(self._deadline_s, self._check_deadline)
            return
        self._fail(httpx.ReadTimeout(f"no data from the upstream for {self._timeout_s:g} s"))

    def _fail(self, error: httpx.TransportError) -> None:
        self.error = self.error or error
        if not self.is_lost and self._transport is not None:
            self._transport.abort()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _give(self, take: Take) -> bool:
        """Give away what has come of the body, unless its reader has been woken up already."""
        waiter = self._waiter
        if not self._parts or waiter is None or waiter.done():
            return False
        try:
            rest = take(self.take())
        except Exception as exc:  # noqa: BLE001 - raised where the reader waits
            waiter.set_exception(exc)
            return True
        if rest is not None:
            waiter.set_result(rest)
        elif self._timeout_s is not None:
            self._deadline_s = self._loop.time() + self._timeout_s
        return True

    # --- asyncio.Protocol ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the connection, and have the kernel ask whether a silent peer still lives."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and give it to its reader or wake it once."""
        if not self.is_busy:  # nobody asked
            self.abort()
            return
        self.is_silent = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._fail(httpx.RemoteProtocolError(f"invalid HTTP reply: {exc}"))
            return
        except httptools.HttpParserUpgrade:
            self._fail(httpx.RemoteProtocolError("invalid HTTP reply: 101, which nobody asked for"))
            return
        if not self.head_done:
            self._head_bytes += len(data)
            if self._head_bytes > LONGEST_HEAD_BYTES:
                self._fail(httpx.RemoteProtocolError("the reply's head is too long"))
            return
        if self._take is not None and self._give(self._take) and not self.complete:
            return
        if self._parts_bytes > HIGH_WATER_BYTES and not self._is_paused and not self.is_lost:
            assert self._transport is not None
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the exchange under way, well if its body ends with the connection."""
        self.is_lost = True
        self._on_lost(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.is_busy or self.complete:
            return
        if self.head_done and not self._is_framed and exc is None and self.error is None:
            self.complete = True  # RFC 9112, 6.3: the body ends with the connection
        elif self.error is None:
            where = "before the reply" if self.is_silent else "inside the reply"
            if exc is None:
                text = f"the upstream closed the connection {where}"
                self.error = httpx.RemoteProtocolError(text)
            else:
                self.error = httpx.ReadError(f"connection broken {where}: {exc}")
        self._wake()

    # --- httptools -------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A reply begins: the one asked for, an informational one before it, or one too many."""
        if self.complete:
            self._keeps_alive = False
            raise httptools.HttpParserError("bytes after the reply")
        self.headers = []
        self._is_framed = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailers are left out."""
        if self.head_done:
            return
        self.headers.append((name, value))
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._is_framed = True

    def on_headers_complete(self) -> None:
        """Take the status, unless the reply is informational and the real one still to come."""
        status = self._parser.get_status_code()
        if status >= 200:
            self.status = status
            self._keeps_alive = self._parser.should_keep_alive()
            self.head_done = True

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body."""
        self._parts.append(body)
        self._parts_bytes += len(body)

    def on_message_complete(self) -> None:
        """The reply is whole, unless it was informational."""
        self.complete = self.head_done
