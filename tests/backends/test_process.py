"""The life of a managed process: its states, its reasons, and what is left of it."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from backends import process as process_module
from backends.process import ManagedProcess, State
from backends.spawn import LINE_BYTES, LineSplitter, describe_status
from tests.backends.processes import Family, a_family, until

PYTHON = (sys.executable, "-I", "-S", "-u", "-c")
SLEEPS = "import time; print('up'); time.sleep(120)"
IGNORES_TERM = f"import signal; signal.signal(15, signal.SIG_IGN); {SLEEPS}"


@pytest.fixture
def family() -> Iterator[Family]:
    with a_family() as family:
        yield family


async def yes() -> bool:
    return True


async def no() -> bool:
    return False


class No:
    """A probe that says no; how often it was asked."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self) -> bool:
        self.count += 1
        return False

    async def asked_again(self) -> None:
        """Wait until it was asked after whatever happened before."""
        before = self.count
        await until(lambda: self.count >= before + 2)


async def never() -> bool:
    await asyncio.Event().wait()
    return True


@contextlib.asynccontextmanager
async def managed(
    family: Family, code: str, *, probe: process_module.Probe = yes, **options: Any
) -> AsyncIterator[ManagedProcess]:
    """A started process that is stopped at the end."""
    process = ManagedProcess(
        [*PYTHON, code], name="subject", probe=probe, env=family.env, poll_s=0.01, **options
    )
    await process.start()
    try:
        yield process
    finally:
        process.hurry()
        async with asyncio.timeout(10):
            await process.stop()


def said(process: ManagedProcess, line: str) -> Callable[[], bool]:
    return lambda: line in process.tail


class TestStates:
    async def test_start_and_stop(self, family: Family) -> None:
        with structlog.testing.capture_logs() as logs:
            async with managed(family, SLEEPS) as process:
                assert await process.wait_ready(10) is State.READY
                assert process.reason == ""
                await process.stop()
                assert process.state is State.EXITED
                assert process.reason == "it was stopped"
                assert process.exit_status == 128 + signal.SIGTERM
                assert family.gone()
        moves = [(log["was"], log["state"]) for log in logs if log["event"] == "process_state"]
        assert moves == [
            ("new", "starting"),
            ("starting", "ready"),
            ("ready", "stopping"),
            ("stopping", "exited"),
        ]

    async def test_stop_is_idempotent_and_may_be_called_by_many(self, family: Family) -> None:
        async with managed(family, SLEEPS) as process:
            await process.wait_ready(10)
            await asyncio.gather(process.stop(), process.stop("again"))
            await process.stop()
            assert (process.state, process.reason) == (State.EXITED, "it was stopped")

    async def test_stop_before_the_start(self) -> None:
        process = ManagedProcess(["true"], name="subject", probe=yes)
        await process.stop()
        assert process.state is State.EXITED
        assert await process.wait_ended(0) is State.EXITED

    async def test_a_second_start_is_refused(self, family: Family) -> None:
        async with managed(family, SLEEPS) as process:
            with pytest.raises(RuntimeError):
                await process.start()

    async def test_stop_while_starting(self, family: Family) -> None:
        async with managed(family, SLEEPS, probe=no) as process:
            await until(said(process, "up"))
            await process.stop()
            assert (process.state, family.gone()) == (State.EXITED, True)

    async def test_stop_right_after_start_finds_the_process_being_spawned(
        self, family: Family
    ) -> None:
        async with managed(family, SLEEPS, probe=no) as process:
            await process.stop()
            assert (process.state, family.gone()) == (State.EXITED, True)

    async def test_an_exit_before_readiness_is_a_failure(self, family: Family) -> None:
        async with managed(family, "print('oh'); raise SystemExit(3)", probe=never) as process:
            assert await process.wait_ready(10) is State.FAILED
            assert process.reason == "it exited with status 3"
            assert process.tail == ("oh",)

    async def test_an_exit_after_readiness_is_an_exit(self, family: Family, tmp_path: Path) -> None:
        flag = tmp_path / "flag"
        code = (
            "import os, time\n"
            f"while not os.path.exists({str(flag)!r}): time.sleep(0.01)\n"
            "os.kill(os.getpid(), 9)"
        )
        explain = "explained {}".format
        async with managed(family, code, explain=explain) as process:
            assert await process.wait_ready(10) is State.READY
            flag.touch()
            assert await process.wait_ended(10) is State.EXITED
            assert process.reason == "explained 137"

    async def test_a_missing_program_is_an_early_exit(self, family: Family) -> None:
        process = ManagedProcess(
            ["/nonexistent/python"], name="subject", probe=never, env=family.env
        )
        await process.start()
        assert await process.wait_ready(10) is State.FAILED
        assert await process.wait_ended(10) is State.FAILED
        assert process.exit_status == 127
        assert process.tail == (
            "guardian: cannot start /nonexistent/python: No such file or directory",
        )

    async def test_a_spawn_that_fails_is_a_failure_with_its_reason(self) -> None:
        async def spawn(
            command: Sequence[str], env: Mapping[str, str], grace_s: float
        ) -> "Stubborn":
            raise OSError(11, "Resource temporarily unavailable")

        process = ManagedProcess(["x"], name="subject", probe=yes, spawn=spawn)
        await process.start()
        assert await process.wait_ended(10) is State.FAILED
        assert process.reason == "x cannot be started: Resource temporarily unavailable"
        await process.stop()

    async def test_a_fault_in_the_probe_leaves_nothing_behind(self, family: Family) -> None:
        async def faulty() -> bool:
            raise ZeroDivisionError

        process = ManagedProcess(
            [*PYTHON, SLEEPS], name="subject", probe=faulty, env=family.env, poll_s=0.01
        )
        await process.start()
        assert await process.wait_ended(10) is State.FAILED
        assert "ZeroDivisionError" in process.reason
        assert family.gone()
        supervision = process._supervision
        assert supervision is not None
        with pytest.raises(ZeroDivisionError):  # and the fault is not lost
            await supervision


