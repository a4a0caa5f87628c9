"""A child process with states, a log tail, a reason when it dies, and an end that leaves nothing.

One ``ManagedProcess`` is one life: whoever wants another start makes another object.

State machine (``FAILED`` is also reached from ``STARTING`` if the command cannot be spawned)::

    NEW -> STARTING -> READY -> EXITED      it ended by itself
                    -> FAILED               it ended before it was ready, or stalled
    READY <-> UNHEALTHY -> EXITED           it runs, but its owner found that it does not work
    STARTING, READY, UNHEALTHY -> STOPPING -> EXITED   it was asked to stop
"""

import asyncio
import contextlib
import enum
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import structlog

from backends import guardian
from backends.spawn import Child, LineSplitter, Spawn, describe_status, spawn_guarded

TAIL_LINES: Final = 50
_DRAIN_S: Final = 1.0  # for the rest of the log, should a stray still hold the pipe
_MARGIN_S: Final = 7.0  # above what the guardian waits after its own SIGKILL

_log = structlog.get_logger("dragoman")


class State(enum.StrEnum):
    """Where in its life a process is."""

    NEW = "new"
    STARTING = "starting"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    STOPPING = "stopping"
    EXITED = "exited"
    FAILED = "failed"


Probe = Callable[[], Awaitable[bool]]
"""Whether the process does its work; asked again and again until it says yes."""


