"""Questions that may never be answered, such as those to a file system that hangs."""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

T = TypeVar("T")


class Aside(Generic[T]):
    """Asks in a thread, which keeps neither the event loop nor the process from ending."""

    def __init__(self, ask: Callable[[], T]) -> None:
        """Make something to ask; ``ask`` may block."""
        self._ask = ask
        self._coming: asyncio.Future[T] | None = None

    async def answer(self, limit_s: float) -> T | None:
        """The answer, ``None`` if it does not come within so many seconds.

        As long as it does not come nothing else is asked: the next call waits for it, too.
        """
        coming = self._coming
        if coming is None:
            loop = asyncio.get_running_loop()
            coming = self._coming = loop.create_future()
            run = partial(contextvars.copy_context().run, self._run, loop, coming)
            threading.Thread(target=run, name="aside", daemon=True).start()
        await asyncio.wait({coming}, timeout=limit_s)
        if not coming.done():
            return None
        self._coming = None
        return coming.result()

    def _run(self, loop: asyncio.AbstractEventLoop, coming: "asyncio.Future[T]") -> None:
        try:
            settle = partial(coming.set_result, self._ask())
        except Exception as error:  # noqa: BLE001 - it is raised where the answer is waited for
            settle = partial(coming.set_exception, error)
        with suppress(RuntimeError):  # the event loop has been closed meanwhile
            loop.call_soon_threadsafe(settle)
