"""What tests of processes share: waiting for a fact, and finding what is left of a tree."""

import asyncio
import contextlib
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and subreapers")


class Family:
    """The processes that inherited a mark in their environment."""

    def __init__(self) -> None:
        self.env = {**os.environ, "FAMILY_MARK": uuid.uuid4().hex}

    def members(self) -> set[int]:
        """Process ids of the living."""
        mark = f"FAMILY_MARK={self.env['FAMILY_MARK']}".encode()
        found = set()
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError):  # it ended, or is not ours
                    if mark in (folder / "environ").read_bytes().split(b"\0"):
                        found.add(int(folder.name))
        return found

    def gone(self) -> bool:
        """Whether nobody is left; always so where there is no ``/proc``."""
        return sys.platform != "linux" or not self.members()


@contextlib.contextmanager
def a_family() -> Iterator[Family]:
    """A family that is ended with the test, however that fared."""
    family = Family()
    try:
        yield family
    finally:
        if sys.platform == "linux":
            for pid in family.members():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


async def until(fact: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait until something is so.

    Raises:
        AssertionError: It is not so in time.
    """
    deadline = time.monotonic() + within_s
    while not fact():
        assert time.monotonic() < deadline, "it did not become so in time"
        await asyncio.sleep(0.01)
