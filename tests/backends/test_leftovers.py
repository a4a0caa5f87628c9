"""What an earlier run left behind: found by its mark, ended, and nobody else with it."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from backends import leftovers
from backends.leftovers import MARK, Identity, Record, clear, remembering, state_folder
from backends.process import State
from backends.spawn import Child, spawn_guarded
from tests.backends.managed_vllm import install_fake, is_, started
from tests.backends.processes import Family, a_family, linux_only, until

pytestmark = linux_only

PYTHON = (sys.executable, "-I", "-S", "-u", "-c")
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up'); time.sleep(120)"
GONE = Identity(2**22 + 1, 1)


@pytest.fixture
def family() -> Iterator[Family]:
    with a_family() as family:
        yield family


@contextlib.asynccontextmanager
async def spawned(family: Family, folder: Path) -> AsyncIterator[Child]:
    """A guarded process that does not heed SIGTERM."""
    child = await remembering(spawn_guarded, folder)([*PYTHON, STUBBORN], family.env, 0.2)
    try:
        assert (await child.read()).startswith(b"up")
        yield child
    finally:
        child.let_go()
        async with asyncio.timeout(10):
            await child.wait()
        child.close()


def record_of(folder: Path) -> Record:
    (path,) = folder.glob("*.json")
    return msgspec.json.decode(path.read_bytes(), type=Record)


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def write(folder: Path, record: Record) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{record.mark}.json"
    path.write_bytes(msgspec.json.encode(record))
    return path


def marked(mark: str, env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["/bin/sleep", "60"], env={**env, MARK: mark}, start_new_session=True)


async def test_a_tree_without_its_guardian_is_ended(family: Family, tmp_path: Path) -> None:
    async with spawned(family, tmp_path) as child:
        os.kill(child.pid, signal.SIGKILL)
        await child.wait()
        await asyncio.sleep(0.05)
        assert len(family.members()) == 1, "it does not heed SIGTERM"
        assert await clear(tmp_path, grace_s=0.1) == 1
        assert family.gone()
        assert files(tmp_path) == []


async def test_a_tree_of_another_run_that_lives_is_left_alone(
    family: Family, tmp_path: Path
) -> None:
    async with spawned(family, tmp_path) as child:
        assert record_of(tmp_path).guardian == Identity.of(child.pid)
        assert await clear(tmp_path) == 0
        assert len(family.members()) == 2
        child.let_go()
        await child.wait()
        await until(lambda: files(tmp_path) == [])


async def test_a_guardian_without_owner_is_waited_for(family: Family, tmp_path: Path) -> None:
    async with spawned(family, tmp_path) as child:
        orphaned = msgspec.structs.replace(record_of(tmp_path), owner=GONE)
        path = write(tmp_path, orphaned)
        assert await clear(tmp_path, guardian_s=0.1) == 0
        assert path.exists(), "it had no time to end"
        child.let_go()
        assert await clear(tmp_path) == 0
        assert family.gone()


async def test_others_are_spared(family: Family, tmp_path: Path) -> None:
    """Not the process id but the mark counts."""
    bystander = marked("another", family.env)
    try:
        write(tmp_path, Record("a", GONE, Identity(bystander.pid, 1), *leftovers._here()))
        assert await clear(tmp_path, grace_s=0.1) == 0
        assert bystander.poll() is None
        assert files(tmp_path) == []
    finally:
        bystander.kill()
        bystander.wait()


async def test_files_of_other_machines_and_boots(family: Family, tmp_path: Path) -> None:
    host, boot, namespace = leftovers._here()
    before = write(tmp_path, Record("before", GONE, GONE, host, "earlier", namespace))
    elsewhere = write(tmp_path, Record("elsewhere", GONE, GONE, "h", "other", namespace))
    container = write(tmp_path, Record("container", GONE, GONE, host, boot, "pid:[1]"))
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    assert await clear(tmp_path) == 0
    assert not before.exists()
    assert elsewhere.exists()
    assert container.exists()
    assert broken.exists()


async def test_a_folder_that_cannot_be_written_is_no_obstacle(
    family: Family, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    async with spawned(family, tmp_path / "file" / "folder") as child:
        assert await clear(tmp_path / "absent") == 0
        child.let_go()
        await child.wait()


async def test_vllm_is_restarted_after_its_guardian_was_killed(
    family: Family, tmp_path: Path
) -> None:
    env = {**install_fake(tmp_path), "FAKE_IGNORE_TERM": "1", "FAKE_STRAY": "1"}
    folder = tmp_path / "state"
    async with started(family, env, leftovers=folder) as backend:
        await until(is_(State.READY, backend))
        mark = record_of(folder).mark
        left = set(leftovers._bearers(mark))
        assert len(left) == 3  # the guardian, the server, the stray
        os.kill(record_of(folder).guardian.pid, signal.SIGKILL)
        await until(lambda: backend.state is not State.READY)
        await until(is_(State.READY, backend), within_s=15)
        assert not set(leftovers._bearers(mark))
        assert record_of(folder).mark != mark
    await until(lambda: files(folder) == [])


def test_where_files_are_kept(tmp_path: Path) -> None:
    shared = state_folder({"XDG_STATE_HOME": str(tmp_path)})
    assert shared == tmp_path / "dragoman" / "processes"
    assert state_folder({}) == Path.home() / ".local/state/dragoman/processes"
