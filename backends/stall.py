"""Noticing an engine that stands still behind a server that calls itself healthy.

vLLM's ``/health`` knows an engine that died, but none that hangs (vllm#42363). Such a one shows by
requests that are open while nothing moves: no piece of any reply, and none of the counters in
``/metrics`` that only the engine changes. A long prefill moves them at each of its steps, a full
queue at each token. Before the verdict the engine is asked for one token.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Final

from backends.errors import BackendError, BackendUnavailable
from backends.traffic import Traffic

_ENGINES_OWN: Final = re.compile(
    rb"^vllm:(?:prompt_tokens|generation_tokens|prefix_cache|kv_cache_usage|gpu_cache_usage"
    rb"|num_requests|num_preemptions)\S* .*$",
    re.MULTILINE,
)
"""Metrics of vLLM that stand still with the engine; callers that give up change others."""


class EngineStalled(BackendUnavailable):
    """Requests wait, and the engine does nothing."""


class StallWatch:
    """Looks now and then whether an engine with work to do does it.

    Args:
        name: The upstream's name in errors.
        traffic: What is under way at the server.
        read_metrics: Gives the text of ``/metrics``.
        ask: Has the engine make one token; raises if that takes too long.
        stall_s: So long may nothing move before the engine is asked; 0 for any time.
        clock: Seconds.
    """

    def __init__(
        self,
        *,
        name: str,
        traffic: Traffic,
        read_metrics: Callable[[], Awaitable[bytes]],
        ask: Callable[[], Awaitable[None]],
        stall_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._traffic = traffic
        self._read_metrics = read_metrics
        self._ask = ask
        self._stall_s = stall_s
        self._clock = clock
        self._heard = -1
        self._metrics: list[bytes] | None = None
        self._moved_s = clock()
        self._is_stalled = False

    async def check(self) -> None:
        """Compare with what was seen the last time.

        Raises:
            EngineStalled: Nothing moved for too long, and the engine did not answer.
            BackendError: ``/metrics`` could not be read.
        """
        if self._stall_s <= 0 or not await self._stands_still():
            return
        try:
            await self._ask()
        except BackendError as exc:
            self._is_stalled = True
            raise EngineStalled(
                f"its engine stalled: nothing moved for {self._clock() - self._moved_s:.0f} s"
                f" (requests under way: {self._traffic.open}), and a request for one token failed:"
                f" {exc}",
                backend=self._name,
            ) from exc
        self._note_motion()

    async def _stands_still(self) -> bool:
        """Whether nothing moved for too long; once it stalled, only an answer clears that."""
        if self._is_stalled:
            return True
        if self._traffic.open == 0 or self._traffic.heard != self._heard:
            self._heard = self._traffic.heard
            self._metrics = None
            self._note_motion()
            return False
        metrics = _ENGINES_OWN.findall(await self._read_metrics())
        if metrics != self._metrics:
            if self._metrics is not None:
                self._note_motion()
            self._metrics = metrics
        return self._clock() - self._moved_s >= self._stall_s

    def _note_motion(self) -> None:
        self._is_stalled = False
        self._moved_s = self._clock()
