"""How many requests the processes have open at a server, in memory that they share.

Each process writes its own count alone, and one at a time, by a lock that the kernel takes from
whoever dies. So the sum is exact at any time, and however a process ends, its share of it is known.
"""

import mmap
import os
import sys
import tempfile
from typing import IO, Final

from backends.turns import Limit

if sys.platform != "win32":
    import fcntl

OWNER: Final = 0
"""The owner's place among the processes; worker N has the place N + 1."""

_PAGE: Final = mmap.ALLOCATIONGRANULARITY


def open_memory() -> IO[bytes]:
    """A file for tallies, in memory where the system has such files.

    On a disk without room the first count would be our end.
    """
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("dragoman-tallies"), "r+b")
    return tempfile.TemporaryFile()


class Tallies:
    """The tallies of all servers in one file, of which each has a page."""

    def __init__(self, file: int, processes: int, process: int) -> None:
        """Share a file.

        Args:
            file: Its descriptor; the lock asks that the process has no other one.
            processes: How many processes there are, the owner included.
            process: The place of this one among them.
        """
        self._file = file
        self._processes = processes
        self._process = process
        self._tallies: list[Tally] = []

    def count(self, limit: Limit) -> "Tally":
        """The next server's tally; servers have the same order in all processes."""
        at = len(self._tallies) * _PAGE
        if os.fstat(self._file).st_size < at + _PAGE:
            os.ftruncate(self._file, at + _PAGE)
        memory = mmap.mmap(self._file, _PAGE, offset=at)
        lock = _Lock(self._file, at)
        tally = Tally(memory, lock, limit.open, self._processes, self._process)
        self._tallies.append(tally)
        return tally

    def clear(self, process: int) -> None:
        """Forget what a process had that has ended."""
        for tally in self._tallies:
            tally.clear(process)


class Tally:
    """The tally of one server, as one process uses it; a ``Count``."""

    def __init__(
        self, memory: mmap.mmap, lock: "_Lock", most: int, processes: int, process: int
    ) -> None:
        """Count up to ``most`` in ``memory``."""
        cells = memoryview(memory).cast("I")
        self._waiting = cells[:1]
        self._counts = cells[1 : 1 + processes]
        self._lock = lock
        self._most = most
        self._process = process

    @property
    def waiting(self) -> int:
        """How many requests wait in the owner's queue."""
        return self._waiting[0]

    @waiting.setter
    def waiting(self, waiting: int) -> None:
        with self._lock:
            self._waiting[0] = waiting

    @property
    def taken(self) -> int:
        """How many places are taken by all processes."""
        return sum(self._counts)

    def take(self, *, in_turn: bool = False) -> bool:
        """Take a place; see ``Count``."""
        with self._lock:
            if (self._waiting[0] and not in_turn) or sum(self._counts) >= self._most:
                return False
            self._counts[self._process] += 1
            return True

    def give(self) -> None:
        """Give a place back that this process took."""
        with self._lock:
            self._counts[self._process] -= 1

    def clear(self, process: int) -> None:
        """Forget what a process had that has ended."""
        with self._lock:
            self._counts[process] = 0


class _Lock:
    """A lock of one byte of a file among processes."""

    def __init__(self, file: int, at: int) -> None:
        self._file = file
        self._at = at

    def __enter__(self) -> None:
        if sys.platform != "win32":
            fcntl.lockf(self._file, fcntl.LOCK_EX, 1, self._at)

    def __exit__(self, *_: object) -> None:
        if sys.platform != "win32":
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._at)
