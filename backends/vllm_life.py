"""How vLLM lives: one server after another, from the start that was asked for to its end."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from backends.guardian import DEFAULT_GRACE_S
from backends.leftovers import clear
from backends.process import State
from backends.supervision import Backoff, Supervision, watch
from backends.vllm_command import NoLauncher
from backends.vllm_log import Phase
from backends.vllm_server import VllmServer

PORT_ATTEMPTS: Final = 3

_LEFTOVERS_GRACE_S: Final = 5.0  # they have nothing to lose, and somebody waits
_TELL_EVERY_S: Final = 10.0
_TICK_S: Final = 1.0

_log = structlog.get_logger("dragoman")


class Progress(msgspec.Struct, frozen=True):
    """How far the start is."""

    phase: Phase
    elapsed_s: float
    """Since this start was asked for; stands still once it is ready or over."""
    last_line: str
    """Of vLLM's log, without its prefix."""


class VllmLife:
    """Starts servers, watches them, and restarts them.

    Args:
        name: The upstream's name in logs.
        launch: Makes the next server; it gets a function to call when a phase begins.
        rules: When a server counts as unhealthy, and how it is restarted.
        leftovers: Folder of files by which an earlier run's processes are found; none if absent.
        grace_s: Time these have to end by themselves, if that is little.
        on_turn: Is called when it is ready, and at the very end.
        clock: Seconds, for progress and how long a server was ready.
    """

    def __init__(
        self,
        *,
        name: str,
        launch: Callable[[Callable[[], None]], VllmServer],
        rules: Supervision,
        leftovers: Path | None = None,
        grace_s: float = DEFAULT_GRACE_S,
        on_turn: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.server: VllmServer | None = None
        self._name = name
        self._launch = launch
        self._rules = rules
        self._leftovers = leftovers
        self._leftovers_grace_s = min(grace_s, _LEFTOVERS_GRACE_S)
        self._on_turn = on_turn
        self._clock = clock

        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._turn = asyncio.Event()  # set and replaced when it is ready, and at the very end
        self._backoff = Backoff(rules)
        self._attempts_left = PORT_ATTEMPTS
        self._was_ready = False
        self._not_started = ""
        self._last_reason = ""
        self._next_start_s = 0.0
        self._began_s: float | None = None
        self._settled_s: float | None = None
        self._told_s = 0.0

    @property
    def state(self) -> State:
        """Where in its life vLLM is."""
        server = self.server
        if self._not_started:
            return State.FAILED
        if self._closing.is_set() and server is None:
            return State.EXITED
        if server is None or server.process.state is State.NEW or self._will_retry(server):
            return State.NEW if self._task is None else State.STARTING
        return server.process.state

    @property
    def progress(self) -> Progress:
        """How far the start is."""
        until_s = self._clock() if self._settled_s is None else self._settled_s
        elapsed_s = 0.0 if self._began_s is None else until_s - self._began_s
        if self.server is None:
            return Progress(Phase.IMPORTING, elapsed_s, "")
        return Progress(self.server.reader.phase, elapsed_s, self.server.reader.last_line)

    @property
    def reason(self) -> str:
        """Why it is not running, in one sentence; empty if nothing is wrong."""
        if self._not_started or self.server is None:
            return self._not_started
        return self.server.process.reason

    @property
    def last_reason(self) -> str:
        """Why it is being restarted; empty if it never was."""
        return self._last_reason if self.state is State.STARTING else self.reason

    @property
    def pause_left_s(self) -> float:
        """How long it takes until the next start; not above zero if none is waited for."""
        return self._next_start_s - self._clock()

    @property
    def comes_back(self) -> bool:
        """Whether it is not ready, but will be without anybody's help."""
        was_ready = self._was_ready or (self.server is not None and self.server.process.was_ready)
        return (
            was_ready
            and self._rules.restart
            and not self._not_started
            and not self._closing.is_set()
            and self.state is not State.READY
        )

    def begin(self) -> None:
        """Begin the first start."""
        if self._task is not None:
            raise RuntimeError(f"{self._name} was started before")
        self._began_s = self._told_s = self._clock()
        self._task = asyncio.create_task(self._live(), name=f"life of {self._name}")

    async def end(self) -> None:
        """Stop the server, start no other, and wait until nothing is left; may be called again."""
        self._closing.set()
        if self.server is not None:
            await self.server.process.stop()
        if self._task is not None:
            await asyncio.wait({self._task})

    async def wait_back(self) -> None:
        """Wait until it is back, or will not come back."""
        while self.comes_back:
            await self._turn.wait()

    async def _live(self) -> None:
        """Start vLLM, see it to its end, and again, until no other start follows."""
        try:
            while await self._live_once():
                pass
        except NoLauncher as exc:
            self._give_up(str(exc))
        except Exception as exc:  # a fault of ours; callers must not be told to wait for ever
            self._give_up(f"vLLM could not be started: {exc!r}")
            raise
        finally:
            self._announce()

    def _give_up(self, reason: str) -> None:
        self._not_started = reason
        self._settled_s = self._clock()
        _log.warning("vllm_not_started", backend=self._name, reason=reason)

    def _announce(self) -> None:
        """Wake the requests that wait for a restart."""
        self._turn.set()
        self._turn = asyncio.Event()
        self._on_turn()

    async def _live_once(self) -> bool:
        """One server from its launch to its end; whether another one is due."""
        if self._leftovers is not None:
            await clear(
                self._leftovers, grace_s=self._leftovers_grace_s, given_up=self._closing.is_set
            )
        if self._closing.is_set():
            return False
        self._attempts_left -= 1
        server = self.server = self._launch(self._on_phase)
        try:
            await server.start()
            while await server.process.wait_ready(_TICK_S) is State.STARTING:
                self._tell(at_least_every_s=_TELL_EVERY_S)
            self._settled_s = ready_at_s = self._clock()
            if server.process.state is State.READY:
                self._was_ready = True
                self._attempts_left = PORT_ATTEMPTS
                server.reader.started()
                await server.ask_version()
                self._tell(at_least_every_s=0)
                self._announce()
                await watch(server.process, server.check_at_work, self._rules)
            await server.process.wait_ended()
        finally:
            await server.release()
        if self._will_retry(server):
            self._settled_s = None
            return True
        if not self.comes_back:
            return False
        await self._pause(self._clock() - ready_at_s if server.process.was_ready else 0.0)
        return not self._closing.is_set()

    async def _pause(self, ready_s: float) -> None:
        """Wait until the next start is due, or we are closed."""
        pause_s = self._backoff.next_s(ready_s)
        self._last_reason = self.reason
        self._next_start_s = self._clock() + pause_s
        _log.warning(
            "vllm_restart",
            backend=self._name,
            pause_s=pause_s,
            ready_s=round(ready_s, 1),
            reason=self.reason,
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._closing.wait()
        self._attempts_left = PORT_ATTEMPTS
        self._began_s, self._settled_s = self._clock(), None

    def _will_retry(self, server: VllmServer) -> bool:
        """Whether the server lost its port to another process and gets another one at once."""
        return (
            server.process.state in (State.FAILED, State.EXITED)
            and server.reader.lost_port
            and server.launch.port_is_ours
            and self._attempts_left > 0
            and not self._closing.is_set()
        )

    def _on_phase(self) -> None:
        if self.state is State.STARTING:
            self._tell(at_least_every_s=0)

    def _tell(self, *, at_least_every_s: float) -> None:
        """Log the progress, unless that was done a short while ago."""
        now_s = self._clock()
        if now_s - self._told_s < at_least_every_s:
            return
        self._told_s = now_s
        progress = self.progress
        served = () if self.server is None else self.server.served
        _log.info(
            "vllm_progress",
            backend=self._name,
            phase=progress.phase.value,
            elapsed_s=round(progress.elapsed_s, 1),
            last_line=progress.last_line,
            model=served[0] if served else None,
            version=None if self.server is None else self.server.version,
        )
