"""Signs of life on a stream whose upstream is silent, as during a long prefill."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self


class Heartbeat:
    """Calls ``beat`` whenever nothing was written for ``interval_s`` seconds.

    It lives as long as the stream is read, and the upstream's own silence is limited, so that it
    never hides a dead one. A timer instead of a task: a busy stream pays for one clock reading
    per write.
    """

    def __init__(self, interval_s: float, beat: Callable[[], Awaitable[None]]) -> None:
        """Make a heartbeat; an interval of 0 means none."""
        self._interval_s = interval_s
        self._beat = beat
        self._loop = asyncio.get_running_loop()
        self._last_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        if self._interval_s > 0:
            self._timer = self._loop.call_later(self._interval_s, self._tick)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def touch(self) -> None:
        """Note that something is being written."""
        self._last_s = self._loop.time()

    def _tick(self) -> None:
        silent_s = self._loop.time() - self._last_s
        if silent_s >= self._interval_s:
            self.touch()
            silent_s = 0.0
            if self._task is None or self._task.done():  # else the caller does not even read
                self._task = asyncio.ensure_future(self._beat_once())
        self._timer = self._loop.call_later(self._interval_s - silent_s, self._tick)

    async def _beat_once(self) -> None:
        await self._beat()
