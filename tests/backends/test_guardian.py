"""The guardian as a program: what it leaves, and what it says by its status."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from backends import guardian
from tests.backends.processes import Family, a_family, linux_only, until

SCRIPT = str(Path(guardian.__file__).absolute())
PYTHON = (sys.executable, "-I", "-S", "-u", "-c")

IGNORES_TERM = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(120)
"""
REPORTS_TERM = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))
print("up", flush=True)
for _ in range(120): time.sleep(1)
"""
PARENT_OF_A_STRAY = f"""
import subprocess, sys, time
subprocess.Popen([{sys.executable!r}, "-I", "-S", "-c", "import time; time.sleep(120)"],
                 start_new_session=True)
print("up", flush=True)
if "leave" in sys.argv: sys.exit(5)
time.sleep(120)
"""
SLEEPS = "import time; print('up', flush=True); time.sleep(120)"


@pytest.fixture
def family() -> Iterator[Family]:
    with a_family() as family:
        yield family


class Guarded:
    """A guardian under test."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def is_up(self) -> None:
        assert self.process.stdout is not None
        async with asyncio.timeout(10):
            assert await self.process.stdout.readline() == b"up\n"

    def let_go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    async def status(self) -> int:
        async with asyncio.timeout(10):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def guarded(family: Family, *command: str, grace_s: float = 30) -> AsyncIterator[Guarded]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", SCRIPT, "--grace-s", str(grace_s), "--", *command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=family.env,
    )
    subject = Guarded(process)
    try:
        yield subject
    finally:
        subject.let_go()
        if process.returncode is None:
            process.send_signal(guardian.HURRY)
        await process.communicate()


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ((*PYTHON, "raise SystemExit(3)"), 3),
        ((*PYTHON, "import os; os.kill(os.getpid(), 15)"), 128 + signal.SIGTERM),
        (("/nonexistent/program",), guardian.NOT_FOUND),
        ((SCRIPT,), guardian.NOT_STARTED),
    ],
)
async def test_the_status_is_the_commands(
    family: Family, command: tuple[str, ...], status: int
) -> None:
    async with guarded(family, *command) as subject:
        assert await subject.status() == status


@pytest.mark.parametrize("call", [[], ["--"], ["true"], ["--grace", "1", "--", "true"]])
def test_a_wrong_call_says_so(call: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, *call], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert (done.returncode, b"usage" in done.stderr) == (2, True)


def test_it_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "backends.guardian", "--", sys.executable, "-c", "print(1)"],
        stdin=subprocess.PIPE,
        capture_output=True,
        check=False,
        cwd=Path(SCRIPT).parents[1],
    )
    # subprocess.run closes the life line at once, so the command may be asked to stop first.
    assert done.returncode in (0, 128 + signal.SIGTERM)


async def test_end_of_file_ends_the_tree(family: Family) -> None:
    async with guarded(family, *PYTHON, PARENT_OF_A_STRAY) as subject:
        await subject.is_up()
        subject.let_go()
        assert await subject.status() == 128 + signal.SIGTERM
        assert family.gone()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_the_tree(family: Family, number: signal.Signals) -> None:
    async with guarded(family, *PYTHON, SLEEPS) as subject:
        await subject.is_up()
        subject.process.send_signal(number)
        assert await subject.status() == 128 + signal.SIGTERM
        assert family.gone()


async def test_what_ignores_term_is_killed_after_the_grace(family: Family) -> None:
    async with guarded(family, *PYTHON, IGNORES_TERM, grace_s=0.2) as subject:
        await subject.is_up()
        subject.let_go()
        assert await subject.status() == 128 + signal.SIGKILL
        assert family.gone()


async def test_a_signal_cuts_the_grace_short(family: Family) -> None:
    async with guarded(family, *PYTHON, IGNORES_TERM, grace_s=600) as subject:
        await subject.is_up()
        subject.let_go()
        subject.process.send_signal(guardian.HURRY)
        assert await subject.status() == 128 + signal.SIGKILL
        assert family.gone()


async def test_what_gets_no_grace_is_not_told(family: Family) -> None:
    """A server that is told would tell its callers that it is ended, and not why."""
    for _ in range(5):
        async with guarded(family, *PYTHON, REPORTS_TERM) as subject:
            await subject.is_up()
            subject.process.send_signal(guardian.HURRY)
            assert await subject.status() == guardian.SIGNALLED + signal.SIGKILL
            assert subject.process.stdout is not None
            assert await subject.process.stdout.read() == b""


async def test_so_does_a_further_term(family: Family) -> None:
    async with guarded(family, *PYTHON, REPORTS_TERM, grace_s=600) as subject:
        await subject.is_up()
        subject.process.terminate()
        assert subject.process.stdout is not None
        assert await subject.process.stdout.readline() == b"told\n"
        subject.process.terminate()
        assert await subject.status() == 128 + signal.SIGKILL
        assert family.gone()


@linux_only
async def test_shared_memory_of_the_killed_is_removed(family: Family) -> None:
    code = f"""
from multiprocessing.shared_memory import SharedMemory
memory = SharedMemory(create=True, size=100)
print(memory.name, flush=True)
{IGNORES_TERM}
"""
    async with guarded(family, *PYTHON, code, grace_s=0.1) as subject:
        assert subject.process.stdout is not None
        memory = Path("/dev/shm") / (await subject.process.stdout.readline()).decode().strip()
        await subject.is_up()
        before = await asyncio.to_thread(memory.exists)
        subject.let_go()
        assert await subject.status() == 128 + signal.SIGKILL
        assert (before, await asyncio.to_thread(memory.exists)) == (True, False)


@linux_only
async def test_left_overs_of_a_command_that_ended_are_ended(family: Family) -> None:
    async with guarded(family, *PYTHON, PARENT_OF_A_STRAY, "leave") as subject:
        assert await subject.status() == 5
        assert family.gone()


@linux_only
async def test_a_killed_guardian_takes_the_command_along(family: Family) -> None:
    async with guarded(family, *PYTHON, SLEEPS) as subject:
        await subject.is_up()
        subject.process.kill()
        assert await subject.status() == -signal.SIGKILL
        await until(family.gone)


async def test_ctrl_c_is_not_its_business(family: Family) -> None:
    """Neither the guardian ends by SIGINT, nor does the command inherit that it is ignored."""
    report = "import signal; print('up'); print(signal.getsignal(2) is signal.default_int_handler)"
    wait = f"{report}; import time; time.sleep(120)"
    async with guarded(family, *PYTHON, wait) as subject:
        await subject.is_up()
        subject.process.send_signal(signal.SIGINT)
        assert subject.process.stdout is not None
        assert await subject.process.stdout.readline() == b"True\n"
        subject.let_go()
        assert await subject.status() == 128 + signal.SIGTERM


async def test_the_command_does_not_get_the_life_line(family: Family) -> None:
    reads = "import sys; print('up' if sys.stdin.read() == '' else 'something')"
    async with guarded(family, *PYTHON, reads) as subject:
        await subject.is_up()
        assert await subject.status() == os.EX_OK