class ManagedProcess:
    """Runs a command until it ends or is stopped.

    Args:
        command: The command line.
        name: What logs call it.
        probe: Says when it is ready. It should limit its own time, but may hang.
        env: The whole environment; ours if absent.
        on_line: Receives every line of its log, without line end. Must not raise.
        on_state: Is called when it came into another state. Must not raise.
        explain: Makes a sentence of an exit status nobody asked for.
        redact: Secrets that are masked in lines before anyone sees them.
        stall_s: It failed if there is neither a log line nor readiness for so long.
        poll_s: Pause between two probes.
        grace_s: From SIGTERM to SIGKILL.
        starting_grace_s: The same before it was ready, if that is less. There is nothing to
            lose yet, and vLLM may not heed SIGTERM while it loads.
        clock: Seconds, for the stall timer.
        spawn: Starts the command.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str,
        probe: Probe,
        env: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
        on_state: Callable[[], None] | None = None,
        explain: Callable[[int], str] | None = None,
        redact: Sequence[str] = (),
        stall_s: float = 600.0,
        poll_s: float = 0.25,
        grace_s: float = guardian.DEFAULT_GRACE_S,
        starting_grace_s: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
        spawn: Spawn = spawn_guarded,
    ) -> None:
        self.name = name
        self._command = list(command)
        self._probe = probe
        self._env = dict(os.environ if env is None else env)
        self._on_line = on_line
        self._on_state = on_state
        self._explain = explain or describe_status
        self._redact = tuple(redact)
        self._stall_s = stall_s
        self._poll_s = poll_s
        self._grace_s = grace_s
        self._starting_grace_s = min(starting_grace_s, grace_s)
        self._clock = clock
        self._spawn = spawn
        self._state = State.NEW
        self._reason = ""
        self._status: int | None = None
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._heard_s = 0.0
        self._child: Child | None = None
        self._supervision: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._was_ready = False
        self._left_start = asyncio.Event()
        self._ended = asyncio.Event()

    @property
    def state(self) -> State:
        """Where in its life it is."""
        return self._state

    @property
    def reason(self) -> str:
        """Why it is in this state, one sentence without a full stop; empty if all is well."""
        return self._reason

    @property
    def was_ready(self) -> bool:
        """Whether it ever was ready."""
        return self._was_ready

    @property
    def exit_status(self) -> int | None:
        """Its exit status, 128 + N for signal N; None while it runs or if it never did."""
        return self._status

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines of its log, oldest first."""
        return tuple(self._tail)

    @property
    def pid(self) -> int | None:
        """Process id of its guardian; None before it was spawned."""
        return None if self._child is None else self._child.pid

    async def start(self) -> None:
        """Begin; returns at once. How it went is told by ``state`` and ``wait_ready``."""
        if self._state is not State.NEW:
            raise RuntimeError(f"{self.name} was started before; make a new object to restart")
        self._to(State.STARTING, "")
        self._supervision = asyncio.create_task(self._supervise(), name=f"supervise {self.name}")

    async def wait_ready(self, timeout_s: float | None = None) -> State:
        """The state once it is not ``NEW`` or ``STARTING`` any more, or at the timeout."""
        await _wait_event(self._left_start, timeout_s)
        return self._state

    async def wait_ended(self, timeout_s: float | None = None) -> State:
        """The state once nothing is left of it, or at the timeout."""
        await _wait_event(self._ended, timeout_s)
        return self._state

    def doubt(self, reason: str) -> None:
        """Take note that it runs but does not work; nothing happens if it is not ``READY``."""
        if self._state is State.READY:
            self._to(State.UNHEALTHY, reason)

    def trust(self) -> None:
        """Take ``doubt`` back."""
        if self._state is State.UNHEALTHY:
            self._to(State.READY, "")

    async def stop(self, reason: str = "it was stopped", *, at_once: bool = False) -> None:
        """End it and wait until nothing of its tree is left; may be called again.

        A cancellation is obeyed only afterwards, for an abandoned stop leaves orphans. The time
        is limited by the grace and some seconds; ``hurry`` shortens it, as does ``at_once``.
        """
        if self._state is State.NEW:
            self._to(State.EXITED, "it was never started")
            self._ended.set()
            return
        if self._state in (State.STARTING, State.READY, State.UNHEALTHY):
            self._to(State.STOPPING, reason)
        self._begin_end()
        if at_once:
            self.hurry()
        if self._ending is not None:
            await _uncancelled(self._ending)

    def hurry(self) -> None:
        """Cut short the grace of a ``stop`` under way."""
        if self._child is not None and self._ending is not None and not self._ended.is_set():
            self._child.hurry()

    def _to(self, state: State, reason: str) -> None:
        was, self._state, self._reason = self._state, state, reason
        if state is State.READY:
            self._was_ready = True
        if state is not State.STARTING:
            self._left_start.set()
        by_itself = state is State.EXITED and was in (State.READY, State.UNHEALTHY)
        bad = by_itself or state in (State.FAILED, State.UNHEALTHY)
        level = _log.warning if bad else _log.info
        level("process_state", process=self.name, state=state.value, was=was.value, reason=reason)
        if self._on_state is not None:
            self._on_state()

    async def _supervise(self) -> None:
        try:
            child = await self._spawn(self._command, self._env, self._grace_s)
        except OSError as exc:
            self._to(State.FAILED, f"{self._command[0]} cannot be started: {exc.strerror or exc}")
            self._ended.set()
            return
        self._child = child
        self._heard_s = self._clock()
        pump = asyncio.create_task(self._pump(child), name=f"log of {self.name}")
        exited = asyncio.create_task(child.wait(), name=f"exit of {self.name}")
        try:
            if self._state is not State.STARTING:  # stopped while it was being spawned
                child.let_go()
            await self._until_ready(exited)
            status = await exited
            await asyncio.wait({pump}, timeout=_DRAIN_S)
            self._settle(status)
        except Exception as exc:  # a fault of a callback must not leave the tree behind
            self._to(State.FAILED, f"its supervision failed: {exc!r}")
            child.let_go()
            await exited
            raise
        finally:
            # Also if the event loop ends without ``stop``: the guardian does the rest.
            child.let_go()
            pump.cancel()
            exited.cancel()
            child.close()
            self._ended.set()

    async def _until_ready(self, exited: asyncio.Task[int]) -> None:
        """Probe until it is ready, gone, stalled, or asked to stop."""
        probe: asyncio.Task[bool] | None = None
        try:
            while self._state is State.STARTING and not exited.done():
                probe = probe or asyncio.create_task(_ask(self._probe))
                await asyncio.wait(
                    {probe, exited}, timeout=self._poll_s, return_when=asyncio.FIRST_COMPLETED
                )
                if exited.done() or self._state is not State.STARTING:
                    return
                if probe.done():
                    if probe.result():
                        self._to(State.READY, "")
                        return
                    probe = None
                    await asyncio.wait({exited}, timeout=self._poll_s)
                if self._clock() - self._heard_s > self._stall_s:
                    self._to(
                        State.FAILED,
                        f"it stalled: no log line and no readiness for {self._stall_s:.0f} s",
                    )
                    self._begin_end()
        finally:
            if probe is not None:
                probe.cancel()

    def _settle(self, status: int) -> None:
        """The final state, once it is gone."""
        self._status = status
        match self._state:
            case State.STOPPING:
                self._to(State.EXITED, self._reason)
            case State.READY | State.UNHEALTHY:
                self._to(State.EXITED, self._explain(status))
            case State.STARTING:
                self._to(State.FAILED, self._explain(status))
            case State.NEW | State.EXITED | State.FAILED:
                pass  # it stalled, which is the better reason

    async def _pump(self, child: Child) -> None:
        splitter = LineSplitter()
        while data := await child.read():
            for line in splitter.feed(data):
                self._hear(line)
        for line in splitter.finish():
            self._hear(line)

    def _hear(self, line: str) -> None:
        self._heard_s = self._clock()
        for secret in self._redact:
            line = line.replace(secret, "***")
        self._tail.append(line)
        _log.debug("process_output", process=self.name, line=line)
        if self._on_line is not None:
            self._on_line(line)

    def _begin_end(self) -> None:
        if self._ending is None:
            self._ending = asyncio.create_task(self._end(), name=f"end {self.name}")

    async def _end(self) -> None:
        if self._child is not None:
            self._child.let_go()
        patience_s = self._grace_s + _MARGIN_S if self._was_ready else self._starting_grace_s
        if await _wait_event(self._ended, patience_s):
            return
        if self._child is not None:
            self._child.hurry()
        if await _wait_event(self._ended, _MARGIN_S):
            return
        if self._child is not None:
            self._child.kill()
        await self._ended.wait()


async def _ask(probe: Probe) -> bool:
    return await probe()


async def _wait_event(event: asyncio.Event, timeout_s: float | None) -> bool:
    """Whether the event came before the timeout."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    return event.is_set()


async def _uncancelled(task: asyncio.Task[None]) -> None:
    """Wait for a task to the end; a cancellation of the caller is raised afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as exc:
            if task.cancelled():  # the event loop itself is shutting down
                raise
            cancelled = exc
    if cancelled is not None:
        raise cancelled
    task.result()
