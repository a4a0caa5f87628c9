"""The transport against servers that answer byte by byte, well or badly.

Each row of what the proxy needs from a transport is a test here, so that another one can take its
place.
"""

import asyncio
import contextlib
import datetime
import gc
import gzip
import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from backends.transport import AsyncioTransport, Body
from tests.backends.processes import until

pytestmark = pytest.mark.server

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
AT_ONCE_S = 0.2


class Connection:
    """One request's connection, for a script to write to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        # Lingering for no time makes the kernel send RST instead of FIN.
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def hang(self) -> None:
        """Wait until the peer closes."""
        await self.reader.read(1)
        self.writer.close()


Script = Callable[[Connection], Awaitable[None]]


class Server:
    """Runs one script for each request; counts connections and notes their ends."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.connections = 0
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.ended = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                _, _, length = head.lower().partition(b"content-length: ")
                size = int(length.partition(b"\r\n")[0] or 0)
                self.bodies.append(await reader.readexactly(size))
                self.heads.append(head)
                await self.script(Connection(reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.ended.set()
            writer.close()

    async def received(self, count: int = 1) -> None:
        """Wait for a number of requests."""
        await until(lambda: len(self.heads) >= count)


@contextlib.asynccontextmanager
async def serving(
    script: Script, **options: float
) -> AsyncIterator[tuple[Server, AsyncioTransport]]:
    server = Server(script)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/x"
    transport = AsyncioTransport(**options)  # type: ignore[arg-type]
    try:
        yield server, transport
    finally:
        await transport.aclose()
        listening.close()


async def send(
    transport: AsyncioTransport, url: str, body: bytes = b"{}", method: str = "POST"
) -> tuple[httpx.Response, httpx.AsyncByteStream]:
    reply = await transport.handle_async_request(httpx.Request(method, url, content=body))
    assert isinstance(reply.stream, httpx.AsyncByteStream)
    return reply, reply.stream


async def fetch(
    transport: AsyncioTransport, url: str, body: bytes = b"{}", method: str = "POST"
) -> tuple[int, list[bytes]]:
    """A reply's status, and its body as it was read."""
    reply, stream = await send(transport, url, body, method)
    try:
        return reply.status_code, [data async for data in stream]
    finally:
        await stream.aclose()


def answer(*writes: bytes, close: bool = False) -> Script:
    async def script(connection: Connection) -> None:
        for data in writes:
            await connection.write(data)
        if close:
            connection.close()

    return script


def begin_and_hang(begin: bytes) -> Script:
    async def script(connection: Connection) -> None:
        await connection.write(begin)
        await connection.hang()

    return script


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


# --- bodies --------------------------------------------------------------------------------


async def test_head_and_first_chunk_come_at_once() -> None:
    """The head does not wait for a chunk, nor a chunk for the next one."""
    steps = [asyncio.Event() for _ in range(2)]

    async def script(connection: Connection) -> None:
        await connection.write(HEAD)
        await steps[0].wait()
        await connection.write(chunk(b"one"))
        await steps[1].wait()
        await connection.write(chunk(b"two") + END)

    async with serving(script) as (server, transport):
        reply, stream = await send(transport, server.url)
        assert reply.status_code == 200
        pieces = aiter(stream)
        steps[0].set()
        assert await anext(pieces) == b"one"
        steps[1].set()
        assert [piece async for piece in pieces] == [b"two"]
        await stream.aclose()


async def test_one_write_is_one_item_and_waiting_writes_are_joined() -> None:
    seen = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.write(HEAD + chunk(b"abc"))
        await seen.wait()
        await connection.write(chunk(b"abc") * 10 + END)

    async with serving(script) as (server, transport):
        _, stream = await send(transport, server.url)
        pieces = aiter(stream)
        assert await anext(pieces) == b"abc"
        seen.set()
        assert [piece async for piece in pieces] == [b"abc" * 10]
        await stream.aclose()


@pytest.mark.parametrize("body", [b"", b"x" * 20_000_000])
async def test_bodies_of_any_size(body: bytes) -> None:
    """Small ones leave in one write with their head."""
    async with serving(answer(OK)) as (server, transport):
        assert await fetch(transport, server.url, body) == (200, [b"ok"])
        assert server.bodies == [body]


async def test_body_that_ends_with_the_connection() -> None:
    script = answer(b"HTTP/1.1 200 OK\r\n\r\nabc", b"def", close=True)
    async with serving(script) as (server, transport):
        assert b"".join((await fetch(transport, server.url))[1]) == b"abcdef"


async def test_random_cuts_give_the_same_body() -> None:
    rng = random.Random(7)
    chunks: list[bytes] = []

    async def script(connection: Connection) -> None:
        data = HEAD + b"".join(chunk(c) for c in chunks) + END
        at = 0
        while at < len(data):
            size = rng.choice([1, 2, 7, 100, 3000])
            connection.writer.write(data[at : at + size])
            at += size
            await asyncio.sleep(0)

    async with serving(script) as (server, transport):
        for _ in range(10):
            chunks[:] = [rng.randbytes(rng.randint(1, 400)) for _ in range(rng.randint(0, 20))]
            assert b"".join((await fetch(transport, server.url))[1]) == b"".join(chunks)
        assert server.connections == 1


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate"])
async def test_content_encoding_is_left_alone(encoding: str) -> None:
    body = gzip.compress(b"hello")
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: {encoding}\r\ncontent-length: {len(body)}\r\n\r\n"
    async with serving(answer(head.encode() + body)) as (server, transport):
        reply, stream = await send(transport, server.url)
        assert b"".join([data async for data in stream]) == body
        assert reply.headers["content-encoding"] == encoding
        await stream.aclose()
        assert b"accept-encoding" not in server.heads[0].lower()


async def test_back_pressure_stops_the_server_and_nothing_is_lost() -> None:
    """What waits is what sockets hold, some megabytes, of 26."""
    sent = 0
    block = chunk(b"x" * 65536)

    async def script(connection: Connection) -> None:
        nonlocal sent
        await connection.write(HEAD)
        for _ in range(400):
            await connection.write(block)
            sent += 65536
        await connection.write(END)

    async with serving(script) as (server, transport):
        _, stream = await send(transport, server.url)
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.1)  # that nothing happens takes time to see
        assert sent < 16 * 1024 * 1024
        assert sum([len(data) async for data in stream]) == 400 * 65536
        await stream.aclose()


# --- leaving -------------------------------------------------------------------------------

PHASES = pytest.mark.parametrize(
    "begin", [b"", b"HTTP/1.1 2", HEAD, HEAD + chunk(b"abc")], ids=["none", "part", "head", "chunk"]
)


@PHASES
async def test_cancelling_closes_the_connection(begin: bytes) -> None:
    """In any phase: before the head, before a chunk, between two of them."""
    async with serving(begin_and_hang(begin)) as (server, transport):
        task = asyncio.create_task(fetch(transport, server.url))
        await server.received()
        for _ in range(20):  # lets what was sent arrive
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(AT_ONCE_S):
            await server.ended.wait()


@pytest.mark.parametrize("reads", [0, 1])
async def test_closing_an_unfinished_reply_closes_the_connection(reads: int) -> None:
    async with serving(begin_and_hang(HEAD + chunk(b"abc"))) as (server, transport):
        _, stream = await send(transport, server.url)
        pieces = aiter(stream)
        for _ in range(reads):
            assert await anext(pieces) == b"abc"
        await stream.aclose()
        async with asyncio.timeout(AT_ONCE_S):
            await server.ended.wait()
        if reads:
            with pytest.raises((httpx.TransportError, httpx.StreamError)):
                await anext(pieces)


async def test_closing_a_reply_ends_whoever_reads_it() -> None:
    async def script(connection: Connection) -> None:
        await connection.write(HEAD + chunk(b"a"))
        await connection.hang()

    async with serving(script) as (server, transport):
        _, stream = await send(transport, server.url)
        pieces = aiter(stream)
        assert await anext(pieces) == b"a"
        reading = asyncio.ensure_future(anext(pieces))
        await asyncio.sleep(0)
        await stream.aclose()
        with pytest.raises(httpx.StreamClosed):
            await asyncio.wait_for(reading, 5)


async def test_closing_twice_and_after_the_end_does_no_harm() -> None:
    async with serving(answer(OK)) as (server, transport):
        for _ in range(2):
            _, stream = await send(transport, server.url)
            assert [data async for data in stream] == [b"ok"]
            await stream.aclose()
            await stream.aclose()
        assert server.connections == 1


# --- pouring -------------------------------------------------------------------------------


async def opened(transport: AsyncioTransport, url: str) -> Body:
    _, stream = await send(transport, url)
    assert isinstance(stream, Body)
    return stream


async def test_pieces_are_poured_where_they_are_read() -> None:
    """No task runs for a piece that comes while the reader waits."""
    taken: list[tuple[bytes, asyncio.Task[object] | None]] = []

    def take(piece: bytes) -> None:
        taken.append((piece, asyncio.current_task()))

    async def script(connection: Connection) -> None:
        await connection.write(HEAD)
        await connection.write(chunk(b"a"))
        await until(lambda: len(taken) == 1)
        await connection.write(chunk(b"b"))
        await until(lambda: len(taken) == 2)
        await connection.write(b"0\r\n\r\n")

    async with serving(script) as (server, transport):
        body = await opened(transport, server.url)
        await body.pour(take)
        await body.aclose()
    assert [piece for piece, _ in taken] == [b"a", b"b"]
    assert taken[1] == (b"b", None)


async def test_pieces_wait_for_what_the_one_before_waits_for() -> None:
    go = asyncio.Event()
    taken: list[bytes] = []

    def take(piece: bytes) -> Awaitable[object]:
        taken.append(piece)
        return go.wait()

    async def script(connection: Connection) -> None:
        await connection.write(HEAD)
        for text in (b"a", b"b", b"c"):
            await connection.write(chunk(text))
        await until(lambda: bool(taken))
        await connection.write(chunk(b"d") + b"0\r\n\r\n")

    async with serving(script) as (server, transport):
        body = await opened(transport, server.url)
        pouring = asyncio.create_task(body.pour(take))  # type: ignore[arg-type]
        await until(lambda: bool(taken))
        assert len(taken) == 1
        go.set()
        await pouring
        assert b"".join(taken) == b"abcd"


@PHASES
async def test_cancelled_pouring_closes_the_connection(begin: bytes) -> None:
    async def pour(transport: AsyncioTransport, url: str) -> None:
        body = await opened(transport, url)
        try:
            await body.pour(lambda piece: None)
        finally:
            await body.aclose()

    async with serving(begin_and_hang(begin)) as (server, transport):
        task = asyncio.create_task(pour(transport, server.url))
        await server.received()
        for _ in range(20):  # lets what was sent arrive
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(AT_ONCE_S):
            await server.ended.wait()


@pytest.mark.parametrize("at", [b"a", b"b"])
async def test_faults_of_the_taker_are_raised_where_it_was_asked(at: bytes) -> None:
    """They say nothing about the connection."""
    begun = asyncio.Event()

    def take(piece: bytes) -> None:
        begun.set()
        if piece == at:
            raise ZeroDivisionError

    async def script(connection: Connection) -> None:
        await connection.write(HEAD + chunk(b"a"))
        await begun.wait()
        await connection.write(chunk(b"b"))
        await connection.hang()

    async with serving(script) as (server, transport):
        body = await opened(transport, server.url)
        with pytest.raises(ZeroDivisionError):
            await body.pour(take)
        await body.aclose()


async def test_broken_reply_is_an_error_of_pouring() -> None:
    taken: list[bytes] = []
    async with serving(answer(HEAD + chunk(b"abc"), close=True)) as (server, transport):
        body = await opened(transport, server.url)
        with pytest.raises(httpx.RemoteProtocolError):
            await body.pour(taken.append)
        assert taken == [b"abc"]


async def test_silence_is_a_timeout_of_pouring() -> None:
    """The limit counts from the last piece."""
    taken: list[bytes] = []

    async def script(connection: Connection) -> None:
        await connection.write(HEAD)
        for _ in range(5):
            await asyncio.sleep(0.1)
            await connection.write(chunk(b"a"))
        await connection.hang()

    async with serving(script, read_timeout_s=0.4) as (server, transport):
        body = await opened(transport, server.url)
        with pytest.raises(httpx.ReadTimeout):
            await body.pour(taken.append)
        assert taken == [b"a"] * 5


async def test_closing_a_reply_ends_whoever_pours_it() -> None:
    async with serving(begin_and_hang(HEAD)) as (server, transport):
        body = await opened(transport, server.url)
        pouring = asyncio.create_task(body.pour(lambda piece: None))
        await asyncio.sleep(0)
        await body.aclose()
        for _ in range(2):
            with pytest.raises(httpx.StreamClosed):
                await pouring
            pouring = asyncio.create_task(body.pour(lambda piece: None))


# --- faults --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        HEAD + chunk(b"abc"),
        HEAD + b"9\r\nabc",
        HEAD + b"zz\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ncont",
        b"HTTP/1.1 2",
        b"not http\r\n\r\n",
        b"",
    ],
    ids=["cut", "mid-chunk", "no-size", "short", "header", "status", "not-http", "nothing"],
)
async def test_broken_reply_is_an_error(data: bytes) -> None:
    """A body that is cut is never taken for whole."""
    async with serving(answer(data, close=True)) as (server, transport):
        with pytest.raises(httpx.RemoteProtocolError):
            await fetch(transport, server.url)
        assert server.connections == 1


