"""Coroutines that run at once, as far as they can: also in a callback, where no task waits."""

from collections.abc import Awaitable, Coroutine, Generator
from typing import Any


def run_eagerly(coroutine: Coroutine[Any, Any, None]) -> Awaitable[None] | None:
    """Run a coroutine up to where it has to wait.

    Returns:
        The rest of it, ``None`` if it has ended.

    Raises:
        Exception: What the coroutine raised.
    """
    try:
        blocker = coroutine.send(None)
    except StopIteration:
        return None
    return _Rest(coroutine, blocker)


class _Rest:
    """What is left of a coroutine that waits for something."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], blocker: Any) -> None:
        self._coroutine = coroutine
        self._blocker = blocker

    def __await__(self) -> Generator[Any, Any, None]:
        blocker = self._blocker
        while True:
            try:
                try:
                    sent = yield blocker
                except BaseException as exc:  # noqa: BLE001 - a cancellation is the coroutine's
                    blocker = self._coroutine.throw(exc)
                else:
                    blocker = self._coroutine.send(sent)
            except StopIteration:
                return
