"""Transports that could stand under httpx's interface: how they behave and what they cost.

Run ``python -m benchmarks.transports [--rounds 3]``. Transports that are not installed are left out
and named; ``pip install httpx-aiohttp pyreqwest`` into a virtual environment brings them.

Each is driven directly, without ``httpx.AsyncClient``. The probes come first, because a transport
that delays the first chunk or goes on after a cancellation is of no use, however fast.
"""

import argparse
import asyncio
import contextlib
import importlib
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import httpx

from benchmarks import machine
from benchmarks.tables import markdown_table
from benchmarks.upstream import new_event_loop

PARALLEL: Final = 32
DELTAS: Final = 200
IDLE_S: Final = 60
LOADS: Final = {
    "request": ("whole", 3200),
    "chunk, singly": (f"stream-{DELTAS}-5ms", 64),
    "chunk, in bursts": (f"burst-{DELTAS}-20ms", 128),
}
"""The upstream's model and the number of requests, per column."""


# Candidates. Their packages are imported by name: they need not be installed.


class _PyreqwestStream(httpx.AsyncByteStream):
    def __init__(self, exchange: Any, reader: Any) -> None:
        self._exchange = exchange
        self._reader = reader

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (data := await self._reader.read_chunk()) is not None:
            yield bytes(data)

    async def aclose(self) -> None:
        await self._exchange.__aexit__(None, None, None)


class _PyreqwestTransport(httpx.AsyncBaseTransport):
    """Pyreqwest without its httpx layer, and without its reading ahead."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        builder = self._client.request(request.method, str(request.url))
        builder = builder.headers(request.headers.multi_items()).body_bytes(request.content)
        exchange = builder.streamed_read_buffer_limit(0).build_streamed()
        reply = await exchange.__aenter__()
        return httpx.Response(
            reply.status,
            headers=list(reply.headers.items()),
            stream=_PyreqwestStream(exchange, reply.body_reader),
        )

    async def aclose(self) -> None:
        await self._client.close()


def _httpx() -> httpx.AsyncBaseTransport:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncHTTPTransport(trust_env=False, limits=limits)


def _aiohttp_session() -> Any:
    aiohttp = importlib.import_module("aiohttp")
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept", "Content-Type"),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=IDLE_S),
    )


def _httpx_aiohttp() -> httpx.AsyncBaseTransport:
    module = importlib.import_module("httpx_aiohttp")
    transport: httpx.AsyncBaseTransport = module.AiohttpTransport(client=_aiohttp_session)
    return transport


def _pyreqwest_client() -> Any:
    builder = importlib.import_module("pyreqwest.client").ClientBuilder().http1_only().no_proxy()
    builder = builder.follow_redirects(False).referer(False)
    return builder.gzip(False).brotli(False).zstd(False).deflate(False).build()


def _pyreqwest_httpx() -> httpx.AsyncBaseTransport:
    module = importlib.import_module("pyreqwest.compatibility.httpx")
    transport: httpx.AsyncBaseTransport = module.HttpxTransport(_pyreqwest_client())
    return transport


def _pyreqwest() -> httpx.AsyncBaseTransport:
    return _PyreqwestTransport(_pyreqwest_client())


def _dragoman() -> httpx.AsyncBaseTransport:
    module = importlib.import_module("backends.transport")
    transport: httpx.AsyncBaseTransport = module.AsyncioTransport(read_timeout_s=IDLE_S)
    return transport


CANDIDATES: Final[dict[str, Callable[[], httpx.AsyncBaseTransport]]] = {
    "httpx": _httpx,
    "httpx-aiohttp": _httpx_aiohttp,
    "pyreqwest.compatibility.httpx": _pyreqwest_httpx,
    "pyreqwest, own class": _pyreqwest,
    "backends.transport": _dragoman,
}


# Probes


_HEAD: Final = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
_CHUNK: Final = b"4\r\nabc\n\r\n"


class _Scripted:
    """An upstream whose path says what it does; it notes when connections end."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.served: set[int] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer on one connection."""
        first = True
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(2)
                path = head.split(b" ")[1].decode()
                if path == "/kept" and not first:
                    return  # as if closed just before this request came
                first = False
                await self._answer(path, writer)
                if path.startswith("/cut"):
                    return
                if path != "/kept":
                    await reader.read(1)  # returns when the caller closes
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.ended.set()
            writer.close()

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        if path == "/kept":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        elif path == "/cut-length":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc\n")
        elif path == "/cut-chunked":
            writer.write(_HEAD + _CHUNK)
        elif path == "/one-chunk":
            writer.write(_HEAD)
            await asyncio.sleep(0.02)
            writer.write(_CHUNK)
        elif path == "/ten-chunks":
            writer.write(_HEAD)
            await asyncio.sleep(0.02)
            writer.write(_CHUNK * 10 + b"0\r\n\r\n")
        await writer.drain()


