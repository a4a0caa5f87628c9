"""When a running server counts as unhealthy, and how long to pause before it is restarted."""

from collections.abc import Awaitable, Callable

import msgspec

from backends.errors import BackendError
from backends.process import ManagedProcess, State
from backends.stall import EngineStalled


class Supervision(msgspec.Struct, frozen=True):
    """Rules for a server that was ready once; what never was is not restarted.

    Attributes:
        health_interval_s: Pause between two questions for its health.
        health_failures: So many bad answers in a row make it unhealthy.
        stall_s: So long may requests be open without any motion before the engine is asked for a
            token; 0 for any time.
        stall_answer_s: So long may it take to answer that; then it is unhealthy.
        restart: Whether it is restarted after it exited or became unhealthy.
        backoff_s: Pause before the first restart; each further one doubles it.
        backoff_cap_s: The longest pause.
        calm_s: Once it was ready for so long, pauses begin anew with ``backoff_s``.
        wait_s: So long may a request wait for a restart; with 0 it is refused at once.
    """

    health_interval_s: float = 5.0
    health_failures: int = 3
    stall_s: float = 120.0
    stall_answer_s: float = 30.0
    restart: bool = True
    backoff_s: float = 1.0
    backoff_cap_s: float = 60.0
    calm_s: float = 120.0
    wait_s: float = 30.0


class Backoff:
    """The pauses between restarts."""

    def __init__(self, rules: Supervision) -> None:
        self._rules = rules
        self._pause_s = rules.backoff_s

    def next_s(self, ready_s: float) -> float:
        """The pause after a life that was ready for so long, 0 if it never was."""
        if ready_s >= self._rules.calm_s:
            self._pause_s = self._rules.backoff_s
        pause_s = min(self._pause_s, self._rules.backoff_cap_s)
        self._pause_s = pause_s * 2
        return pause_s


async def watch(
    process: ManagedProcess, check: Callable[[], Awaitable[None]], rules: Supervision
) -> None:
    """Ask a ready process for its health until it ends, is stopped, or was stopped for it.

    A process that is not to be restarted is left alive when it is unhealthy, for it may recover.
    A stalled one gets no grace: those who wait for it have waited long enough.

    Args:
        process: A process that is ``READY``.
        check: Raises BackendError if it is not healthy, EngineStalled if that is beyond doubt;
            limits its own time.
        rules: When it counts as unhealthy.
    """
    failures = 0
    while await process.wait_ended(rules.health_interval_s) in (State.READY, State.UNHEALTHY):
        try:
            await check()
        except BackendError as exc:
            failures += 1
            stalled = isinstance(exc, EngineStalled)
            if process.state is not State.READY:
                continue
            if stalled:
                process.doubt(str(exc))
            elif failures >= rules.health_failures:
                process.doubt(f"it failed {failures} health checks in a row: {exc}")
            else:
                continue
            if rules.restart:
                await process.stop(process.reason, at_once=stalled)
                return
        else:
            failures = 0
            process.trust()
