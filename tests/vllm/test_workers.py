"""A real vLLM behind several workers: its state, its end under load, and what is left.

After the other tests by its name, since two vLLMs that start and work leave each other no core.
"""

import json
import signal
from collections.abc import Iterator

import httpx
import pytest

from tests.extras import vllm_env
from tests.extras.need import need
from tests.vllm.conftest import Served, alive, descendants, spawn, stopping
from tests.vllm.test_real_vllm_faults import back_again, restarts, under_load

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Two workers in front of one vLLM."""
    config = tmp_path_factory.mktemp("shared") / "dragoman.toml"
    served = spawn(need(vllm_env.ensure), config, workers=2)
    with stopping(served):
        served.wait_ready()
        yield served


def workers_of(served: Served) -> set[int]:
    lines = [json.loads(line) for line in served.lines if '"event":"request"' in line]
    return {line["worker"] for line in lines}


async def test_both_workers_reach_it_and_tell_of_its_end(shared: Served) -> None:
    """Streams of both break off with the reason; new requests wait for the restart."""
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        ready = (await client.get(f"{shared.root}/ready")).json()["vllm"]["default"]
    assert (ready["state"], ready["message"], ready["model"]) == ("ready", "", "tiny")
    assert ready["version"]
    before = descendants(shared.process.pid)
    for stream in await under_load(shared, "EngineCore", signal.SIGKILL):
        stream.is_failed()
    await back_again(shared)
    while workers_of(shared) != {0, 1}:  # the kernel decides where a connection goes
        await back_again(shared)
    assert len(restarts(shared)) == 1
    assert len(alive(before)) == 2, "of all processes the workers alone are as before"
