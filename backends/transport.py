"""httpx's transport interface over asyncio protocols, as measured in ``benchmarks/transports.py``.

A request is one write and some waits, without a thread, task or lock. That costs a third of the
CPU time of aiohttp in this place, and a fortieth of httpx's own transport.
"""

import asyncio
import socket
import ssl
from typing import Self

import aiohappyeyeballs
import httpx

from backends.base import Take
from backends.http1 import Connection

_STALE_WITHIN_S = 1.0
_NEXT_ADDRESS_AFTER_S = 0.25  # RFC 8305, 8: "Connection Attempt Delay"
_Origin = tuple[str, str, int]


class AsyncioTransport(httpx.AsyncBaseTransport):
    """HTTP/1.1 with kept connections; driven directly, without ``httpx.AsyncClient``.

    Connections are unlimited in number and kept for less than the five seconds after which
    uvicorn closes idle ones. Proxies of the environment, redirects and cookies are ignored, and
    bodies pass with their content encoding. There is no limit on the whole time of a request.
    """

    def __init__(
        self,
        *,
        connect_timeout_s: float = 10.0,
        read_timeout_s: float = 600.0,
        keepalive_s: float = 4.0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Make a transport.

        Args:
            connect_timeout_s: For name resolution, TCP and TLS together.
            read_timeout_s: The longest silence of the upstream, before or inside a reply.
            keepalive_s: How long a connection is kept idle.
            ssl_context: For https; the system's trusted certificates if absent.
        """
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._keepalive_s = keepalive_s
        self._ssl_context = ssl_context
        self._idle: dict[_Origin, dict[Connection, None]] = {}  # the latest used last
        self._sweeper: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a GET or POST and wait for its reply's status and headers.

        The request's stream has to be one of bytes in memory, as that of ``content=bytes``. Nothing
        is added to its headers.

        Raises:
            httpx.TransportError: No reply could be had.
        """
        url = request.url
        if url.scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol(f"'{url.scheme}' is not http or https")
        port = url.port or (443 if url.scheme == "https" else 80)
        origin = (url.scheme, url.raw_host.decode("ascii"), port)
        head = _head(request)
        connection = self._take_idle(origin)
        if connection is not None:
            try:
                return await self._exchange(connection, origin, head, request)
            except (httpx.RemoteProtocolError, httpx.ReadError):
                # A kept connection that ends at once without a byte of reply had most probably
                # been closed while idle, before it saw the request.
                if not connection.is_silent or connection.busy_s() > _STALE_WITHIN_S:
                    raise
        return await self._exchange(await self._connect(origin), origin, head, request)

    async def aclose(self) -> None:
        """Close the idle connections; others close when their exchange ends."""
        self._is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for idle in self._idle.values():
            for connection in list(idle):
                connection.abort()
        self._idle.clear()

    async def _exchange(
        self, connection: Connection, origin: _Origin, head: bytes, request: httpx.Request
    ) -> httpx.Response:
        assert isinstance(request.stream, httpx.ByteStream)
        connection.begin(head, b"".join(request.stream), self._read_timeout_s)
        try:
            while not connection.head_done:
                if connection.error is not None:
                    raise connection.error
                await connection.wait()
        except BaseException:  # cancelled, too: nobody will close the reply
            connection.abort()
            raise
        return httpx.Response(
            connection.status,
            headers=connection.headers,
            stream=Body(self, connection, origin),
            request=request,
        )

    def release(self, connection: Connection, origin: _Origin) -> None:
        """End an exchange and keep its connection if it can be used again."""
        if not connection.end():
            return
        if self._is_closed:
            connection.abort()
            return
        self._idle.setdefault(origin, {})[connection] = None
        if self._sweeper is None:
            loop = asyncio.get_running_loop()  # a system call, before Python 3.12
            self._sweeper = loop.call_later(self._keepalive_s, self._sweep)

    def _sweep(self) -> None:
        """Close what was idle for too long; one timer for all connections."""
        loop = asyncio.get_running_loop()
        oldest_s = loop.time() - self._keepalive_s
        next_s = float("inf")
        for idle in self._idle.values():
            for connection in list(idle):
                if connection.idle_since_s > oldest_s:
                    next_s = min(next_s, connection.idle_since_s)
                    break
                del idle[connection]
                connection.abort()
        self._sweeper = None
        if next_s < float("inf"):
            self._sweeper = loop.call_at(next_s + self._keepalive_s, self._sweep)

    def _take_idle(self, origin: _Origin) -> Connection | None:
        """The connection that was used last, so that the others can expire."""
        idle = self._idle.get(origin)
        return idle.popitem()[0] if idle else None

    async def _connect(self, origin: _Origin) -> Connection:
        scheme, host, port = origin
        loop = asyncio.get_running_loop()
        context: ssl.SSLContext | None = None
        if scheme == "https":
            context = self._ssl_context = self._ssl_context or _system_context()

        def forget(connection: Connection) -> None:
            self._idle.get(origin, {}).pop(connection, None)

        def protocol() -> Connection:
            return Connection(loop, forget)

        try:
            async with asyncio.timeout(self._connect_timeout_s):
                addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                sock = await aiohappyeyeballs.start_connection(
                    addresses, happy_eyeballs_delay=_NEXT_ADDRESS_AFTER_S
                )
                _, connection = await loop.create_connection(
                    protocol, sock=sock, ssl=context, server_hostname=host if context else None
                )
        except TimeoutError as error:
            message = f"no connection to {host}:{port} within {self._connect_timeout_s:g} s"
            raise httpx.ConnectTimeout(message) from error
        except (OSError, UnicodeError) as error:  # a name can be too long for IDNA
            raise httpx.ConnectError(f"cannot connect to {host}:{port}: {error}") from error
        return connection


class Body(httpx.AsyncByteStream):
    """A reply's body: one item for each read of the socket, or for several that waited."""

    def __init__(
        self, transport: AsyncioTransport, connection: Connection, origin: _Origin
    ) -> None:
        """Read the body of the exchange that a connection carries."""
        self._transport = transport
        self._connection: Connection | None = connection
        self._origin = origin

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        connection = self._connection
        while connection is not None:
            if data := connection.take():
                return data
            if connection.complete:
                raise StopAsyncIteration
            if connection.error is not None:
                raise connection.error
            await connection.wait()
            connection = self._connection
        raise httpx.StreamClosed

    async def pour(self, take: Take) -> None:
        """Give the body to ``take``; see ``backends.base.pour``.

        Raises:
            httpx.TransportError: The upstream broke off or went silent for too long.
            httpx.StreamClosed: The body was closed.
        """
        connection = self._connection
        while connection is not None:
            if data := connection.take():
                rest = take(data)
            elif connection.complete:
                return
            elif connection.error is not None:
                raise connection.error
            else:
                rest = await connection.wait(take)
            if rest is not None:
                await rest
            connection = self._connection
        raise httpx.StreamClosed

    async def aclose(self) -> None:
        """Release the connection; an unfinished exchange is abandoned."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._transport.release(connection, self._origin)


def _head(request: httpx.Request) -> bytes:
    lines = [b"%b %b HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    lines += [b"%b: %b" % header for header in request.headers.raw]
    head = b"\r\n".join([*lines, b"\r\n"])
    if not head.count(b"\n") == head.count(b"\r") == len(lines) + 1:  # some end lines at CR alone
        raise httpx.LocalProtocolError("a header holds a line end")
    return head


def _system_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
