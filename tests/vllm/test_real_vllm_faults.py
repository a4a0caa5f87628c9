"""A real vLLM that is killed, frozen or broken under load: what callers see, and what is left.

After ``test_real_vllm.py`` by its name, since each fault costs the shared vLLM a start.
"""

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.backends.processes import until
from tests.extras import vllm_env
from tests.extras.need import need
from tests.vllm.conftest import CHECKPOINT, Served, alive, descendants, spawn, stopping

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

STREAMS = 4
"""Of each API."""

LONG: Any = {"model": "tiny", "stream": True, "ignore_eos": True}
PATIENCE_S = 300


def part_of(served: Served, part: str) -> int:
    """Process id of vLLM's ``EngineCore``, ``Worker`` or ``APIServer``."""
    found = set()
    for pid in descendants(served.process.pid):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        is_server = "-m vllm.entrypoints" in command and "guardian.py" not in command
        if f"VLLM::{part}" in command or (part == "APIServer" and is_server):
            found.add(pid)
    (first,) = (pid for pid in found if parent_of(pid) not in found)  # its helpers bear its name
    return first


def parent_of(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


class Stream:
    """One caller's stream: ``begun`` is set when it has text, and then it waits to ``go_on``.

    Read without a pause, eight streams leave a busy test no time to act before they are over.
    """

    def __init__(self, path: str, body: dict[str, Any]) -> None:
        self.is_chat = path.startswith("/chat")
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.frames: list[dict[str, Any]] = []
        self._path = path
        self._body = body

    async def run(self, client: httpx.AsyncClient) -> None:
        """Read it to its end, which must be one that HTTP knows."""
        async with client.stream("POST", self._path, json=self._body) as reply:
            assert reply.status_code == 200
            async for line in reply.aiter_lines():
                if line.startswith("data: {"):
                    self.frames.append(json.loads(line.removeprefix("data: ")))
                    if len(self.frames) > 8:
                        self.begun.set()
                        await self.go_on.wait()

    def is_failed(self) -> None:
        """Check that it ends in an error of the caller's schema."""
        if self.is_chat:
            assert "error" in self.frames[-1], f"{len(self.frames)} frames: {self.frames[-1]}"
            assert self.message
            assert not any(c["finish_reason"] for f in self.frames[:-1] for c in f["choices"])
        else:
            assert [frame["type"] for frame in self.frames[-2:]] == ["error", "response.failed"]
            assert self.frames[-1]["response"]["error"]["message"]
            numbers = [frame["sequence_number"] for frame in self.frames]
            assert numbers == list(range(len(self.frames)))

    @property
    def message(self) -> str:
        """What the caller is told."""
        failed: dict[str, Any] = self.frames[-1] if self.is_chat else self.frames[-1]["response"]
        message = failed["error"]["message"]
        assert isinstance(message, str)
        return message


async def count_running(served: Served, client: httpx.AsyncClient) -> int:
    """How many requests the engine works at, as vLLM itself counts them."""
    root = served.vllm_url().removesuffix("/v1")
    metrics = await client.get(f"{root}/metrics")
    counts = re.findall(r"^vllm:num_requests_running\S* (\S+)$", metrics.text, re.MULTILINE)
    return int(sum(map(float, counts)))


async def under_load(served: Served, part: str, number: signal.Signals) -> list[Stream]:
    """Send a signal to a part of vLLM while streams of both APIs run; the ended streams.

    On a busy machine the first of them may be over when the last begins: then all begin anew.
    """
    chat = {**LONG, "max_tokens": 3500, "messages": [{"role": "user", "content": "Hello!"}]}
    responses = {**LONG, "max_output_tokens": 3500, "input": "Hello!"}
    async with (
        asyncio.timeout(PATIENCE_S),
        httpx.AsyncClient(
            base_url=f"{served.root}/v1", timeout=PATIENCE_S, trust_env=False
        ) as client,
    ):
        while True:
            streams = [
                *(Stream("/chat/completions", chat) for _ in range(STREAMS)),
                *(Stream("/responses", responses) for _ in range(STREAMS)),
            ]
            async with asyncio.TaskGroup() as running:
                for stream in streams:
                    running.create_task(stream.run(client))
                await asyncio.gather(*(stream.begun.wait() for stream in streams))
                pid = part_of(served, part)
                if are_open := await count_running(served, client) == len(streams):
                    os.kill(pid, number)
                for stream in streams:
                    stream.go_on.set()
            if are_open:
                return streams


async def back_again(served: Served) -> None:
    """Ask until it answers; while it is being restarted a request waits."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Where is Oslo?"}]}
    deadline_s = time.monotonic() + PATIENCE_S
    async with httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as client:
        while True:
            reply = await client.post(f"{served.root}/v1/chat/completions", json=body)
            if reply.status_code == 200:
                assert "Oslo" in reply.json()["choices"][0]["message"]["content"]
                return
            assert reply.status_code >= 500
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.5)


def restarts(served: Served) -> list[str]:
    """Why vLLM was restarted, as the log has it."""
    lines = [json.loads(line) for line in served.lines if '"vllm_restart"' in line]
    return [line["reason"] for line in lines]


@pytest.fixture(scope="module")
def head_dim_16(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A model that loads, and kills the engine at the first request; it is not started again.

    It starts when the others are done with: two vLLMs that start and work at once leave each other
    no core, so that both look ill.
    """
    folder = tmp_path_factory.mktemp("model")
    for file in CHECKPOINT.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    config = msgspec.json.decode((folder / "config.json").read_bytes())
    (folder / "config.json").write_bytes(msgspec.json.encode({**config, "head_dim": 16}))
    python = need(vllm_env.ensure)
    flags = ("--load-format", "dummy")
    served = spawn(python, folder / "dragoman.toml", *flags, model=folder, backoff_s=60)
    with stopping(served):
        yield served


@pytest.mark.parametrize("part", ["EngineCore", "Worker", "APIServer"])
async def test_a_part_that_is_killed(tiny: Served, part: str) -> None:
    before = descendants(tiny.process.pid)
    count = len(restarts(tiny))
    for stream in await under_load(tiny, part, signal.SIGKILL):
        stream.is_failed()
    await back_again(tiny)
    assert len(restarts(tiny)) == count + 1
    assert alive(before) == set()


async def test_a_model_that_kills_the_engine_gives_the_reason(head_dim_16: Served) -> None:
    reason = "vLLM's attention for CPUs cannot do this model's head_dim of 16"
    head_dim_16.wait_ready()
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello!"}]}
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        refused = await client.post(f"{head_dim_16.root}/v1/chat/completions", json=body)
        assert refused.status_code == 503
        assert reason in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) > 0

        ready = await client.get(f"{head_dim_16.root}/ready")
        assert (ready.status_code, reason in ready.json()["upstreams"]["default"]) == (503, True)
    await until(lambda: restarts(head_dim_16) != [], within_s=60)
    assert restarts(head_dim_16) == [reason]


async def test_an_engine_that_stands_still(tiny: Served) -> None:
    """The last one: nobody waits for the restart, which is as the others."""
    before = descendants(tiny.process.pid)
    for stream in await under_load(tiny, "EngineCore", signal.SIGSTOP):
        stream.is_failed()
        assert "its engine stalled" in stream.message
    stalled = "its engine stalled: nothing moved for "
    await until(lambda: restarts(tiny)[-1:] != [] and restarts(tiny)[-1].startswith(stalled))
    await until(lambda: alive(before) == set())
