"""An httpx transport for HTTP/1.1 made of an asyncio protocol and the httptools parser.

The least that such a transport can cost in Python: no thread, no task and no lock; a request is one
write and some waits. A candidate of ``benchmarks.transports``, with the same behaviour as the
transport in use and about half its CPU time, but our own code down to the connection pool.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import Final, cast

import httptools
import httpx

HIGH_WATER: Final = 256 * 1024
"""Bytes of a body that may wait for their reader before the socket is left unread."""

_JOIN_BELOW: Final = 64 * 1024  # larger request bodies are not copied to join them to their head

_Origin = tuple[str, str, int]


class _Connection(asyncio.Protocol):
    """One connection, which carries one exchange at a time."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pool: "AsyncioTransport", origin: _Origin
    ) -> None:
        self.origin = origin
        self.idle_since = 0.0  # loop time
        self.lost = False
        self._loop = loop
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0  # of the present wait, loop time
        self._timeout_s: float | None = None
        self._paused = False
        self._reset()

    def _reset(self) -> None:
        self.busy = False
        self.silent = True  # no byte of the reply has come
        self.head_done = False
        self.complete = False
        self.keep_alive = False
        self.error: httpx.TransportError | None = None
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._framed = False  # the reply's end is told by its framing, not by EOF
        self._parts: list[bytes] = []
        self._buffered = 0

    # The exchange

    def begin(self, head: bytes, body: bytes, timeout_s: float | None) -> None:
        """Send a request."""
        assert self._transport is not None
        self._reset()
        self.busy = True
        self._timeout_s = timeout_s
        if len(body) < _JOIN_BELOW:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    async def wait(self) -> None:
        """Return after the next read of the socket, or when the exchange failed."""
        if self._timeout_s is not None:
            self._deadline = self._loop.time() + self._timeout_s
            if self._timer is None:  # one timer serves many waits
                self._timer = self._loop.call_at(self._deadline, self._check_deadline)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def take(self) -> bytes:
        """The body's bytes that have come since the last call; empty when there are none."""
        parts = self._parts
        if not parts:
            return b""
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._buffered = 0
        self._resume()
        return data

    def end(self) -> bool:
        """Finish the exchange; whether the connection can carry another one."""
        if not self.busy:
            return False
        reusable = self.complete and self.keep_alive and not self.lost and self.error is None
        self.busy = False
        self._parts = []
        if reusable:
            self._resume()
        else:
            self.abort()
        return reusable

    def abort(self) -> None:
        """Close the connection now."""
        self.busy = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.lost and self._transport is not None:
            self._transport.abort()

    def _resume(self) -> None:
        if self._paused and not self.lost and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def _check_deadline(self) -> None:
        self._timer = None
        if self._waiter is None or not self.busy:
            return
        if self._loop.time() < self._deadline - 0.001:
            self._timer = self._loop.call_at(self._deadline, self._check_deadline)
            return
        self._fail(httpx.ReadTimeout(f"no data from the upstream for {self._timeout_s:g} s"))

    def _fail(self, error: httpx.TransportError) -> None:
        self.error = self.error or error
        if not self.lost and self._transport is not None:
            self._transport.abort()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        if not self.busy:  # nobody asked
            self.abort()
            return
        self.silent = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._fail(httpx.RemoteProtocolError(f"invalid HTTP reply: {exc}"))
            return
        if self._buffered > HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._pool.forget(self)
        if not self.busy or self.complete:
            return
        if self.head_done and not self._framed and exc is None:
            self.complete = True  # RFC 9112, 6.3: the body ends with the connection
        elif self.error is None:
            where = "before the reply" if self.silent else "inside the reply"
            if exc is None:
                self.error = httpx.RemoteProtocolError(
                    f"the upstream closed the connection {where}"
                )
            else:
                self.error = httpx.ReadError(f"connection broken {where}: {exc}")
        self._wake()

    # httptools

    def on_message_begin(self) -> None:
        if self.complete:  # a second reply to one request
            self.keep_alive = False
            raise httptools.HttpParserError("bytes after the reply")
        self.headers = []
        self._framed = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._framed = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:  # else informational, and the reply is still to come
            self.status = status
            self.keep_alive = self._parser.should_keep_alive()
            self.head_done = True

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        self.complete = self.head_done