class _Probe:
    """One transport against one scripted upstream."""

    def __init__(self, transport: httpx.AsyncBaseTransport, upstream: _Scripted, url: str) -> None:
        self.transport = transport
        self.upstream = upstream
        self.url = url

    async def send(self, path: str) -> httpx.Response:
        """Send a request."""
        url = httpx.URL(self.url + path)
        return await self.transport.handle_async_request(httpx.Request("POST", url, content=b"{}"))

    async def read(self, path: str) -> list[bytes]:
        """Send a request; the chunks of its reply."""
        reply = await self.send(path)
        assert isinstance(reply.stream, httpx.AsyncByteStream)
        try:
            return [data async for data in reply.stream]
        finally:
            await reply.stream.aclose()

    async def first_chunk(self) -> str:
        """Whether the first chunk is delivered while the upstream is silent."""
        try:
            async with asyncio.timeout(0.5):
                reply = await self.send("/one-chunk")
                assert isinstance(reply.stream, httpx.AsyncByteStream)
                await anext(aiter(reply.stream))
        except TimeoutError:
            return "NO"
        await reply.stream.aclose()
        return "yes"

    async def joined(self) -> str:
        """In how many pieces one write of ten chunks arrives."""
        return str(len(await self.read("/ten-chunks")))

    async def _cancelled(self, path: str) -> str:
        task = asyncio.create_task(self.read(path))
        await asyncio.sleep(0.15)
        self.upstream.ended.clear()
        start = time.perf_counter()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        try:
            await asyncio.wait_for(self.upstream.ended.wait(), 1)
        except TimeoutError:
            return "NEVER"
        return f"{1000 * (time.perf_counter() - start):.1f} ms"

    async def cancelled_early(self) -> str:
        """When the upstream notices a cancellation before its reply's head."""
        return await self._cancelled("/silent")

    async def cancelled_late(self) -> str:
        """When the upstream notices a cancellation inside its reply."""
        return await self._cancelled("/one-chunk")

    async def _error(self, path: str) -> str:
        try:
            await self.read(path)
        except Exception as exc:  # noqa: BLE001 - whatever a transport raises is what we ask for
            return type(exc).__name__
        return "NONE"

    async def cut_chunked(self) -> str:
        """The error when a chunked body breaks off."""
        return await self._error("/cut-chunked")

    async def cut_length(self) -> str:
        """The error when a body is shorter than its length."""
        return await self._error("/cut-length")

    async def stale(self) -> str:
        """What happens on a kept connection that is closed when the second request comes."""
        await self.read("/kept")
        error = await self._error("/kept")
        return "retried" if error == "NONE" else error


PROBES: Final[dict[str, Callable[[_Probe], Awaitable[str]]]] = {
    "first chunk at once": _Probe.first_chunk,
    "pieces of one write of ten chunks": _Probe.joined,
    "cancelled before the head: closed after": _Probe.cancelled_early,
    "cancelled in the body: closed after": _Probe.cancelled_late,
    "chunked body cut": _Probe.cut_chunked,
    "body shorter than its length": _Probe.cut_length,
    "kept connection closed by the upstream": _Probe.stale,
}


