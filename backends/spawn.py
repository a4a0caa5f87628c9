"""Starting a command so that its whole tree ends with us, and reading what it prints."""

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from backends import guardian

LINE_BYTES: Final = 4096
"""What is beyond this in one log line is dropped."""

_SCRIPT: Final = str(Path(guardian.__file__).absolute())


class Child(Protocol):
    """A started process tree."""

    @property
    def pid(self) -> int:
        """Process id, for logs."""

    async def read(self) -> bytes:
        """Some of its output as it arrives; empty at the end."""

    async def wait(self) -> int:
        """Its exit status once the tree is gone and reaped; 128 + N for signal N."""

    def let_go(self) -> None:
        """Ask it to end, with its grace. May be called again."""

    def hurry(self) -> None:
        """After ``let_go``: end the grace now."""

    def kill(self) -> None:
        """End what ``hurry`` did not."""

    def close(self) -> None:
        """Release the pipes."""


Spawn = Callable[[Sequence[str], Mapping[str, str], float], Awaitable[Child]]
"""Starts a command with an environment and a grace in seconds.

Raises:
    OSError: It cannot be started.
"""


class LineSplitter:
    """Cuts a byte stream into lines of text.

    LF and CR end a line, for progress bars use CR alone. Empty lines are dropped, bytes that are
    not UTF-8 replaced, and a line is cut after ``LINE_BYTES``.
    """

    def __init__(self) -> None:
        self._begun = bytearray()

    def feed(self, data: bytes) -> list[str]:
        """The lines that ended in ``data``."""
        *complete, rest = re.split(rb"[\r\n]", data)
        lines = []
        for piece in complete:
            self._add(piece)
            lines += self.finish()
        self._add(rest)
        return lines

    def finish(self) -> list[str]:
        """The line that has not ended yet, if there is one."""
        line = self._begun.decode(errors="replace").rstrip()
        self._begun.clear()
        return [line] if line else []

    def _add(self, piece: bytes) -> None:
        self._begun += piece[: LINE_BYTES - len(self._begun)]


def describe_status(status: int, *, who: str = "it") -> str:
    """A sentence about an exit status without a better explanation."""
    if status <= guardian.SIGNALLED:
        return f"{who} exited with status {status}"
    number = status - guardian.SIGNALLED
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"{who} exited with status {status}"
    return f"{who} was ended by {name}"


class _GuardedChild:
    """A command under its guardian (see ``backends/guardian.py``).

    Not asyncio's own subprocess: that one kills its process when the loop is closed, and the
    guardian must never be killed, it has work to do then.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        transport: asyncio.ReadTransport,
    ) -> None:
        self.pid = process.pid
        self._process = process
        self._reader = reader
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[int] = self._loop.create_future()
        threading.Thread(target=self._reap, name=f"wait {self.pid}", daemon=True).start()

    async def read(self) -> bytes:
        return await self._reader.read(65536)

    async def wait(self) -> int:
        return await asyncio.shield(self._exited)

    def let_go(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()

    def hurry(self) -> None:
        self._process.send_signal(guardian.HURRY)

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._transport.close()

    def _reap(self) -> None:
        status = self._process.wait()
        # A negative status is the guardian's own: somebody killed it.
        status = status if status >= 0 else guardian.SIGNALLED - status
        with contextlib.suppress(RuntimeError):  # the event loop ended before
            self._loop.call_soon_threadsafe(self._settle, status)

    def _settle(self, status: int) -> None:
        if not self._exited.done():
            self._exited.set_result(status)


async def spawn_guarded(
    command: Sequence[str], env: Mapping[str, str], grace_s: float
) -> _GuardedChild:
    """Start a command under a guardian, standard output and error in one pipe.

    Raises:
        OSError: The guardian cannot be started. A command that cannot be is an exit status.
    """
    # Isolated and without site packages: quick, and nothing but the standard library needed.
    launcher = [sys.executable, "-I", "-S", _SCRIPT, "--grace-s", str(grace_s), "--"]
    process = subprocess.Popen(  # noqa: ASYNC220  (some milliseconds; see _GuardedChild)
        [*launcher, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        env=dict(env),
        start_new_session=True,  # Ctrl-C in the terminal is ours to decide about
    )
    with contextlib.ExitStack() as on_failure:
        if process.stdin is not None:
            on_failure.callback(process.stdin.close)
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), process.stdout
        )
        on_failure.pop_all()
    return _GuardedChild(process, reader, transport)