class TestStall:
    async def test_silence_without_readiness_is_a_failure(self, family: Family) -> None:
        now_s, probe = 0.0, No()
        async with managed(
            family, SLEEPS, probe=probe, stall_s=600, clock=lambda: now_s
        ) as process:
            await until(said(process, "up"))
            now_s = 599.0
            await probe.asked_again()
            assert process.state is State.STARTING
            now_s = 601.0
            assert await process.wait_ready(10) is State.FAILED
            assert process.reason == "it stalled: no log line and no readiness for 600 s"
            assert await process.wait_ended(10) is State.FAILED
            assert family.gone()

    async def test_a_hanging_probe_does_not_hide_it(self, family: Family) -> None:
        now_s = 0.0
        async with managed(
            family, SLEEPS, probe=never, stall_s=600, clock=lambda: now_s
        ) as process:
            await until(said(process, "up"))
            now_s = 601.0
            assert await process.wait_ready(10) is State.FAILED

    async def test_log_lines_push_it_back(self, family: Family, tmp_path: Path) -> None:
        now_s, probe = 0.0, No()
        flag = tmp_path / "flag"
        code = (
            "import os, time\nprint('up')\n"
            f"while not os.path.exists({str(flag)!r}): time.sleep(0.01)\n"
            "print('more'); time.sleep(120)"
        )
        async with managed(family, code, probe=probe, stall_s=600, clock=lambda: now_s) as process:
            await until(said(process, "up"))
            now_s = 500.0
            flag.touch()
            await until(said(process, "more"))
            now_s = 1000.0
            await probe.asked_again()
            assert process.state is State.STARTING


