"""Large bodies, many streams and a long life: time, memory and open files of the proxy.

Run ``python -m benchmarks.limits [--quick]``. The soak makes 200 000 requests (4 000 with
``--quick``) of which a tenth is aborted by the caller and a tenth fails upstream.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx

from backends.transport import AsyncioTransport
from benchmarks import machine
from benchmarks.requests import request_body
from benchmarks.tables import markdown_table
from benchmarks.upstream import new_event_loop

PARALLEL: Final = 64
OPEN_STREAMS: Final = 2000
IMAGE_BYTES: Final = 20_000_000


def agentic(items: int, tools: int = 25) -> bytes:
    """A Responses request with a long history: 3 KB per item."""
    parameters = {f"p{i}": {"type": "string", "description": "x" * 60} for i in range(8)}
    schema = {"type": "object", "properties": parameters}
    turn: list[list[dict[str, Any]]] = [
        [
            {"type": "message", "role": "user", "content": "q" * 2600},
            {"type": "function_call", "call_id": f"c{i}", "name": "tool_1", "arguments": "{}"},
            {"type": "function_call_output", "call_id": f"c{i}", "output": "line\n" * 1300},
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "a" * 2600}],
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
    """A proxy over the benchmark's upstream, just started; says how long its start took."""
    upstream, upstream_port = machine.start_upstream()
    port = machine.free_port()
    command = [
        *(machine.python(), "-m", "proxy", "serve", "--port", str(port), "--upstream-speaks"),
        *("chat", "--upstream", f"http://127.0.0.1:{upstream_port}/v1"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as file:
            process = machine.start(command, core=machine.PROXY_CORE, log=file)
        try:
            machine.wait_ready(process, f"http://127.0.0.1:{port}/ready", log, 20)
            yield Proxy(process.pid, port)
        finally:
            machine.stop(process)
            machine.stop(upstream)


async def bodies(proxy: Proxy) -> list[list[str]]:
    """CPU time of large requests, and the memory that an image takes."""
    lines = []
    for items in (140, 500, 1000):
        body = agentic(items)
        await proxy.post(body)
        used_ms = []
        for _ in range(10):
            before = machine.cpu_ns(proxy.pid)
            assert await proxy.post(body) == 200
            used_ms.append((machine.cpu_ns(proxy.pid) - before) / 1e6)
        title = f"request of {items} items, {len(body) / 1000:.0f} KB"
        lines.append([title, f"{min(used_ms):.1f} ms CPU"])
    body = image()
    rest_mb = proxy.memory_mb()
    proxy.reset_peak()
    assert await proxy.post(body) == 200
    copies = (proxy.memory_mb("VmHWM") - rest_mb) * 1e6 / len(body)
    lines.append(["20 MB image, memory above rest", f"{copies:.1f} times the body"])
    return lines


async def streams(proxy: Proxy) -> list[list[str]]:
    """Memory while many streams are open."""
    body = request_body("responses", "stream-20-1000ms")
    replies = await asyncio.gather(*(proxy.open(body) for _ in range(OPEN_STREAMS)))
    lines = [[f"{OPEN_STREAMS} open streams", f"{proxy.memory_mb():.0f} MB resident"]]
    for reply in replies:
        assert isinstance(reply.stream, httpx.AsyncByteStream)
        await reply.stream.aclose()
    return lines


async def soak(proxy: Proxy, requests: int) -> list[list[str]]:
    """Memory and open files after a tenth, and after all, of many requests."""
    good, bad = request_body("responses", "whole"), request_body("responses", "no-such-model")
    slow = request_body("responses", "stream-20-100ms")
    numbers = iter(range(requests))

    async def work() -> None:
        for number in numbers:
            if number % 10 == 0:
                reply = await proxy.open(slow)
                assert isinstance(reply.stream, httpx.AsyncByteStream)
                await reply.stream.aclose()
            elif number % 10 == 1:
                assert await proxy.post(bad) == 400
            else:
                assert await proxy.post(good) == 200
            if number == requests // 10:
                seen.append((proxy.memory_mb(), proxy.files()))

    seen: list[tuple[float, int]] = []
    started = time.monotonic()
    await asyncio.gather(*(work() for _ in range(PARALLEL)))
    await asyncio.sleep(0.5)  # for the last ones that were aborted
    seen.append((proxy.memory_mb(), proxy.files()))
    took = f"{time.monotonic() - started:.0f} s"
    facts = [f"{mb:.0f} MB, {files} open files" for mb, files in seen]
    return [
        [f"{requests} requests, a tenth aborted, a tenth failing", took],
        ["after a tenth of them", facts[0]],
        ["after all", facts[1]],
    ]


async def report(proxy: Proxy, requests: int) -> str:
    """All figures as a table."""
    await proxy.post(request_body("responses", "whole"))
    lines = [["at rest", f"{proxy.memory_mb():.0f} MB resident"]]
    lines += await bodies(proxy)
    lines += await soak(proxy, requests)
    lines += await streams(proxy)
    return markdown_table(["what", "figure"], lines)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits")
    parser.add_argument("--quick", action="store_true", help="4 000 requests, not 200 000")
    requests = 4_000 if parser.parse_args().quick else 200_000
    with running() as proxy, asyncio.Runner(loop_factory=new_event_loop) as runner:
        print(runner.run(report(proxy, requests)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
