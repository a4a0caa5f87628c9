"""Captures at work: around the endpoints, from the settings to the files."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import structlog

from proxy.answer import Send
from proxy.capture.call import Call, Receive
from proxy.capture.lines import line_of
from proxy.capture.rollout import rollout_of
from proxy.capture.store import CaptureStore, is_plain, stem_of
from proxy.capture.writer import Writer
from proxy.record import Record
from proxy.settings import Capture
from translators.codec import Codec

_END_LIMIT_S = 1.0
_log = structlog.get_logger("dragoman")


class Handle(Protocol):
    """Answers a generation request; ``observe`` gets its record before anything else happens."""

    def __call__(
        self,
        caller: Codec,
        scope: Any,
        receive: Receive,
        send: Send,
        *,
        compacts: bool = False,
        observe: Callable[[Record], None] | None = None,
    ) -> Awaitable[None]:
        """Answer it, as an ASGI application."""


class Recorder:
    """Records the calls of rollouts. It neither changes, delays nor fails them."""

    def __init__(self, settings: Capture, max_body_bytes: int) -> None:
        """Make a recorder, and the folder it writes to.

        Raises:
            OSError: Nothing can be written there.
        """
        store = CaptureStore(Path(settings.dir).expanduser(), fsync=settings.fsync)
        self._writer = Writer(
            store, lambda call: line_of(call, max_body_bytes), settings.buffer_bytes
        )
        self._keeps_upstream = settings.upstream
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def start(self) -> None:
        """Begin to write."""
        self._writer.start()

    async def aclose(self) -> None:
        """Write what is left. Calls that end just now are waited for."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_LIMIT_S):
                await self._idle.wait()
        await asyncio.to_thread(self._writer.close)

    def around(self, handle: Handle) -> Handle:
        """The same endpoint, its calls recorded if they name a rollout."""

        async def recorded(
            caller: Codec,
            scope: Any,
            receive: Receive,
            send: Send,
            *,
            compacts: bool = False,
            observe: Callable[[Record], None] | None = None,
        ) -> None:
            rollout = rollout_of(scope)
            if rollout is None:
                await handle(caller, scope, receive, send, compacts=compacts, observe=observe)
                return
            budget = self._writer.budget
            call = Call(rollout, caller.dialect.value, scope, receive, send, budget)
            follow = call.follow_upstream if self._keeps_upstream else call.follow
            self._begin(rollout)
            try:
                await handle(
                    caller, scope, call.receive, call.send, compacts=compacts, observe=follow
                )
            except BaseException:
                call.has_failed = True
                raise
            finally:
                self._end(call)

        return recorded

    def _begin(self, rollout: str) -> None:
        if not is_plain(rollout):
            _log.warning("the rollout's id cannot name a file", id=rollout, file=stem_of(rollout))
        self._open += 1
        self._idle.clear()

    def _end(self, call: Call) -> None:
        call.end()
        self._writer.put(call)
        self._open -= 1
        if not self._open:
            self._idle.set()
