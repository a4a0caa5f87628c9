"""Large bodies, long and many streams, a long life: time, memory and open files of the proxy.

Run ``python -m benchmarks.limits [--quick]``. The soak makes 200 000 requests (4 000 with
``--quick``) of which a tenth is aborted by the caller and a tenth fails upstream.
"""

import argparse
import asyncio
import contextlib
import http.client
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx

from backends.transport import AsyncioTransport
from benchmarks import machine, servers
from benchmarks.requests import request_body
from benchmarks.tables import Figure, figures_table
from benchmarks.upstream import new_event_loop

DRAGOMAN: Final = "dragoman-chat"
PARALLEL: Final = 64
OPEN_STREAMS: Final = 2000
LONG_STREAM: Final = 100_000
"""Chunks."""

PROPORTION: Final = 1.1
"""How many times as much a part of something large may cost."""
GROWTH_MB: Final = 5
GROWTH_FILES: Final = 2 * PARALLEL
"""What counts as flat: two connections for a request are kept or not; a leak would be thousands."""
IMAGE_BYTES: Final = 20_000_000


def agentic(items: int, tools: int = 25) -> bytes:
    """A Responses request with a long history: 400 KB for 140 items."""
    parameters = {f"p{i}": {"type": "string", "description": "x" * 60} for i in range(8)}
    schema = {"type": "object", "properties": parameters}
    turn: list[list[dict[str, Any]]] = [
        [
            {"type": "message", "role": "user", "content": "q" * 2050},
            {"type": "function_call", "call_id": f"c{i}", "name": "tool_1", "arguments": "{}"},
            {"type": "function_call_output", "call_id": f"c{i}", "output": "line\n" * 1040},
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "a" * 2050}],
            },
        ]
        for i in range(items // 4)
    ]
    named = [
        {"type": "function", "name": f"tool_{i}", "description": "d" * 300, "parameters": schema}
        for i in range(tools)
    ]
    return json.dumps(
        {"model": "whole", "input": list(itertools.chain(*turn)), "tools": named}
    ).encode()


def image() -> bytes:
    """A request whose image makes nearly all of it."""
    url = "data:image/png;base64," + "A" * IMAGE_BYTES
    content = [{"type": "input_image", "image_url": url}]
    return json.dumps({"model": "whole", "input": [{"role": "user", "content": content}]}).encode()


class Proxy:
    """A Dragoman that runs, and a client of it."""

    def __init__(self, pid: int, port: int) -> None:
        """Talk to the process on a port."""
        self.pid = pid
        self.url = f"http://127.0.0.1:{port}/v1/responses"
        self._transport = AsyncioTransport()

    def memory_mb(self, name: str = "VmRSS") -> float:
        """Resident memory, or with ``VmHWM`` the most there was since ``reset_peak``."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith(f"{name}:"))
        return int(line.split()[1]) * 1024 / 1e6

    def reset_peak(self) -> None:
        """Begin to watch for the most memory."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def files(self) -> int:
        """Open file descriptors."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    async def post(self, body: bytes) -> int:
        """Send a request and read its reply; the status."""
        reply = await self.open(body)
        assert isinstance(reply.stream, httpx.AsyncByteStream)
        with contextlib.suppress(httpx.TransportError):
            async for _ in reply.stream:
                pass
        await reply.stream.aclose()
        return reply.status_code

    async def open(self, body: bytes) -> httpx.Response:
        """Send a request and wait for the head of its reply."""
        return await self._transport.handle_async_request(
            httpx.Request("POST", self.url, content=body)
        )


@contextlib.contextmanager
def running() -> Iterator[Proxy]:
    """A proxy over the benchmark's upstream, just started."""
    upstream, upstream_port = machine.start_upstream()
    try:
        with servers.running([DRAGOMAN], upstream_port) as found:
            yield Proxy(*found[DRAGOMAN])
    finally:
        machine.stop(upstream)


def start_s() -> float:
    """Seconds from a proxy's start to its first whole answer."""
    upstream, upstream_port = machine.start_upstream()
    place = servers.Place(machine.free_port(), upstream_port, machine.ROOT, ())
    command = servers.SERVERS[DRAGOMAN].command(place)
    assert command is not None
    body = request_body("responses", "whole", "1 KB")
    headers = {"content-type": "application/json"}
    started = time.perf_counter()
    process = machine.start(command, core=machine.PROXY_CORE, log=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=5)
            with contextlib.suppress(ConnectionRefusedError), contextlib.closing(connection):
                connection.request("POST", "/v1/responses", body, headers)
                reply = connection.getresponse()
                assert reply.status == 200, reply.read()
                reply.read()
                return time.perf_counter() - started
            time.sleep(0.005)
    finally:
        machine.stop(process)
        machine.stop(upstream)
    raise machine.StartError(f"exited with {process.returncode}")