class TestStop:
    async def test_what_ignores_term_is_killed(self, family: Family) -> None:
        async with managed(family, IGNORES_TERM, grace_s=0.2) as process:
            await until(said(process, "up"))
            await process.stop()
            assert process.exit_status == 128 + signal.SIGKILL
            assert family.gone()

    async def test_it_gets_less_grace_before_it_was_ready(self, family: Family) -> None:
        options = {"grace_s": 600, "starting_grace_s": 0.1}
        async with managed(family, IGNORES_TERM, probe=no, **options) as process:
            await until(said(process, "up"))
            await process.stop()
            assert (process.exit_status, family.gone()) == (128 + signal.SIGKILL, True)

    async def test_hurry_cuts_the_grace_short(self, family: Family) -> None:
        async with managed(family, IGNORES_TERM, grace_s=600) as process:
            await until(said(process, "up"))
            stopping = asyncio.create_task(process.stop())
            await until(lambda: process.state is State.STOPPING)
            process.hurry()
            await stopping
            assert (process.state, family.gone()) == (State.EXITED, True)

    async def test_a_cancelled_stop_is_completed_first(self, family: Family) -> None:
        async with managed(family, IGNORES_TERM, grace_s=0.3) as process:
            await until(said(process, "up"))
            stopping = asyncio.create_task(process.stop())
            await until(lambda: process.state is State.STOPPING)
            stopping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stopping
            assert (process.state, family.gone()) == (State.EXITED, True)

    async def test_a_guardian_that_does_not_answer_is_killed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(process_module, "_MARGIN_S", 0.02)
        child = Stubborn()

        async def spawn(command: Sequence[str], env: Mapping[str, str], grace_s: float) -> Stubborn:
            return child

        process = ManagedProcess(["x"], name="subject", probe=yes, grace_s=0, spawn=spawn)
        await process.start()
        await process.wait_ready(10)
        await process.stop()
        assert child.asked == ["let_go", "hurry", "kill"]
        assert process.exit_status == 137

    def test_the_end_of_the_event_loop_is_the_end_of_the_process(self, family: Family) -> None:
        async def main() -> None:
            process = ManagedProcess([*PYTHON, SLEEPS], name="subject", probe=yes, env=family.env)
            await process.start()
            await until(said(process, "up"))

        asyncio.run(main())
        asyncio.run(until(family.gone))

    def test_sigkill_of_ourselves_ends_the_process(self, family: Family) -> None:
        code = f"""
import asyncio
from backends.process import ManagedProcess

async def yes():
    return True

async def main():
    process = ManagedProcess([*{PYTHON!r}, {IGNORES_TERM!r}], name="x", probe=yes, grace_s=0.3)
    await process.start()
    await process.wait_ready()
    while "up" not in process.tail:
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await process.wait_ended()

asyncio.run(main())
"""
        with subprocess.Popen(
            [sys.executable, "-c", code],
            env=family.env,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(process_module.__file__).parents[1],
        ) as driver:
            assert driver.stdout is not None
            assert any(line == "ready\n" for line in driver.stdout)
            os.kill(driver.pid, signal.SIGKILL)
        asyncio.run(until(family.gone))


class Stubborn:
    """A child that only ends when it is killed."""

    pid = 1

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._killed = asyncio.Event()

    def _ask(self, what: str) -> None:
        if what not in self.asked:
            self.asked.append(what)

    async def read(self) -> bytes:
        return b""

    async def wait(self) -> int:
        await self._killed.wait()
        return 137

    def let_go(self) -> None:
        self._ask("let_go")

    def hurry(self) -> None:
        self._ask("hurry")

    def kill(self) -> None:
        self._ask("kill")
        self._killed.set()

    def close(self) -> None:
        pass


class TestLog:
    async def test_both_streams_are_heard_and_the_tail_is_short(self, family: Family) -> None:
        code = "import sys\nfor n in range(60): print(n)\nprint('err', file=sys.stderr)"
        heard: list[str] = []
        async with managed(family, code, probe=never, on_line=heard.append) as process:
            await process.wait_ended(10)
            assert heard == [*map(str, range(60)), "err"]
            assert process.tail == (*map(str, range(11, 60)), "err")

    async def test_secrets_are_masked(self, family: Family) -> None:
        async with managed(
            family, "print('key=s3cret')", probe=never, redact=["s3cret"]
        ) as process:
            await process.wait_ended(10)
            assert process.tail == ("key=***",)

    async def test_a_stray_holding_the_pipe_does_not_hold_us(
        self, family: Family, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(process_module, "_DRAIN_S", 0.05)
        child = Stubborn()

        async def spawn(command: Sequence[str], env: Mapping[str, str], grace_s: float) -> Stubborn:
            return child

        monkeypatch.setattr(child, "read", never)
        process = ManagedProcess(["x"], name="subject", probe=yes, spawn=spawn)
        await process.start()
        await process.wait_ready(10)
        child.kill()
        assert await process.wait_ended(10) is State.EXITED


class TestLines:
    @pytest.mark.parametrize(
        ("pieces", "lines"),
        [
            ([b"a\nb\r\nc"], ["a", "b", "c"]),
            ([b"10%\r20%\r", b"30%\n"], ["10%", "20%", "30%"]),
            ([b"\xc3", b"\xa9\n"], ["é"]),
            ([b"\xff\n\n"], ["\ufffd"]),
            (["a\u2028b\n".encode()], ["a\u2028b"]),
            ([b"x" * LINE_BYTES, b"y" * 100 + b"\nz\n"], ["x" * LINE_BYTES, "z"]),
        ],
    )
    def test_they_are_cut(self, pieces: list[bytes], lines: list[str]) -> None:
        splitter = LineSplitter()
        found = [line for piece in pieces for line in splitter.feed(piece)]
        assert found + splitter.finish() == lines


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (0, "it exited with status 0"),
        (128, "it exited with status 128"),
        (137, "it was ended by SIGKILL"),
        (250, "it exited with status 250"),
    ],
)
def test_statuses_are_described(status: int, sentence: str) -> None:
    assert describe_status(status) == sentence
