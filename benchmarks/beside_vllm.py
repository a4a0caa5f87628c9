"""vLLM's own Responses endpoint beside ours over its Chat endpoint, on one real vLLM.

Run ``python -m benchmarks.beside_vllm [--write]``. The model is the tiny one of
``fixtures/tiny-model``, whose tokens cost next to nothing: what is compared is the work of the
servers around the model. The ways take turns within each round.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import httpx

from backends.transport import AsyncioTransport
from benchmarks import machine
from tests.extras import vllm_env

OUTPUT: Final = Path(__file__).with_name("BESIDE_VLLM.md")
CHECKPOINT: Final = machine.ROOT / "fixtures" / "tiny-model" / "checkpoint"
FLAGS: Final = (
    *("--served-model-name", "tiny", "--max-model-len", "4096", "--seed", "0"),
    *("--enforce-eager", "--dtype", "bfloat16"),
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "qwen3"),
)
BUSY: Final = 8
"""Requests under way at once."""
ROUNDS: Final = 5
REQUESTS: Final = 64
"""Of each way in each round."""
START_LIMIT_S: Final = 300.0


class Servers(NamedTuple):
    """The processes and the ports they listen on."""

    vllm: int
    vllm_port: int
    proxy: int
    proxy_port: int


class Way(NamedTuple):
    """A line of the table."""

    title: str
    through_proxy: bool
    streams: bool


WAYS: Final = tuple(
    Way(f"{who}, {how}", through_proxy, streams)
    for how, streams in (("whole", False), ("streamed", True))
    for who, through_proxy in (("vLLM's own Responses", False), ("Dragoman over its Chat", True))
)


class Sample(NamedTuple):
    """One round of one way, per request: milliseconds, and those of CPU time."""

    wall_ms: float
    first_ms: float
    vllm_ms: float
    proxy_ms: float


@contextlib.contextmanager
def servers() -> Iterator[Servers]:
    """A vLLM, and a Dragoman in front of it."""
    ports = machine.free_port(), machine.free_port()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    vllm = [str(vllm_env.ensure()), "-m", "vllm.entrypoints.openai.api_server"]
    vllm += ["--model", str(CHECKPOINT), "--host", "127.0.0.1", "--port", str(ports[0]), *FLAGS]
    proxy = [machine.python(), "-m", "proxy", "serve", "--port", str(ports[1])]
    proxy += ["--upstream", f"http://127.0.0.1:{ports[0]}/v1", "--upstream-speaks", "chat"]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        running = []
        for name, command, port in (("vllm", vllm, ports[0]), ("proxy", proxy, ports[1])):
            log = Path(folder) / name
            file = stack.enter_context(log.open("wb"))
            process = machine.start(command, core=None, log=file, environment=environment)
            stack.callback(machine.stop, process)
            machine.wait_ready(process, f"http://127.0.0.1:{port}/health", log, START_LIMIT_S)
            running.append(process.pid)
        yield Servers(running[0], ports[0], running[1], ports[1])


async def ask(client: httpx.AsyncClient, way: Way) -> float:
    """Ask one question; seconds until the first byte of the answer.

    Raises:
        RuntimeError: The answer is none.
    """
    body = {"model": "tiny", "input": "Count to ten.", "stream": way.streams, "temperature": 0}
    started_s = time.perf_counter()
    first_s = 0.0
    text = b""
    async with client.stream("POST", "/v1/responses", json=body) as reply:
        async for piece in reply.aiter_raw():
            first_s = first_s or time.perf_counter() - started_s
            text += piece
    if reply.status_code != 200 or b"ten" not in text:
        raise RuntimeError(f"{way.title}: status {reply.status_code}: {text[:300]!r}")
    return first_s


async def sample(found: Servers, way: Way, requests: int) -> Sample:
    """Ask many questions in one way."""
    port = found.proxy_port if way.through_proxy else found.vllm_port
    gate = asyncio.Semaphore(BUSY)
    async with httpx.AsyncClient(
        transport=AsyncioTransport(), base_url=f"http://127.0.0.1:{port}"
    ) as client:

        async def one() -> float:
            async with gate:
                return await ask(client, way)

        before = machine.cpu_ns(found.vllm), machine.cpu_ns(found.proxy)
        started_s = time.perf_counter()
        firsts = await asyncio.gather(*(one() for _ in range(requests)))
        wall_s = time.perf_counter() - started_s
        after = machine.cpu_ns(found.vllm), machine.cpu_ns(found.proxy)
    vllm_ms, proxy_ms = ((b - a) / 1e6 / requests for a, b in zip(before, after, strict=True))
    return Sample(
        1e3 * wall_s / requests * BUSY, 1e3 * statistics.median(firsts), vllm_ms, proxy_ms
    )


async def table() -> str:
    """Measure all ways and write them down."""
    with servers() as found:
        for way in WAYS:
            await sample(found, way, BUSY)
        samples: dict[Way, list[Sample]] = {way: [] for way in WAYS}
        for _ in range(ROUNDS):
            for way in WAYS:
                samples[way].append(await sample(found, way, REQUESTS))
    lines = [
        "| Responses on one vLLM | ms per request | ms to the first byte | CPU ms, vLLM | CPU ms, "
        "Dragoman |",
        "|:--|--:|--:|--:|--:|",
    ]
    for way, found_samples in samples.items():
        middle = [statistics.median(values) for values in zip(*found_samples, strict=True)]
        proxy = f"{middle[3]:.2f}" if way.through_proxy else "-"
        lines.append(
            f"| {way.title} | {middle[0]:.1f} | {middle[1]:.1f} | {middle[2]:.1f} | {proxy} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure and print; with ``--write`` also keep it."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.beside_vllm")
    parser.add_argument("--write", action="store_true", help=f"also write {OUTPUT.name}")
    options = parser.parse_args()
    text = asyncio.run(table())
    facts = machine.describe(["uvicorn", "msgspec", "httptools"])
    head = "\n".join(f"- {name}: {value}" for name, value in [*facts, ("vllm", vllm_env.VLLM)])
    print(text)
    if options.write:
        how = f"`python -m benchmarks.beside_vllm --write`: {BUSY} requests at once, medians of"
        OUTPUT.write_text(
            f"# Beside vLLM's own Responses\n\n{how} {ROUNDS} rounds.\n\n{head}\n\n{text}\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
