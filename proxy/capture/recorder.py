"""Captures at work: from the settings to the files."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from proxy.capture.call import Call
from proxy.capture.lines import line_of
from proxy.capture.rollout import rollout_of
from proxy.capture.store import CaptureStore
from proxy.capture.writer import Writer
from proxy.record import Record
from proxy.settings import Capture

_END_LIMIT_S = 1.0


class Recorder:
    """Records the calls of rollouts. It neither changes, delays nor fails them."""

    def __init__(self, settings: Capture, max_body_bytes: int) -> None:
        """Make a recorder, and the folder it writes to.

        Raises:
            OSError: Nothing can be written there.
        """
        store = CaptureStore(Path(settings.dir).expanduser(), fsync=settings.fsync)
        make_line = partial(line_of, request_limit_bytes=max_body_bytes)
        self._writer = Writer(store, make_line, settings.buffer_bytes)
        self._budget = self._writer.budget
        self._keeps_upstream = settings.upstream
        self._open = 0
        self._idle: asyncio.Event | None = None

    def start(self) -> None:
        """Begin to write."""
        self._writer.start()

    async def aclose(self) -> None:
        """Write what is left. Calls that end just now are waited for."""
        if self._open:
            self._idle = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_LIMIT_S):
                    await self._idle.wait()
        await asyncio.to_thread(self._writer.close)

    def begin(self, record: Record, fields: Mapping[bytes, bytes]) -> Call | None:
        """A call to be kept until ``end``; ``None`` if the headers name no rollout."""
        rollout = rollout_of(fields)
        if rollout is None:
            return None
        call = Call(rollout, record, self._budget, time.time())
        if self._keeps_upstream:
            record.watch = call.watch
        self._open += 1
        return call

    def end(self, call: Call) -> None:
        """Have a call written; its record and reply are complete."""
        call.end()
        self._writer.put(call)
        self._open -= 1
        if self._idle is not None and not self._open:
            self._idle.set()
