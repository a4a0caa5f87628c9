"""A vLLM that dies or falls ill after it was ready: what is noticed, told, and restarted."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import structlog.testing

from backends.base import UpstreamRequest
from backends.errors import BackendError, BackendExited, BackendTimeout, BackendUnavailable
from backends.openai_compatible import OpenAICompatibleBackend
from backends.process import ManagedProcess, State
from backends.stall import EngineStalled, StallWatch
from backends.supervision import Backoff, Supervision, watch
from backends.traffic import Traffic
from backends.transport import AsyncioTransport
from backends.vllm import VllmBackend
from tests.backends.managed_vllm import install_fake, is_, post, started
from tests.backends.processes import Family, a_family, linux_only, until


def quick(**rules: float | bool) -> Supervision:
    usual = {"health_interval_s": 1.0, "backoff_s": 0.02, "wait_s": 0.0}
    return Supervision(**{**usual, **rules})  # type: ignore[arg-type]


@pytest.fixture
def family() -> Iterator[Family]:
    with a_family() as family:
        yield family


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    return install_fake(tmp_path)


def connect(url: str, key: str) -> OpenAICompatibleBackend:
    return OpenAICompatibleBackend("local", url, AsyncioTransport(), api_key=key)


async def as_it_is(error: BackendError) -> BackendError:
    return error


async def pid_of(backend: VllmBackend) -> int:
    await until(is_(State.READY, backend))
    pid = (await post(backend))["pid"]
    assert isinstance(pid, int)
    return pid


class TestBackoff:
    def test_pauses_double_up_to_the_cap(self) -> None:
        backoff = Backoff(Supervision(backoff_s=1, backoff_cap_s=60))
        assert [backoff.next_s(0) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]

    def test_they_begin_anew_after_a_calm_time(self) -> None:
        backoff = Backoff(Supervision(backoff_s=1, calm_s=100))
        assert [backoff.next_s(s) for s in (0, 99, 100, 0)] == [1, 2, 1, 2]

    def test_the_cap_holds_for_the_first_too(self) -> None:
        assert Backoff(Supervision(backoff_s=9, backoff_cap_s=5)).next_s(0) == 5


class TestRestart:
    async def test_killed_it_comes_back_and_answers(
        self, family: Family, installed: dict[str, str]
    ) -> None:
        with structlog.testing.capture_logs() as logs:
            async with started(family, installed, supervision=quick()) as backend:
                first = await pid_of(backend)
                os.kill(first, signal.SIGKILL)
                await until(lambda: backend.state is not State.READY)
                assert await pid_of(backend) != first
        restarts = [log for log in logs if log["event"] == "vllm_restart"]
        assert [log["pause_s"] for log in restarts] == [0.02]
        assert restarts[0]["reason"].startswith("vLLM was ended by SIGKILL")

    async def test_a_request_in_flight_gets_the_reason(
        self, family: Family, installed: dict[str, str]
    ) -> None:
        async with started(family, installed, supervision=quick(backoff_s=30)) as backend:
            await pid_of(backend)
            with pytest.raises(BackendExited, match="local: vLLM exited with status 9") as caught:
                await post(backend, "/die")
            assert caught.value.retry_after_s is not None

    async def test_who_loses_the_engine_gets_the_reason(
        self, family: Family, installed: dict[str, str]
    ) -> None:
        words = "RuntimeError: Unsupported CPU attention configuration: head_dim=16 isa=2"
        env = {**installed, "FAKE_LAST_WORDS": words}
        async with started(family, env, supervision=quick(backoff_s=30)) as backend:
            await until(is_(State.READY, backend))
            assert await post(backend, "/fail") == {"error": {"message": "a fault of one request"}}
            said = r"local: vLLM answers GET /health with status 503: vLLM's attention .* of 16$"
            with pytest.raises(BackendExited, match=said):
                await post(backend, "/lose-engine")
            with pytest.raises(BackendExited, match=said):
                await backend.probe()

    async def test_a_reply_that_had_begun_breaks_off(
        self, family: Family, installed: dict[str, str]
    ) -> None:
        options = {"connect": connect, "supervision": quick(backoff_s=30)}
        async with started(family, installed, **options) as backend:
            await until(is_(State.READY, backend))
            reply = await backend.send(UpstreamRequest("POST", "/break-off", body=b"{}"))
            with pytest.raises(BackendExited, match="local: vLLM exited with status 9"):
                assert [chunk async for chunk in reply.chunks()]
            await reply.aclose()

    async def test_new_requests_are_refused_with_a_time_and_the_reason(
        self, family: Family, installed: dict[str, str]
    ) -> None:
        async with started(family, installed, supervision=quick(backoff_s=30)) as backend:
            os.kill(await pid_of(backend), signal.SIGKILL)
            await until(is_(State.EXITED, backend))
            await until(lambda: backend._life.pause_left_s > 20)
            for ask in (backend.probe, lambda: backend.send(UpstreamRequest("GET", "/models"))):
                with pytest.raises(BackendUnavailable) as caught:
                    await ask()
                assert caught.value.retry_after_s in (29, 30)
                assert str(caught.value).startswith(
                    "local: vLLM is being restarted; before that: vLLM was ended by SIGKILL"
                )

    async def test_new_requests_may_wait(self, family: Family, installed: dict[str, str]) -> None:
        async with started(family, installed, supervision=quick(wait_s=10)) as backend:
            first = await pid_of(backend)
            os.kill(first, signal.SIGKILL)
            await until(lambda: backend.state is not State.READY)
            pids = await asyncio.gather(*(post(backend) for _ in range(5)))
            assert len({seen["pid"] for seen in pids}) == 1
            assert pids[0]["pid"] != first

    @linux_only
    async def test_even_before_the_end_is_noticed(
        self, family: Family, installed: dict[str, str]
    ) -> None:
        """A refused connection is a request of which nothing was sent."""
        async with started(family, installed, supervision=quick(wait_s=10)) as backend:
            await until(is_(State.READY, backend))
            first = (await post(backend, "/leave"))["pid"]
            assert (await post(backend))["pid"] != first

    async def test_but_not_for_ever(self, family: Family, installed: dict[str, str]) -> None:
        rules = quick(backoff_s=30, wait_s=0.05)
        async with started(family, installed, supervision=rules) as backend:
            os.kill(await pid_of(backend), signal.SIGKILL)
            await until(is_(State.EXITED, backend))
            with pytest.raises(BackendUnavailable, match="being restarted"):
                await post(backend)

    async def test_who_waits_is_told_of_the_end(
        self, family: Family, installed: dict[str, str]
    ) -> None:
        rules = quick(backoff_s=30, wait_s=30)
        async with started(family, installed, supervision=rules) as backend:
            os.kill(await pid_of(backend), signal.SIGKILL)
            await until(is_(State.EXITED, backend))
            waiting = asyncio.create_task(post(backend))
            await asyncio.sleep(0)  # until it waits
            await backend.aclose()
            with pytest.raises(BackendExited):
                await waiting

    async def test_a_restart_that_fails_is_tried_again(
        self, family: Family, installed: dict[str, str], tmp_path: Path
    ) -> None:
        obstacle = tmp_path / "obstacle"
        env = {**installed, "FAKE_EXIT_IF": str(obstacle)}
        with structlog.testing.capture_logs() as logs:
            async with started(family, env, supervision=quick()) as backend:
                first = await pid_of(backend)
                obstacle.touch()
                os.kill(first, signal.SIGKILL)

                def pauses() -> list[float]:
                    return [log["pause_s"] for log in logs if log["event"] == "vllm_restart"]

                await until(lambda: len(pauses()) >= 2)
                obstacle.unlink()
                await until(is_(State.READY, backend))
                assert await pid_of(backend) != first
                assert pauses()[:2] == [0.02, 0.04]

    async def test_what_never_was_ready_is_not_restarted(
        self, family: Family, installed: dict[str, str]
    ) -> None:
        with structlog.testing.capture_logs() as logs:
            env = {**installed, "FAKE_EXIT": "4"}
            async with started(family, env, supervision=quick(wait_s=10)) as backend:
                await until(is_(State.FAILED, backend))
                with pytest.raises(BackendExited, match="status 4 before it was ready") as caught:
                    await post(backend)
                assert caught.value.retry_after_s is None
        assert [log["event"] for log in logs].count("vllm_start") == 1

    async def test_not_if_it_is_switched_off(
        self, family: Family, installed: dict[str, str]
    ) -> None:
        async with started(family, installed, supervision=quick(restart=False)) as backend:
            os.kill(await pid_of(backend), signal.SIGKILL)
            await until(is_(State.EXITED, backend))
            with pytest.raises(BackendExited, match="SIGKILL"):
                await post(backend)


class TestHealth:
    async def test_alive_but_ill_it_is_replaced(
        self, family: Family, installed: dict[str, str]
    ) -> None:
        with structlog.testing.capture_logs() as logs:
            async with started(
                family, installed, supervision=quick(health_interval_s=0.02)
            ) as backend:
                await until(is_(State.READY, backend))
                first = (await post(backend, "/sicken"))["pid"]
                await until(lambda: backend.state is not State.READY)
                assert await pid_of(backend) != first
        states = [log["state"] for log in logs if log["event"] == "process_state"]
        assert states[:5] == ["starting", "ready", "unhealthy", "stopping", "exited"]
        reasons = [log["reason"] for log in logs if log["event"] == "vllm_restart"]
        assert reasons == [
            "it failed 3 health checks in a row: vLLM answers GET /health with status 503"
        ]

    async def test_without_restarts_it_may_recover(
        self, family: Family, installed: dict[str, str]
    ) -> None:
        async with started(
            family, installed, supervision=quick(health_interval_s=0.02, restart=False)
        ) as backend:
            await until(is_(State.READY, backend))
            await post(backend, "/sicken")
            server = backend._life.server
            assert server is not None
            await until(is_(State.UNHEALTHY, backend))
            for ask in (backend.probe, lambda: post(backend)):
                with pytest.raises(BackendUnavailable, match="vLLM is unhealthy: it failed 3 "):
                    await ask()
            await server.send(UpstreamRequest("POST", "/heal"), as_it_is)
            await until(is_(State.READY, backend))
            await backend.probe()

    async def test_a_good_answer_forgives(self, family: Family) -> None:
        """Only failures in a row count."""
        answers = [False, False, True, False, False, True]
        process = ManagedProcess(["/bin/sleep", "60"], name="subject", probe=yes, poll_s=0.01)
        await process.start()
        await process.wait_ready()
        states = []

        async def check() -> None:
            states.append(process.state)
            if not answers:
                await process.stop()
            elif not answers.pop(0):
                raise BackendUnavailable("ill", backend="subject")

        await watch(process, check, quick(health_interval_s=0.001))
        assert states == [State.READY] * 7


class TestStall:
    """An engine that stands still behind a healthy server."""

    rules = quick(health_interval_s=0.02, stall_s=0.1, stall_answer_s=0.1)

    async def test_it_is_replaced_and_callers_are_told(
        self, family: Family, installed: dict[str, str]
    ) -> None:
        with structlog.testing.capture_logs() as logs:
            async with started(
                family, installed, connect=connect, supervision=self.rules, grace_s=60
            ) as backend:
                first = await pid_of(backend)
                streams = [
                    await backend.send(UpstreamRequest("POST", "/freeze", body=b"{}"))
                    for _ in range(3)
                ]
                waiting = asyncio.create_task(post(backend, "/completions"))
                for reply in streams:
                    with pytest.raises(BackendError, match="its engine stalled: nothing moved"):
                        assert [chunk async for chunk in reply.chunks()] != [b""]
                    await reply.aclose()
                with pytest.raises(BackendError, match="its engine stalled: nothing moved"):
                    await waiting
                assert await pid_of(backend) != first
        states = [log["state"] for log in logs if log["event"] == "process_state"]
        assert states[:5] == ["starting", "ready", "unhealthy", "stopping", "exited"]
        (reason,) = [log["reason"] for log in logs if log["event"] == "vllm_restart"]
        assert "(requests under way: 4), and a request for one token failed: vLLM did not" in reason

    async def test_without_restarts_it_may_recover(
        self, family: Family, installed: dict[str, str]
    ) -> None:
        rules = msgspec.structs.replace(self.rules, restart=False)
        async with started(family, installed, connect=connect, supervision=rules) as backend:
            await until(is_(State.READY, backend))
            reply = await backend.send(UpstreamRequest("POST", "/freeze", body=b"{}"))
            await until(is_(State.UNHEALTHY, backend))
            await reply.aclose()
            server = backend._life.server
            assert server is not None
            await server.send(UpstreamRequest("POST", "/thaw"), as_it_is)
            await until(is_(State.READY, backend))


class TestStallWatch:
    """What counts as motion, by a clock of the test's own."""

    def setup_method(self) -> None:
        self.now_s = 0.0
        self.traffic = Traffic()
        self.metrics = b"vllm:generation_tokens_total 1.0\n"
        self.asked = 0
        self.answers = True
        self.watch = StallWatch(
            name="local",
            traffic=self.traffic,
            read_metrics=self.read_metrics,
            ask=self.ask,
            stall_s=120,
            clock=lambda: self.now_s,
        )

    async def read_metrics(self) -> bytes:
        return self.metrics

    async def ask(self) -> None:
        self.asked += 1
        if not self.answers:
            raise BackendTimeout("too late", backend="local")

    async def after(self, seconds: float) -> None:
        """Check every five seconds for a while."""
        for _ in range(int(seconds / 5)):
            self.now_s += 5
            await self.watch.check()

    async def test_without_requests_nothing_is_asked(self) -> None:
        await self.after(1000)
        assert self.asked == 0

    async def test_pieces_of_replies_are_motion(self) -> None:
        self.traffic.open = 2
        for _ in range(10):
            await self.after(100)
            self.traffic.heard += 1
        assert self.asked == 0

    async def test_a_long_prefill_is_motion(self) -> None:
        """No reply says anything, but the engine's counters move at each step."""
        self.traffic.open = 1
        for step in range(10):
            await self.after(100)
            self.metrics = f"vllm:kv_cache_usage_perc 0.{step}\n".encode()
        assert self.asked == 0

    async def test_what_callers_change_is_no_motion(self) -> None:
        self.traffic.open = 1
        for n in range(3):
            await self.after(50)
            self.metrics = b"vllm:generation_tokens_total 1.0\nhttp_requests_total %d\n" % n
        assert self.asked == 1

    async def test_a_slow_engine_that_answers_is_left_alone(self) -> None:
        self.traffic.open = 1
        await self.after(1000)
        assert self.asked == 8

    async def test_one_that_does_not_is_stalled_until_it_answers(self) -> None:
        self.traffic.open = 1
        self.answers = False
        await self.after(120)
        with pytest.raises(EngineStalled, match=r"moved for 120 s \(requests under way: 1\)"):
            await self.after(5)
        self.traffic.open = 0
        with pytest.raises(EngineStalled):
            await self.after(5)
        self.answers = True
        await self.after(100)
        assert self.asked == 3

    async def test_a_time_without_requests_does_not_count(self) -> None:
        await self.after(1000)
        self.traffic.open = 1
        await self.after(110)
        assert self.asked == 0


async def yes() -> bool:
    return True