async def bodies(proxy: Proxy) -> list[Figure]:
    """CPU time of large requests, and the memory that an image takes."""
    per_item_ms, figures = [], []
    for items in (140, 500, 1000):
        body = agentic(items)
        used_ms = []
        for _ in range(15):
            before = machine.cpu_ns(proxy.pid)
            assert await proxy.post(body) == 200
            used_ms.append((machine.cpu_ns(proxy.pid) - before) / 1e6)
        middle_ms = statistics.median(used_ms)
        per_item_ms.append(middle_ms / items)
        title = f"request of {items} items and 25 tools, {len(body) / 1000:.0f} KB"
        goal_ms = 4 if items == 140 else None
        figures.append(Figure(title, middle_ms, "ms CPU", goal_ms))
    ratio = per_item_ms[-1] / per_item_ms[0]
    figures.append(Figure("an item of 1 000 beside one of 140", ratio, "times the CPU", PROPORTION))
    body = image()
    rest_mb = proxy.memory_mb()
    proxy.reset_peak()
    assert await proxy.post(body) == 200
    copies = (proxy.memory_mb("VmHWM") - rest_mb) * 1e6 / len(body)
    return [*figures, Figure("20 MB image, memory above rest", copies, "copies of the body", 3)]


async def long_streams(proxy: Proxy) -> list[Figure]:
    """CPU time of chunks in streams of two lengths; the upstream writes as fast as it can."""
    per_chunk_us = []
    for deltas, streams in ((LONG_STREAM // 100, 100), (LONG_STREAM, 1)):
        body = request_body("responses", f"stream-{deltas}")
        await proxy.post(body)  # the upstream makes the stream's bytes
        before = machine.cpu_ns(proxy.pid)
        for _ in range(streams):
            assert await proxy.post(body) == 200
        per_chunk_us.append((machine.cpu_ns(proxy.pid) - before) / 1e3 / deltas / streams)
    short_us, long_us = per_chunk_us
    return [
        Figure("stream of 100 000 chunks, flat out", long_us, "us CPU per chunk"),
        Figure(
            "a chunk of 100 000 beside one of 1 000",
            long_us / short_us,
            "times the CPU",
            PROPORTION,
        ),
    ]


async def streams(proxy: Proxy) -> list[Figure]:
    """Memory while many streams are open."""
    body = request_body("responses", "stream-20-1000ms")
    replies = await asyncio.gather(*(proxy.open(body) for _ in range(OPEN_STREAMS)))
    figures = [Figure(f"{OPEN_STREAMS} open streams", proxy.memory_mb(), "MB resident", 300)]
    for reply in replies:
        assert isinstance(reply.stream, httpx.AsyncByteStream)
        await reply.stream.aclose()
    return figures


async def soak(proxy: Proxy, requests: int) -> list[Figure]:
    """Memory and open files after a tenth, and after all, of many requests."""
    good, bad = request_body("responses", "whole"), request_body("responses", "no-such-model")
    slow = request_body("responses", "stream-20-100ms")
    numbers = iter(range(requests))
    seen: list[tuple[float, int]] = []

    async def see() -> None:
        await asyncio.sleep(0.5)  # for the last ones that were aborted
        seen.append((proxy.memory_mb(), proxy.files()))

    async def work(last: int) -> None:
        for number in numbers:
            if number % 10 == 0:
                reply = await proxy.open(slow)
                assert isinstance(reply.stream, httpx.AsyncByteStream)
                await reply.stream.aclose()
            elif number % 10 == 1:
                assert await proxy.post(bad) == 400
            else:
                assert await proxy.post(good) == 200
            if number >= last:
                break

    started = time.monotonic()
    for last in (requests // 10, requests):
        await asyncio.gather(*(work(last) for _ in range(PARALLEL)))
        await see()
    took_s = time.monotonic() - started
    (early_mb, early_files), (late_mb, late_files) = seen
    what = f"{requests} requests, a tenth aborted, a tenth failing"
    return [
        Figure(what, took_s, "s"),
        Figure("after a tenth of them", early_mb, "MB resident"),
        Figure("after all", late_mb, "MB resident"),
        Figure("grown since a tenth of them", late_mb - early_mb, "MB", GROWTH_MB),
        Figure("open files since a tenth of them", late_files - early_files, "more", GROWTH_FILES),
    ]


async def _measure(proxy: Proxy, requests: int) -> list[Figure]:
    await proxy.post(request_body("responses", "whole"))
    figures = [Figure("at rest, after one request", proxy.memory_mb(), "MB resident", 120)]
    for part in (bodies(proxy), long_streams(proxy), soak(proxy, requests), streams(proxy)):
        figures += await part
    return figures


def measure(*, quick: bool = False) -> list[Figure]:
    """All figures.

    Raises:
        machine.StartError: A server did not start.
    """
    with machine.pinned(machine.LOAD_CORE):
        starts_s = [start_s() for _ in range(3 if quick else 7)]
        figures = [Figure("start to first answer", statistics.median(starts_s), "s", 1)]
        with running() as proxy, asyncio.Runner(loop_factory=new_event_loop) as runner:
            return figures + runner.run(_measure(proxy, 4_000 if quick else 200_000))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits")
    parser.add_argument("--quick", action="store_true", help="4 000 requests, not 200 000")
    print(figures_table(measure(quick=parser.parse_args().quick)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
