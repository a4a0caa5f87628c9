"""Files brought to the disk: one by itself, or all of a file system at once."""

import ctypes
import os
import re
import sys
from functools import cache
from pathlib import Path

_TYPES = frozenset({"ext4", "f2fs", "xfs"})
"""File systems that make all files last by ``syncfs`` as one by ``fsync``, and tell what failed.
FUSE tells its server of ``fsync`` alone, and an overlay may not hear of failures below it."""

_MOUNTS = Path("/proc/self/mountinfo")
_REPORTS_FAILURES = (5, 8)
"""The first Linux whose ``syncfs`` says what could not be written."""


def sync_path(path: str, flags: int) -> None:
    """Bring a file or folder to the disk, opened with these flags.

    Raises:
        OSError: It is not there, or cannot be brought there.
    """
    file = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def can_sync_whole(folder: Path) -> bool:
    """Whether ``sync_whole`` is as good as ``fsync`` of each file in the folder."""
    if sys.platform != "linux":
        return False
    version = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if version is None or tuple(map(int, version.groups())) < _REPORTS_FAILURES:
        return False
    return hasattr(_libc(), "syncfs") and _type_of(folder) in _TYPES


def sync_whole(folder: Path) -> None:
    """Bring all that was written to a folder's file system to the disk, whoever wrote it.

    Raises:
        OSError: Something cannot be brought there.
    """
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc().syncfs(file):  # other threads go on meanwhile
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
    finally:
        os.close(file)


@cache
def _libc() -> ctypes.CDLL:
    """The C library, since the standard library has no ``syncfs``."""
    return ctypes.CDLL(None, use_errno=True)


def _type_of(folder: Path) -> str | None:
    """The type of a folder's file system, ``None`` if that cannot be told."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = _MOUNTS.read_text(errors="replace")
    except OSError:
        return None
    for line in mounts.splitlines():
        mount, _, source = line.partition(" - ")
        if mount.split()[2] == number:
            return source.split()[0]
    return None
