"""The folder of captures: one append-only file of JSON lines for each rollout.

Several processes may write to one file. A line that a crash tore stays where it is, and the next
one begins on a line of its own.
"""

import hashlib
import os
import re
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from proxy.capture.disk import can_sync_whole, sync_path, sync_whole

if sys.platform != "win32":
    import fcntl

RECORDS = ".capture.jsonl"
MARK = ".capture.incomplete"
"""An empty file of this name says that a rollout lacks records."""

_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,200}")
_MOST_PIECES = 1024  # IOV_MAX of Linux and macOS
_LOCK_LIMIT_S = 10.0
_LOCK_PAUSE_S = 0.005
_MANY_FILES = 16
"""From so many files on their file system is synced as a whole. Of 500 files each takes 125 us of
CPU time by itself, and 25 us so, nearly all in threads of the kernel; 2000 take 0.5 s or 0.04 s."""


def is_plain(rollout: str) -> bool:
    """Whether a rollout's id can name a file: ASCII letters, digits, ``.``, ``_``, ``-``."""
    return _NAME.fullmatch(rollout) is not None


def stem_of(rollout: str) -> str:
    """The name of a rollout's files; ids that cannot name one are hashed, after a tilde."""
    if is_plain(rollout):
        return rollout
    return f"~{hashlib.sha256(rollout.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


class CaptureStore:
    """Appends to the files of one folder; every method does blocking file work.

    One thread may append while another one syncs.
    """

    def __init__(self, root: Path, *, fsync: bool = True) -> None:
        """Use a folder, which is made if need be.

        Args:
            root: The folder.
            fsync: Whether ``sync`` brings lines to the disk, or the operating system when it likes.

        Raises:
            OSError: It cannot be made, or nothing can be written there.
        """
        root.mkdir(parents=True, exist_ok=True)
        if not os.access(root, os.W_OK | os.X_OK):
            raise PermissionError(13, os.strerror(13), str(root))
        self._root = root
        self._fsync = fsync
        self._syncs_whole = fsync and can_sync_whole(root)
        self._unsynced: set[str] = set()
        self._unnamed: set[str] = set()
        self._changing = threading.Lock()

    def append(self, rollout: str, lines: Sequence[bytes]) -> None:
        """Append whole lines, all of them or none; only a crash of the machine can lose them.

        Args:
            rollout: Whose they are.
            lines: Their bytes, cut anywhere.

        Raises:
            OSError: They cannot be written, or another process keeps the file locked.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        file = os.open(self._path(rollout), flags, 0o666)
        try:
            _lock(file)
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":
                lines = [b"\n", *lines]
            try:
                _write(file, lines)
            except OSError:
                os.ftruncate(file, size)
                raise
        finally:
            os.close(file)  # which unlocks it
        if self._fsync:
            with self._changing:
                self._unsynced.add(rollout)
                if not size:
                    self._unnamed.add(rollout)

    def sync(self) -> dict[str, OSError]:
        """Bring to the disk what was appended since the last time; after it, no crash loses it.

        Returns:
            The rollouts of which some lines may not be there, and why.
        """
        with self._changing:
            unsynced, self._unsynced = self._unsynced, set()
            unnamed, self._unnamed = self._unnamed, set()
        if len(unsynced) >= _MANY_FILES and self._syncs_whole:
            try:
                sync_whole(self._root)
            except OSError:
                pass  # which files it is, they tell one by one
            else:
                return {}
        failures = {}
        for rollout in unsynced:
            try:
                sync_path(self._path(rollout), os.O_RDWR)
            except FileNotFoundError:
                pass  # somebody has taken it away meanwhile
            except OSError as error:
                failures[rollout] = error
        if unnamed and sys.platform != "win32":
            try:
                sync_path(str(self._root), os.O_RDONLY)  # which makes new files' names last
            except OSError as error:
                failures |= dict.fromkeys(unnamed, error)
        return failures

    def mark_incomplete(self, rollout: str) -> None:
        """Say that records of a rollout are missing.

        Raises:
            OSError: Not even that can be written.
        """
        (self._root / f"{stem_of(rollout)}{MARK}").touch()

    def _path(self, rollout: str) -> str:
        return f"{self._root}/{stem_of(rollout)}{RECORDS}"


def _write(file: int, pieces: Sequence[bytes]) -> None:
    for start in range(0, len(pieces), _MOST_PIECES):
        some = pieces[start : start + _MOST_PIECES]
        if sys.platform == "win32":
            rest = memoryview(b"".join(some))
        else:
            written = os.writev(file, some)
            if written == sum(map(len, some)):
                continue
            rest = memoryview(b"".join(some))[written:]
        while rest:
            rest = rest[os.write(file, rest) :]


def _lock(file: int) -> None:
    """Lock an open file for this process alone, until it is closed.

    A lock that is never given back must not hold up the other rollouts.
    """
    if sys.platform == "win32":
        return
    deadline_s = time.monotonic() + _LOCK_LIMIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(_LOCK_PAUSE_S)
        else:
            return