class _Body(httpx.AsyncByteStream):
    """A reply's body: one item for each read of the socket, content encoding untouched."""

    def __init__(self, pool: "AsyncioTransport", connection: _Connection) -> None:
        self._pool = pool
        self._connection = connection

    async def __aiter__(self) -> AsyncIterator[bytes]:
        connection = self._connection
        while True:
            if data := connection.take():
                yield data
            elif connection.complete:
                return
            elif connection.error is not None:
                raise connection.error
            elif not connection.busy:
                raise httpx.StreamClosed
            else:
                await connection.wait()

    async def aclose(self) -> None:
        self._pool.release(self._connection)


class AsyncioTransport(httpx.AsyncBaseTransport):
    """HTTP/1.1 with kept connections, any number in parallel, proxies and redirects ignored.

    Requests need a body in memory. Headers are sent as they are in the ``httpx.Request``, which
    adds ``Host`` and ``Content-Length``; nothing else is added.

    Args:
        connect_timeout_s: For name resolution, TCP and TLS together.
        read_timeout_s: The longest silence of the upstream, before or inside a reply; a total
            limit does not exist. A request's ``timeout`` extension (``read``) takes precedence.
        keepalive_expiry_s: A connection idle for longer is not used again; below 5 s, after which
            uvicorn closes idle ones.
        ssl_context: For https; the system's trusted certificates if absent.
    """

    def __init__(
        self,
        *,
        connect_timeout_s: float = 5.0,
        read_timeout_s: float | None = None,
        keepalive_expiry_s: float = 4.0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._keepalive_expiry_s = keepalive_expiry_s
        self._ssl_context = ssl_context
        self._idle: dict[_Origin, dict[_Connection, None]] = {}  # the latest used last

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and wait for the head of its reply."""
        url = request.url
        origin = (url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80))
        lines = [b"%b %b HTTP/1.1\r\n" % (request.method.encode("ascii"), url.raw_path)]
        lines += [b"%b: %b\r\n" % header for header in request.headers.raw]
        lines.append(b"\r\n")
        head = b"".join(lines)
        timeout_s = self._read_timeout_s
        if "timeout" in request.extensions:
            timeout_s = request.extensions["timeout"].get("read", timeout_s)
        kept = self._take_idle(origin)
        connection = kept or await self._connect(origin)
        while True:
            connection.begin(head, request.content, timeout_s)
            try:
                while not connection.head_done and connection.error is None:
                    await connection.wait()
            except BaseException:  # cancelled: nobody will close the reply
                connection.abort()
                raise
            if connection.head_done:
                return httpx.Response(
                    connection.status,
                    headers=connection.headers,
                    stream=_Body(self, connection),
                    request=request,
                )
            error = connection.error
            assert error is not None
            connection.abort()
            # A kept connection that ends without a byte of reply had most probably been closed
            # while idle, before it saw the request; once more, on a new one.
            if (
                connection is not kept
                or not connection.silent
                or isinstance(error, httpx.TimeoutException)
            ):
                raise error
            connection = await self._connect(origin)

    def release(self, connection: _Connection) -> None:
        """End an exchange and keep its connection if it can be used again."""
        if connection.end():
            connection.idle_since = asyncio.get_running_loop().time()
            idle = self._idle.setdefault(connection.origin, {})
            idle[connection] = None
            oldest = next(iter(idle))
            if oldest.idle_since < connection.idle_since - self._keepalive_expiry_s:
                del idle[oldest]
                oldest.abort()

    def forget(self, connection: _Connection) -> None:
        """Called by a connection that was closed."""
        idle = self._idle.get(connection.origin)
        if idle is not None:
            idle.pop(connection, None)

    async def aclose(self) -> None:
        """Close the idle connections."""
        for idle in self._idle.values():
            for connection in list(idle):
                connection.abort()
        self._idle.clear()

    def _take_idle(self, origin: _Origin) -> _Connection | None:
        idle = self._idle.get(origin)
        if not idle:
            return None
        oldest_s = asyncio.get_running_loop().time() - self._keepalive_expiry_s
        while idle:
            connection, _ = idle.popitem()
            if not connection.lost and connection.idle_since >= oldest_s:
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: _Origin) -> _Connection:
        scheme, host, port = origin
        loop = asyncio.get_running_loop()
        if scheme == "https" and self._ssl_context is None:
            self._ssl_context = ssl.create_default_context()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await loop.create_connection(
                    lambda: _Connection(loop, self, origin),
                    host,
                    port,
                    ssl=self._ssl_context if scheme == "https" else None,
                )
        except TimeoutError as exc:
            message = f"no connection to {host}:{port} within {self._connect_timeout_s:g} s"
            raise httpx.ConnectTimeout(message) from exc
        except OSError as exc:
            raise httpx.ConnectError(f"cannot connect to {host}:{port}: {exc}") from exc
        return connection
