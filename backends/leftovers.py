"""Finding and ending what an earlier run of ours left behind, and nobody else's processes.

A guardian ends its tree however we die, but it can itself be killed. Each tree therefore gets a
random mark in its environment, which children inherit, and a file in the user's state folder that
holds the mark and who guards it. The next start ends the processes that bear the mark of a file
whose guardian is gone. A mark cannot be met by chance, as names and process ids can.

Linux only, for it reads ``/proc``; elsewhere nothing is written and nothing is ended.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog

from backends.spawn import Child, Spawn

MARK: Final = "DRAGOMAN_TREE"
"""Environment variable with the mark of a tree."""

_KEEP_ENVIRONMENT: Final = "SPT_NOENV"
"""Keeps setproctitle, which vLLM uses, from writing its title over the environment in /proc."""

_LINUX: Final = sys.platform == "linux"
_TICK_S: Final = 0.05
_KILL_S: Final = 5.0

_log = structlog.get_logger("dragoman")
_watchers: Final[set[asyncio.Task[None]]] = set()


class Identity(msgspec.Struct, frozen=True):
    """A process, safe from a process id that is used again."""

    pid: int
    start_ticks: int
    """When it was started, in the kernel's clock ticks since the boot."""

    @classmethod
    def of(cls, pid: int) -> "Identity | None":
        """The living process with this id; None if there is none."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return None
        # The second member, the name, is in parentheses and may hold anything.
        state, *members = stat[stat.rindex(b")") + 1 :].split()
        return None if state in (b"Z", b"X") else cls(pid, int(members[18]))

    def lives(self) -> bool:
        """Whether this very process still runs."""
        return Identity.of(self.pid) == self


class Record(msgspec.Struct, frozen=True):
    """One started tree, as its file tells it."""

    mark: str
    owner: Identity
    guardian: Identity
    host: str
    boot: str
    namespace: str


def state_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Where files of started trees are kept: below ``$XDG_STATE_HOME`` or ``~/.local/state``."""
    variables = os.environ if environment is None else environment
    base = variables.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "dragoman" / "processes"


def remembering(spawn: Spawn, folder: Path) -> Spawn:
    """A ``spawn`` whose trees are found by ``clear`` should they be left behind."""
    if not _LINUX:
        return spawn

    async def marked(command: Sequence[str], env: Mapping[str, str], grace_s: float) -> Child:
        mark = secrets.token_hex(16)
        child = await spawn(command, {**env, MARK: mark, _KEEP_ENVIRONMENT: "1"}, grace_s)
        path = _write(folder, mark, child.pid)
        if path is not None:
            watcher = asyncio.create_task(_forget(child, mark, path))
            _watchers.add(watcher)
            watcher.add_done_callback(_watchers.discard)
        return child

    return marked


async def clear(
    folder: Path,
    *,
    grace_s: float = 5.0,
    guardian_s: float = 30.0,
    given_up: Callable[[], bool] = lambda: False,
) -> int:
    """End what is left of trees whose guardian is gone; the number of their processes.

    A guardian whose owner is gone is busy with ending its tree: it is waited for, since a new
    server may need the memory of the old one.

    Args:
        folder: Where the files are.
        grace_s: From SIGTERM to SIGKILL.
        guardian_s: The longest time to wait for a guardian.
        given_up: Says whether the caller does not want to wait any more.
    """
    ended = 0
    if not _LINUX:
        return ended
    for path, record in _records(folder):
        if not record.owner.lives():
            await _until(lambda record=record: not record.guardian.lives(), guardian_s, given_up)  # type: ignore[misc]
        if record.guardian.lives():
            continue
        left = set(_bearers(record.mark))
        if left:
            _log.warning("leftovers_ended", processes=sorted(left))
            ended += len(left)
        await _end(record.mark, grace_s, given_up)
        if not set(_bearers(record.mark)):
            path.unlink(missing_ok=True)
    return ended


async def _end(mark: str, grace_s: float, given_up: Callable[[], bool]) -> None:
    """TERM, grace, KILL for all that bear a mark."""
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, _KILL_S)):
        for pid in _bearers(mark):
            _send(pid, mark, number)
        await _until(lambda: not any(_bearers(mark)), patience_s, given_up)


async def _forget(child: Child, mark: str, path: Path) -> None:
    """Remove the file once the tree is gone; if the guardian was killed it may not be."""
    await child.wait()
    if not any(_bearers(mark)):
        path.unlink(missing_ok=True)  # noqa: ASYNC240 - local, after a server's end


async def _until(fact: Callable[[], bool], patience_s: float, given_up: Callable[[], bool]) -> None:
    """Wait until something is so, for a limited time."""
    deadline_s = time.monotonic() + patience_s
    # Processes that are no children of ours tell us nothing when they end.
    while not fact() and not given_up() and time.monotonic() < deadline_s:  # noqa: ASYNC110
        await asyncio.sleep(_TICK_S)


def _here() -> tuple[str, str, str]:
    """Host, boot and process id namespace: where process ids mean what we think."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname(), boot, str(Path("/proc/self/ns/pid").readlink())


def _write(folder: Path, mark: str, guardian: int) -> Path | None:
    """Write the file of a tree; None if that is not possible, which is no reason not to serve."""
    owner_id, guardian_id = Identity.of(os.getpid()), Identity.of(guardian)
    if owner_id is None or guardian_id is None:
        return None
    path = folder / f"{mark}.json"
    try:
        host, boot, namespace = _here()
        record = Record(mark, owner_id, guardian_id, host, boot, namespace)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        begun = path.with_suffix(".new")
        begun.write_bytes(msgspec.json.encode(record))
        begun.replace(path)
    except OSError as exc:
        _log.warning("leftovers_not_recorded", folder=str(folder), reason=str(exc))
        return None
    return path


def _records(folder: Path) -> Iterator[tuple[Path, Record]]:
    """The files that speak of this machine; those of its earlier boots are removed.

    Home folders are shared by machines and containers: what others wrote is left alone.
    """
    for path in sorted(folder.glob("*.json")):
        try:
            record = msgspec.json.decode(path.read_bytes(), type=Record)
            host, boot, namespace = _here()
        except (OSError, msgspec.MsgspecError) as exc:
            _log.warning("leftovers_not_read", file=str(path), reason=str(exc))
            continue
        if (record.boot, record.namespace) == (boot, namespace):
            yield path, record
        elif record.host == host and record.boot != boot:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _bearers(mark: str) -> Iterator[int]:
    """Living processes with a mark in their environment; those of other users cannot be read."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _bears(int(entry.name), mark):
            yield int(entry.name)


def _bears(pid: int, mark: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # it ended, or is not ours
        return False
    return f"{MARK}={mark}".encode() in environment.split(b"\0") and Identity.of(pid) is not None


def _send(pid: int, mark: str, number: signal.Signals) -> None:
    """Signal a process, provided that it bears the mark at that very moment."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:  # it ended, or the kernel is older than 5.3
        return
    try:
        if _bears(pid, mark):
            signal.pidfd_send_signal(handle, number)
    except OSError:  # it ended meanwhile
        pass
    finally:
        os.close(handle)