@pytest.mark.parametrize("begin", [b"", HEAD + chunk(b"abc")])
async def test_reset_is_an_error(begin: bytes) -> None:
    async def script(connection: Connection) -> None:
        await connection.write(begin)
        connection.reset()

    async with serving(script) as (server, transport):
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            await fetch(transport, server.url)


@PHASES
async def test_silence_is_a_read_timeout(begin: bytes) -> None:
    async with serving(begin_and_hang(begin), read_timeout_s=0.1) as (server, transport):
        with pytest.raises(httpx.ReadTimeout):
            await fetch(transport, server.url)
        async with asyncio.timeout(AT_ONCE_S):
            await server.ended.wait()
        assert server.connections == 1


async def test_slow_but_steady_reply_is_no_timeout() -> None:
    """The limit is for silence, not for the whole."""

    async def script(connection: Connection) -> None:
        await connection.write(HEAD)
        for _ in range(6):
            await asyncio.sleep(0.05)
            await connection.write(chunk(b"a"))
        await connection.write(END)

    async with serving(script, read_timeout_s=0.2) as (server, transport):
        assert b"".join((await fetch(transport, server.url))[1]) == b"aaaaaa"


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
async def test_refused_and_unknown_hosts(host: str) -> None:
    transport = AsyncioTransport()
    with pytest.raises(httpx.ConnectError):
        await send(transport, f"http://{host}:{closed_port()}/")
    await transport.aclose()