async def probe(name: str) -> list[str]:
    """The answers of one transport, in the order of ``PROBES``."""
    answers = []
    for ask in PROBES.values():
        # All anew for each question: what one left behind must not answer the next.
        upstream = _Scripted()
        server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport = CANDIDATES[name]()
        try:
            async with asyncio.timeout(5):
                answers.append(await ask(_Probe(transport, upstream, f"http://127.0.0.1:{port}")))
        except Exception as exc:  # noqa: BLE001 - as above
            answers.append(type(exc).__name__)
        await transport.aclose()
        server.close()
    return answers


# Costs


async def cost_us(name: str, port: int, model: str, requests: int) -> float:
    """CPU microseconds of this process per request or chunk."""
    transport = CANDIDATES[name]()
    url = httpx.URL(f"http://127.0.0.1:{port}/v1/chat/completions")
    stream = "false" if model == "whole" else "true"
    text = "x" * 900
    body = f'{{"model":"{model}","stream":{stream},"messages":[{{"content":"{text}"}}]}}'.encode()
    headers = [("content-type", "application/json"), ("authorization", "Bearer benchmark")]
    sizes = set()

    async def work(count: int) -> None:
        for _ in range(count):
            request = httpx.Request("POST", url, headers=headers, content=body)
            reply = await transport.handle_async_request(request)
            assert isinstance(reply.stream, httpx.AsyncByteStream)
            size = 0
            async for data in reply.stream:
                size += len(data)
            await reply.stream.aclose()
            sizes.add((reply.status_code, size))

    await asyncio.gather(*(work(1) for _ in range(PARALLEL)))
    before_ns = time.process_time_ns()
    await asyncio.gather(*(work(requests // PARALLEL) for _ in range(PARALLEL)))
    used_ns = time.process_time_ns() - before_ns
    await transport.aclose()
    if len(sizes) != 1 or next(iter(sizes))[0] != 200:
        raise RuntimeError(f"{name}: replies differ: {sizes}")
    units = requests if model == "whole" else requests * DELTAS
    return used_ns / 1000 / units


def _measure_in_child(name: str, port: int, load: str) -> float:
    command = [machine.python(), "-m", "benchmarks.transports", "--one", name, load, str(port)]
    process = machine.start(command, core=machine.PROXY_CORE, pipes=True)
    try:
        assert process.stdout is not None
        return float(process.stdout.readline())
    finally:
        machine.stop(process)


def _installed(name: str) -> bool:
    async def build() -> None:
        await CANDIDATES[name]().aclose()

    try:
        asyncio.run(build())
    except ImportError as exc:
        print(f"left out: {name} ({exc})")
        return False
    return True


def main() -> None:
    """Probe, measure and print both tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transports")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved repetitions")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, load, port = args.one
        model, requests = LOADS[load]
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            print(runner.run(cost_us(name, int(port), model, requests)))
        return
    names = [name for name in CANDIDATES if _installed(name)]
    answers = {}
    for name in names:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            answers[name] = runner.run(probe(name))
    lines = [[title, *(answers[name][i] for name in names)] for i, title in enumerate(PROBES)]
    print(markdown_table(["behaviour", *names], lines))
    print()
    costs: dict[tuple[str, str], list[float]] = {}
    upstream, port = machine.start_upstream()
    try:
        for _ in range(args.rounds):
            for load in LOADS:
                for name in names:
                    value = _measure_in_child(name, port, load)
                    costs.setdefault((load, name), []).append(value)
    finally:
        machine.stop(upstream)
    lines = [
        [load, *(f"{statistics.median(costs[load, name]):.1f}" for name in names)] for load in LOADS
    ]
    print(markdown_table([f"CPU us per, {PARALLEL} parallel", *names], lines))
    facts = machine.describe(["uvloop", "httpx", "aiohttp", "pyreqwest", "httptools"])
    print("\n" + ", ".join(f"{name} {value}" for name, value in facts))


if __name__ == "__main__":
    main()
