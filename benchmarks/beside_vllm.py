"""vLLM's own Responses endpoint beside ours over its Chat endpoint, on one real vLLM.

Run ``python -m benchmarks.beside_vllm``. The model is the tiny one of
``fixtures/tiny-model``, whose tokens cost next to nothing: what is compared is the work of the
servers around the model. The ways take turns within each round.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import httpx

from backends.transport import AsyncioTransport
from benchmarks import machine
from benchmarks.replies import WrongReplyError
from benchmarks.tables import markdown_table, number
from tests.extras import vllm_env

CHECKPOINT: Final = machine.ROOT / "fixtures" / "tiny-model" / "checkpoint"
FLAGS: Final = (
    *("--served-model-name", "tiny", "--max-model-len", "4096", "--seed", "0"),
    *("--enforce-eager", "--dtype", "bfloat16"),
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "qwen3"),
)
ALONE: Final = 20
"""Requests of each way, one at a time."""
BUSY: Final = 8
"""Requests under way at once, after that."""
ROUNDS: Final = 8
REQUESTS: Final = 48
"""Of each way in each round."""
START_LIMIT_S: Final = 300.0

NOTES: Final = f"""\
vLLM {vllm_env.VLLM} on the CPU; all processes share two cores. One at a time: medians of {ALONE},
the ways in turns. {BUSY} at once, and the CPU time of a request then: the least of {ROUNDS} rounds.
vLLM's engine takes all of both cores while it works, so that in some rounds, of any way, its own
server has to wait for it and everything takes two or three times as long. For the same reason there
is no figure for the first byte: tokens come late and together, whoever asks."""


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


class Block(NamedTuple):
    """Many requests at once, in milliseconds for each."""

    whole_ms: float
    vllm_cpu_ms: float
    proxy_cpu_ms: float


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
    """Ask one question; the milliseconds until all of the answer is there.

    Raises:
        WrongReplyError: The answer is none.
    """
    body = {"model": "tiny", "input": "Count to ten.", "stream": way.streams, "temperature": 0}
    started_s = time.perf_counter()
    reply = await client.post("/v1/responses", json=body)
    ended_s = time.perf_counter()
    if reply.status_code != 200 or "ten" not in reply.text:
        raise WrongReplyError(f"{way.title}: status {reply.status_code}: {reply.text[:300]}")
    return 1e3 * (ended_s - started_s)


def _client(found: Servers, way: Way) -> httpx.AsyncClient:
    port = found.proxy_port if way.through_proxy else found.vllm_port
    url = f"http://127.0.0.1:{port}"
    return httpx.AsyncClient(transport=AsyncioTransport(), base_url=url)


async def one_at_a_time(found: Servers) -> dict[Way, float]:
    """Median milliseconds of all ways, which take turns question by question."""
    answers_ms: dict[Way, list[float]] = {way: [] for way in WAYS}
    async with contextlib.AsyncExitStack() as stack:
        clients = {way: await stack.enter_async_context(_client(found, way)) for way in WAYS}
        for _ in range(ALONE):
            for way, client in clients.items():
                answers_ms[way].append(await ask(client, way))
    return {way: statistics.median(some) for way, some in answers_ms.items()}


async def block(found: Servers, way: Way, requests: int) -> Block:
    """Ask many questions in one way, some of them at once."""
    gate = asyncio.Semaphore(BUSY)
    async with _client(found, way) as client:

        async def one() -> float:
            async with gate:
                return await ask(client, way)

        before = machine.cpu_ns(found.vllm), machine.cpu_ns(found.proxy)
        answers_ms = await asyncio.gather(*(one() for _ in range(requests)))
        after = machine.cpu_ns(found.vllm), machine.cpu_ns(found.proxy)
    used_ms = ((b - a) / 1e6 / requests for a, b in zip(before, after, strict=True))
    return Block(statistics.mean(answers_ms), *used_ms)


async def measure() -> str:
    """Measure all ways and write them down."""
    with servers() as found:
        for way in WAYS:
            await block(found, way, BUSY)  # warms up
        alone_ms = await one_at_a_time(found)
        blocks: dict[Way, list[Block]] = {way: [] for way in WAYS}
        for turn in range(ROUNDS):
            # In turns the one way or the other is first.
            for way in WAYS if turn % 2 else reversed(WAYS):
                blocks[way].append(await block(found, way, REQUESTS))
    lines = []
    for way, some in blocks.items():
        at_once = Block(*map(min, zip(*some, strict=True)))
        lines.append(
            [
                way.title,
                number(alone_ms[way]),
                number(at_once.whole_ms),
                number(at_once.vllm_cpu_ms),
                number(at_once.proxy_cpu_ms) if way.through_proxy else "-",
            ]
        )
    head = ["Responses on one vLLM, ms", "one at a time", f"{BUSY} at once"]
    return markdown_table([*head, "CPU, vLLM", "CPU, Dragoman"], lines)


def report() -> str:
    """The table and how it came about.

    Raises:
        Unavailable: vLLM cannot be installed here.
        machine.StartError: A server did not start.
        WrongReplyError: A question had no answer.
    """
    return f"{asyncio.run(measure())}\n\n{NOTES}"


def main() -> None:
    """Measure and print."""
    argparse.ArgumentParser(prog="python -m benchmarks.beside_vllm").parse_args()
    print(report())


if __name__ == "__main__":
    main()