async def test_connection_that_is_not_accepted_is_a_connect_timeout() -> None:
    """A full queue of connections looks like a host that drops packets."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        transport = AsyncioTransport(connect_timeout_s=0.1)
        with pytest.raises(httpx.ConnectTimeout):
            await send(transport, f"http://127.0.0.1:{listener.getsockname()[1]}/")
        await transport.aclose()


# --- headers and the environment -----------------------------------------------------------


async def test_nothing_is_added_and_repeated_headers_stay() -> None:
    reply = b"HTTP/1.1 200 OK\r\nset-cookie: a\r\nset-cookie: b\r\ncontent-length: 0\r\n\r\n"
    async with serving(answer(reply)) as (server, transport):
        for _ in range(2):  # the second time with cookies to send back, if there were a jar
            request = httpx.Request(
                "POST", server.url, headers=[("x-a", "1"), ("x-a", "2")], content=b"{}"
            )
            response = await transport.handle_async_request(request)
            assert response.headers.get_list("set-cookie") == ["a", "b"]
            assert isinstance(response.stream, httpx.AsyncByteStream)
            await response.stream.aclose()
            lines = server.heads[-1].lower().split(b"\r\n")
            assert lines[0] == b"post /x http/1.1"
            assert sorted(lines[1:-2]) == [
                b"content-length: 2",
                b"host: " + server.url.split("/")[2].encode(),
                b"x-a: 1",
                b"x-a: 2",
            ]


async def test_headers_of_other_bytes_are_kept() -> None:
    reply = b"HTTP/1.1 200 OK\r\nx-a: gr\xfcn\r\ncontent-length: 0\r\n\r\n"
    async with serving(answer(reply)) as (server, transport):
        response, stream = await send(transport, server.url)
        assert (b"x-a", b"gr\xfcn") in response.headers.raw
        await stream.aclose()


async def test_long_headers_are_taken() -> None:
    """Gateways sign their replies with headers of kilobytes."""
    reply = b"HTTP/1.1 200 OK\r\nx-a: " + b"y" * 30_000 + b"\r\ncontent-length: 0\r\n\r\n"
    async with serving(answer(reply)) as (server, transport):
        response, stream = await send(transport, server.url)
        assert len(response.headers["x-a"]) == 30_000
        await stream.aclose()


async def test_informational_replies_are_skipped() -> None:
    async with serving(answer(b"HTTP/1.1 100 Continue\r\n\r\n", OK)) as (server, transport):
        assert await fetch(transport, server.url) == (200, [b"ok"])


@pytest.mark.parametrize("status", [301, 307])
async def test_redirects_are_not_followed(status: int) -> None:
    """A key must not go where the settings do not send it."""
    reply = f"HTTP/1.1 {status} X\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n".encode()
    async with serving(answer(reply)) as (server, transport):
        assert await fetch(transport, server.url) == (status, [])
        assert len(server.heads) == 1


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
async def test_proxies_of_the_environment_are_ignored(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, f"http://127.0.0.1:{closed_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with serving(answer(OK)) as (server, transport):
        assert await fetch(transport, server.url) == (200, [b"ok"])


async def test_netrc_is_ignored(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path_factory.mktemp("home") / ".netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with serving(answer(OK)) as (server, transport):
        await fetch(transport, server.url)
        assert b"authorization" not in server.heads[0].lower()


async def test_path_and_query_are_not_normalised() -> None:
    async with serving(answer(OK)) as (server, transport):
        await fetch(transport, f"{server.url}/a%2Fb/c?x=%20+y")
        assert server.heads[0].startswith(b"POST /x/a%2Fb/c?x=%20+y HTTP/1.1")


# --- kept connections ----------------------------------------------------------------------


async def test_connection_is_kept() -> None:
    async with serving(answer(OK)) as (server, transport):
        for _ in range(5):
            assert await fetch(transport, server.url) == (200, [b"ok"])
        assert server.connections == 1


async def test_kept_connection_expires() -> None:
    async with serving(answer(OK), keepalive_s=0.05) as (server, transport):
        await fetch(transport, server.url)
        async with asyncio.timeout(5):
            await server.ended.wait()
        await fetch(transport, server.url)
        assert server.connections == 2


def close_at_the_next_request(kept: int) -> Script:
    """Answer some requests of each connection, and close it as the next one begins."""
    left: dict[asyncio.StreamWriter, int] = {}

    async def script(connection: Connection) -> None:
        left.setdefault(connection.writer, kept)
        if not left[connection.writer]:
            connection.close()
            return
        left[connection.writer] -= 1
        await connection.write(OK)

    return script


async def test_kept_connection_that_closes_under_a_request_is_replaced_once() -> None:
    async with serving(close_at_the_next_request(1)) as (server, transport):
        for count in range(1, 4):
            assert await fetch(transport, server.url) == (200, [b"ok"])
            assert server.connections == count


async def test_replacement_that_fails_too_is_an_error() -> None:
    """One retry, not a loop."""

    async def script(connection: Connection) -> None:
        if len(server.heads) == 1:
            await connection.write(OK)
        else:
            connection.close()

    async with serving(script) as (server, transport):
        await fetch(transport, server.url)
        with pytest.raises(httpx.RemoteProtocolError):
            await fetch(transport, server.url)
        assert len(server.heads) == 3


async def test_new_connection_that_closes_is_not_retried() -> None:
    """The server may have begun to generate."""
    async with serving(answer(close=True)) as (server, transport):
        with pytest.raises(httpx.RemoteProtocolError):
            await fetch(transport, server.url)
        assert len(server.heads) == 1


async def test_late_close_of_a_kept_connection_is_not_retried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that read the request and thought about it has not met a stale connection."""
    monkeypatch.setattr("backends.transport._STALE_WITHIN_S", 0.05)

    async def script(connection: Connection) -> None:
        if len(server.heads) == 1:
            await connection.write(OK)
        else:
            await asyncio.sleep(0.1)
            connection.close()

    async with serving(script) as (server, transport):
        await fetch(transport, server.url)
        with pytest.raises(httpx.RemoteProtocolError):
            await fetch(transport, server.url)
        assert len(server.heads) == 2


