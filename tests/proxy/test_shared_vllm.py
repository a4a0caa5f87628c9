"""The owner's vLLM as its workers see it: what callers are told is what one process would tell."""

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from backends.base import UpstreamRequest
from backends.errors import BackendError, BackendExited, BackendUnavailable
from backends.openai_compatible import OpenAICompatibleBackend
from backends.process import State
from backends.supervision import Supervision
from backends.transport import AsyncioTransport
from backends.vllm import VllmBackend
from proxy.parts import OwnParts
from proxy.settings import VLLM, Settings
from proxy.workers import link as link_module
from proxy.workers.channel import receive_first
from proxy.workers.commons import Attendant, Commons
from proxy.workers.link import Link, SharedVllm
from proxy.workers.tally import OWNER, Tallies
from tests.backends.managed_vllm import install_fake, post, started
from tests.backends.processes import Family, a_family, linux_only, until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is one worker only")


def quick(**rules: float | bool) -> Supervision:
    usual = {"health_interval_s": 0.05, "backoff_s": 0.02, "wait_s": 0.0, "stall_s": 0.0}
    return Supervision(**{**usual, **rules})  # type: ignore[arg-type]


def connect(url: str, key: str | None) -> OpenAICompatibleBackend:
    return OpenAICompatibleBackend("local", url, AsyncioTransport(), api_key=key)


@pytest.fixture
def family() -> Iterator[Family]:
    with a_family() as family:
        yield family


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    return install_fake(tmp_path)


Cast = tuple[VllmBackend, SharedVllm, SharedVllm, list[Attendant]]


@asynccontextmanager
async def sharing(family: Family, env: dict[str, str], **options: Any) -> AsyncIterator[Cast]:
    """The owner's vLLM, and it as two workers have it."""
    options = {"supervision": quick(), "connect": connect, **options}
    async with AsyncExitStack() as stack:
        owned = await stack.enter_async_context(started(family, env, **options))
        parts = OwnParts()
        parts.vllms["local"] = owned
        file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        commons = Commons(parts, Tallies(file.fileno(), 3, OWNER))
        shared: list[SharedVllm] = []
        attendants: list[Attendant] = []
        for number in range(2):
            link = Link(Tallies(file.fileno(), 3, 1 + number))
            vllm = link.vllm("local", VLLM("org/model"), connect)
            assert isinstance(vllm, SharedVllm)
            ours, theirs = socket.socketpair()
            attendants.append(await commons.attend(number, ours, Settings()))
            stack.callback(attendants[-1].close)
            await asyncio.to_thread(receive_first, theirs)
            await link.open(theirs, lambda: None)
            await vllm.start()
            stack.push_async_callback(vllm.aclose)
            shared.append(vllm)
        yield owned, shared[0], shared[1], attendants


def has(state: State, *vllms: SharedVllm) -> Callable[[], bool]:
    return lambda: all(vllm.state is state for vllm in vllms)


async def test_from_start_to_stop(
    family: Family, installed: dict[str, str], tmp_path: Path
) -> None:
    obstacle = tmp_path / "obstacle"
    obstacle.touch()
    env = {**installed, "FAKE_SICK_IF": str(obstacle)}
    async with sharing(family, env) as (owned, one, other, _):
        starting = r"^local: vLLM is still starting \((importing|serving), \d+ s so far\)"
        with pytest.raises(BackendUnavailable, match=starting) as early:
            await one.send(UpstreamRequest("GET", "/models"))
        assert early.value.retry_after_s == 5
        with pytest.raises(BackendUnavailable, match=starting):
            await other.probe()
        assert (one.served_model, one.version) == (None, None)

        obstacle.unlink()
        await until(has(State.READY, one, other))
        await until(lambda: one.version == other.version == "0.0.0")
        assert one.served_model == "org/model"
        await one.probe()
        assert (await post(one))["pid"] == (await post(other))["pid"]
        await owned.aclose()
        await until(has(State.EXITED, one, other))
        with pytest.raises(BackendExited):
            await post(one)


async def test_failed_start(family: Family, installed: dict[str, str]) -> None:
    async with sharing(family, {**installed, "FAKE_EXIT": "4"}) as (_, one, other, _a):
        await until(has(State.FAILED, one, other))
        for ask in (one.probe, lambda: post(other)):
            with pytest.raises(BackendExited, match="status 4 before it was ready") as caught:
                await ask()
            assert caught.value.retry_after_s is None


