"""Ends a whole process tree once whoever started it is gone.

``python guardian.py [--grace-s N] -- COMMAND...`` starts COMMAND in a session of its own and
holds standard input as a life line. At its end of file, which the kernel delivers even if the
process at the other end was killed, or at SIGTERM or SIGHUP, the group of COMMAND gets SIGTERM,
and after the grace SIGKILL. A further SIGTERM, or SIGUSR1, cuts the grace short; where SIGUSR1
comes first there is no SIGTERM. If COMMAND exits by itself, what it left behind is ended in the
same way. The exit status is COMMAND's; for a signal N it is 128 + N, and if COMMAND cannot be
started 127 (not found) or 126.

A server that is killed alone leaves its workers behind, and they keep the accelerator's memory
(vllm#55510). On Linux the guardian therefore is a "child subreaper": orphans of the tree become
its children, also those that left the group, so that it can find them.

Standard library only, no import from the project: it runs by path, isolated from site packages,
and must stay small and dependable.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

DEFAULT_GRACE_S: Final = 20.0
HURRY: Final = signal.SIGUSR1
NOT_FOUND: Final = 127
NOT_STARTED: Final = 126
SIGNALLED: Final = 128
"""The exit status for a command ended by signal N is this plus N, as in shells."""

_TICK_S: Final = 0.1
_GIVE_UP_S: Final = 5.0  # after SIGKILL; a process in uninterruptible sleep outlives it
_SPARE_S: Final = 1.0  # after SIGKILL, for processes that clean up behind the killed
_LINUX: Final = sys.platform == "linux"
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36


class Guardian:
    """Runs one command and ends its tree; one object for one run."""

    def __init__(self, command: Sequence[str], *, grace_s: float) -> None:
        self._command = list(command)
        self._grace_s = grace_s
        self._child = 0
        self._status: int | None = None
        self._asked = False
        self._hurried = False
        self._lifeline_open = True
        self._wake_fd = -1

    def run(self) -> int:
        """Start the command, wait for its end or ours, and return the exit status."""
        self._listen()
        prctl = _prctl()
        if prctl is not None:
            prctl(_PR_SET_CHILD_SUBREAPER, 1)
        try:
            child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,  # ours is the life line
                start_new_session=True,
                # If the guardian itself is killed, at least the server is asked to stop.
                preexec_fn=None if prctl is None else lambda: prctl(_PR_SET_PDEATHSIG, _TERM),
            )
        except OSError as exc:
            _say(f"cannot start {self._command[0]}: {exc.strerror}")
            return NOT_FOUND if isinstance(exc, FileNotFoundError) else NOT_STARTED
        self._child = child.pid
        while self._status is None and not self._asked:
            self._wait(None)
            self._reap()
        self._end()
        # We reap by waitpid(-1), behind Popen's back; without a status it would complain.
        child.returncode = self._status if self._status is not None else -int(signal.SIGKILL)
        return child.returncode if child.returncode >= 0 else SIGNALLED - child.returncode

    def _listen(self) -> None:
        """Handle signals ourselves.

        Handlers rather than ``SIG_IGN``, which the command would inherit.
        """
        self._wake_fd, writer = os.pipe()
        for fd in (self._wake_fd, writer):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGHUP, HURRY):
            signal.signal(number, self._on_signal)
        # Ctrl-C is for the process that holds the life line: it decides.
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == HURRY or (self._asked and number == signal.SIGTERM):
            self._hurried = True
        self._asked = True

    def _wait(self, timeout_s: float | None) -> None:
        """Sleep until a signal, the end of the life line, or the timeout."""
        watched = [self._wake_fd, 0] if self._lifeline_open else [self._wake_fd]
        try:
            ready, _, _ = select.select(watched, [], [], timeout_s)
        except OSError:  # standard input was closed before we began
            ready = [0]
        if self._wake_fd in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_fd, 4096)
        if 0 in ready and self._at_end_of_file():
            self._lifeline_open = False
            self._asked = True

    @staticmethod
    def _at_end_of_file() -> bool:
        try:
            return not os.read(0, 4096)
        except OSError:
            return True

    def _reap(self) -> None:
        """Collect every child that ended: the command, and orphans we adopted."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._child:
                self._status = os.waitstatus_to_exitcode(status)

    def _end(self) -> None:
        """TERM, grace, KILL, until nothing is left of the tree."""
        self._asked = True
        deadline_s = time.monotonic() + self._grace_s
        told: set[int] = set()
        if self._status is None and not self._hurried:
            # Only the group at first: a server likes to end its own workers.
            told = self._targets(group_only=True)
            _send(-self._child, signal.SIGTERM)
        while True:
            self._reap()
            left = self._targets()
            if self._status is not None and not left:
                return
            now_s = time.monotonic()
            if self._hurried:
                deadline_s = min(deadline_s, now_s)
            if now_s >= deadline_s + _GIVE_UP_S:
                _say(f"gave up on {len(left)} processes that outlive SIGKILL")
                return
            if now_s >= deadline_s:
                spare = now_s < deadline_s + _SPARE_S
                for target in left:
                    if not (spare and _cleans_up(target)):
                        _send(target, signal.SIGKILL)
            elif self._status is not None:
                for target in left - told:
                    _send(target, signal.SIGTERM)
                told |= left
            self._wait(_TICK_S)

    def _targets(self, *, group_only: bool = False) -> set[int]:
        """Living processes of the tree in the form ``os.kill`` takes.

        On Linux process ids of all our descendants; elsewhere the negative group, if it has
        members.
        """
        if _LINUX:
            return {pid for pid, group in _descendants() if not group_only or group == self._child}
        return {-self._child} if _send(-self._child, 0) else set()