async def test_reply_that_began_is_not_retried() -> None:
    """Neither in its head nor in its body, also on a kept connection."""

    async def script(connection: Connection) -> None:
        if len(server.heads) == 1:
            await connection.write(OK)
            return
        await connection.write(HEAD + chunk(b"a"))
        connection.close()

    async with serving(script) as (server, transport):
        await fetch(transport, server.url)
        with pytest.raises(httpx.RemoteProtocolError):
            await fetch(transport, server.url)
        assert len(server.heads) == 2


async def test_bytes_after_the_reply_cost_the_connection() -> None:
    async with serving(answer(OK + OK)) as (server, transport):
        for _ in range(2):
            with contextlib.suppress(httpx.RemoteProtocolError):
                assert await fetch(transport, server.url) == (200, [b"ok"])
        assert server.connections == 2


async def test_many_in_parallel() -> None:
    """No limit on connections stops the two hundredth."""
    everybody = asyncio.Event()

    async def script(connection: Connection) -> None:
        if len(server.heads) == 200:
            everybody.set()
        await everybody.wait()
        await connection.write(HEAD + chunk(b"a") + END)

    async with serving(script) as (server, transport):
        results = await asyncio.gather(*(fetch(transport, server.url) for _ in range(200)))
    assert results == [(200, [b"a"])] * 200