async def test_fault_of_the_owner_is_told(
    family: Family,
    installed: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody waits for an answer that never comes."""

    async def stumble() -> None:
        raise ZeroDivisionError

    async with sharing(family, installed) as (owned, one, _, attendants):
        monkeypatch.setattr(owned, "probe", stumble)
        async with asyncio.timeout(5):
            with pytest.raises(
                BackendError, match="unexpected error happened in the proxy"
            ) as caught:
                await one.probe()
        assert caught.value.status == 502
        assert not attendants[0]._ends
    assert "ZeroDivisionError" in caplog.text


async def test_request_in_flight_gets_the_reason(family: Family, installed: dict[str, str]) -> None:
    rules = quick(backoff_s=30)
    async with sharing(family, installed, supervision=rules) as (_, one, other, _a):
        await until(has(State.READY, one, other))
        reply = await one.send(UpstreamRequest("POST", "/break-off", body=b"{}"))
        with pytest.raises(BackendExited, match="local: vLLM exited with status 9"):
            assert [chunk async for chunk in reply.chunks()]
        await reply.aclose()
        with pytest.raises(BackendUnavailable, match="being restarted") as caught:
            await post(other)
        assert caught.value.retry_after_s in (29, 30)


async def test_who_loses_the_engine_gets_the_reason(
    family: Family, installed: dict[str, str]
) -> None:
    words = "RuntimeError: Unsupported CPU attention configuration: head_dim=16 isa=2"
    env = {**installed, "FAKE_LAST_WORDS": words}
    rules = quick(backoff_s=30, health_interval_s=30)
    async with sharing(family, env, supervision=rules) as (_, one, other, _a):
        await until(has(State.READY, one, other))
        assert await post(one, "/fail") == {"error": {"message": "a fault of one request"}}
        said = r"local: vLLM answers GET /health with status 503: vLLM's attention .* of 16$"
        with pytest.raises(BackendExited, match=said):
            await post(one, "/lose-engine")
        with pytest.raises(BackendExited, match=said):
            await other.probe()


async def test_new_requests_of_all_workers_wait_for_a_restart(
    family: Family, installed: dict[str, str]
) -> None:
    async with sharing(family, installed, supervision=quick(wait_s=30)) as (_, one, other, _a):
        await until(has(State.READY, one, other))
        first = (await post(one))["pid"]
        os.kill(first, signal.SIGKILL)
        await until(lambda: not has(State.READY, one)())
        seen = await asyncio.gather(*(post(vllm) for vllm in (one, other, one, other)))
        (second,) = {answer["pid"] for answer in seen}
        assert second != first


@linux_only
async def test_even_before_the_end_is_noticed(family: Family, installed: dict[str, str]) -> None:
    """A refused connection is a request of which nothing was sent."""
    rules = quick(wait_s=30, health_interval_s=30)
    async with sharing(family, installed, supervision=rules) as (_, one, other, _a):
        await until(has(State.READY, one, other))
        first = (await post(one, "/leave"))["pid"]
        assert (await post(other))["pid"] != first


async def test_who_waits_and_goes_is_forgotten(family: Family, installed: dict[str, str]) -> None:
    rules = quick(backoff_s=30, wait_s=30)
    async with sharing(family, installed, supervision=rules) as (owned, one, other, attendants):
        await until(has(State.READY, one, other))
        os.kill((await post(one))["pid"], signal.SIGKILL)
        await until(has(State.EXITED, one, other))
        waiting = [asyncio.create_task(post(vllm)) for vllm in (one, other)]
        await until(lambda: all(attendant._ends for attendant in attendants))
        waiting[0].cancel()
        await until(lambda: not attendants[0]._ends)
        await owned.aclose()
        with pytest.raises(BackendExited):
            await waiting[1]
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]


async def test_stall_is_noticed_by_what_workers_have_under_way(
    family: Family, installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them together; what a worker had that is gone counts no more."""
    monkeypatch.setattr(link_module, "_TELL_LOAD_S", 0.01)
    rules = quick(stall_s=0.3, stall_answer_s=0.1)
    with structlog.testing.capture_logs() as logs:
        async with sharing(family, installed, supervision=rules) as (owned, one, other, attendants):
            await until(has(State.READY, one, other))
            assert owned.server is not None
            traffic = owned.server.traffic
            await (await other.send(UpstreamRequest("POST", "/x", body=b"{}"))).aclose()
            await until(lambda: (traffic.open, traffic.heard) == (0, 1))
            lost = await other.send(UpstreamRequest("POST", "/freeze", body=b"{}"))
            replies = [
                await one.send(UpstreamRequest("POST", "/freeze", body=b"{}")) for _ in range(2)
            ]
            await until(lambda: traffic.open == 3)
            attendants[1].close()
            await until(lambda: traffic.open == 2)
            for reply in replies:
                with pytest.raises(BackendError, match="its engine stalled: nothing moved"):
                    assert [chunk async for chunk in reply.chunks()] != [b""]
                await reply.aclose()
            await lost.aclose()
    (reason,) = [log["reason"] for log in logs if log["event"] == "vllm_restart"]
    assert "(requests under way: 2), and a request for one token failed: vLLM did not" in reason