def _descendants() -> list[tuple[int, int]]:
    """Process id and group of every living descendant of this process, from ``/proc``."""
    children: dict[int, list[tuple[int, int, str]]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_bytes()
        except OSError:  # it ended meanwhile
            continue
        # The second member, the name, is in parentheses and may hold anything.
        state, parent, group = stat[stat.rindex(b")") + 1 :].split()[:3]
        member = (int(entry.name), int(group), state.decode())
        children.setdefault(int(parent), []).append(member)
    found = []
    pending = [os.getpid()]
    while pending:
        for pid, group_id, state_code in children.get(pending.pop(), ()):
            pending.append(pid)
            if state_code not in "ZX":  # dead, waiting for its parent
                found.append((pid, group_id))
    return found


def _cleans_up(pid: int) -> bool:
    """Whether this is Python's tracker of shared memory, which removes what the killed leave.

    It ignores SIGTERM and ends once all who used it are gone.
    """
    try:
        return b"multiprocessing.resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _send(target: int, number: int) -> bool:
    """Signal a process, or a group given as a negative number; False if there is none."""
    try:
        os.kill(target, number)
    except (ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
        return False
    return True


_TERM: Final = int(signal.SIGTERM)


def _prctl() -> Callable[[int, int], int] | None:
    """Linux's ``prctl`` with one argument; None elsewhere, where the group must do."""
    if not _LINUX:
        return None
    try:
        import ctypes

        function = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return None

    def call(option: int, argument: int) -> int:
        return int(function(option, ctypes.c_ulong(argument), 0, 0, 0))

    return call


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the reader of our pipe may be gone
        os.write(2, f"guardian: {text}\n".encode(errors="replace"))


def main(argv: Sequence[str]) -> int:
    """Parse ``[--grace-s N] -- COMMAND...`` and run it; 2 for a wrong call."""
    options, separator, command = _split(argv)
    grace_s = DEFAULT_GRACE_S
    try:
        if options:
            flag, value = options
            if flag != "--grace-s":
                raise ValueError(flag)
            grace_s = float(value)
    except ValueError:
        separator = False
    if not separator or not command:
        _say("usage: guardian [--grace-s N] -- COMMAND...")
        return 2
    return Guardian(command, grace_s=grace_s).run()


def _split(argv: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    """What stands before ``--``, whether it is there, and what stands after."""
    arguments = list(argv)
    if "--" not in arguments:
        return arguments, False, []
    at = arguments.index("--")
    return arguments[:at], True, arguments[at + 1 :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