async def test_closing_the_transport_closes_kept_connections() -> None:
    async with serving(answer(OK)) as (server, transport):
        await fetch(transport, server.url)
        await transport.aclose()
        async with asyncio.timeout(AT_ONCE_S):
            await server.ended.wait()


async def test_transport_that_was_never_used_can_be_closed() -> None:
    await AsyncioTransport().aclose()


async def test_early_reply_to_a_long_request_costs_the_connection() -> None:
    """A server may refuse a body without reading it; the rest of it must not begin a request."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 X\r\ncontent-length: 0\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            await writer.drain()
            assert await reader.read(1)
            while await reader.read(65536):
                pass
        writer.close()
        closed.set()

    closed = asyncio.Event()
    listening = await asyncio.start_server(refuse, "127.0.0.1", 0, limit=65536)
    transport = AsyncioTransport()
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
    assert await fetch(transport, url, b"x" * 50_000_000) == (413, [])
    async with asyncio.timeout(5):
        await closed.wait()
    await transport.aclose()
    listening.close()


# --- limits --------------------------------------------------------------------------------


async def test_endless_head_is_an_error() -> None:
    async def script(connection: Connection) -> None:
        await connection.write(b"HTTP/1.1 200 OK\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                await connection.write(b"x-a: " + b"y" * 1000 + b"\r\n")

    async with serving(script) as (server, transport):
        with pytest.raises(httpx.RemoteProtocolError, match="head"):
            await fetch(transport, server.url)


async def test_change_of_protocol_is_an_error_that_nobody_else_hears_of() -> None:
    strays: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: strays.append(context))
    head = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    async with serving(answer(head)) as (server, transport):
        with pytest.raises(httpx.RemoteProtocolError, match="101"):
            await fetch(transport, server.url)
    assert strays == []


async def test_trailers_are_left_out() -> None:
    script = answer(HEAD + chunk(b"a") + b"0\r\nx-late: 1\r\n\r\n")
    async with serving(script) as (server, transport):
        for _ in range(2):
            reply, stream = await send(transport, server.url)
            assert [data async for data in stream] == [b"a"]
            assert "x-late" not in reply.headers
            await stream.aclose()
        assert server.connections == 1


@pytest.mark.parametrize("value", ["a\nx-b: c", "a\r\n\r\nGET /", "a\n", "a\rx-b: c"])
async def test_line_end_in_a_header_is_refused(value: str) -> None:
    async with serving(answer(OK)) as (server, transport):
        request = httpx.Request("POST", server.url, headers={"x-a": value}, content=b"{}")
        with pytest.raises(httpx.LocalProtocolError):
            await transport.handle_async_request(request)
        assert server.connections == 0


async def test_other_schemes_are_refused() -> None:
    transport = AsyncioTransport()
    with pytest.raises(httpx.UnsupportedProtocol):
        await send(transport, "ftp://127.0.0.1/")


async def test_reply_that_nobody_closed_holds_no_error_in_a_cycle() -> None:
    """Tracebacks hold bodies: what failed has to go without the collector's help."""
    async with serving(answer(HEAD + b"zz\r\n", close=True)) as (server, transport):
        gc.collect()
        before = {id(o) for o in gc.get_objects()}
        with gc_off():
            for _ in range(3):
                with contextlib.suppress(httpx.RemoteProtocolError):
                    await fetch(transport, server.url)
            for _ in range(20):
                await asyncio.sleep(0)
            made = (o for o in gc.get_objects() if id(o) not in before)
            kept = [o for o in made if isinstance(o, httpx.RemoteProtocolError)]
        assert not kept


@contextlib.contextmanager
def gc_off() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# --- TLS and names -------------------------------------------------------------------------


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(built.public_bytes(pem))
    paths[1].write_bytes(key.private_bytes(pem, *plain))
    return paths


async def test_tls(tmp_path: Path) -> None:
    """By name: the certificate is checked, and one that nobody vouches for is refused."""
    cert, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = Server(answer(HEAD + chunk(b"x" * 300_000) + END))
    listening = await asyncio.start_server(server.serve, "localhost", 0, ssl=context)
    port = listening.sockets[0].getsockname()[1]
    trusting = AsyncioTransport(ssl_context=ssl.create_default_context(cafile=cert))
    for _ in range(2):
        status, data = await fetch(trusting, f"https://localhost:{port}/x", b"y" * 300_000)
        assert (status, b"".join(data)) == (200, b"x" * 300_000)
    assert server.connections == 1
    assert server.bodies == [b"y" * 300_000] * 2
    await trusting.aclose()
    doubting = AsyncioTransport()
    for host in ("localhost", "127.0.0.1"):
        with pytest.raises(httpx.ConnectError, match="certificate"):
            await send(doubting, f"https://{host}:{port}/x")
    listening.close()


async def test_name_with_an_address_that_does_not_answer() -> None:
    """``localhost`` is often ::1 first, where nobody listens."""
    async with serving(answer(OK)) as (server, transport):
        assert await fetch(transport, server.url.replace("127.0.0.1", "localhost")) == (
            200,
            [b"ok"],
        )


async def test_name_that_is_none() -> None:
    transport = AsyncioTransport()
    with pytest.raises(httpx.ConnectError):
        await send(transport, f"http://{'x' * 70}.invalid/")
