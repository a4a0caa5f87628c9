"""The thread that writes captures, so that the event loop never waits for a disk."""

import atexit
import queue
import threading
from collections.abc import Callable

import structlog

from proxy.capture.budget import Budget
from proxy.capture.call import Call
from proxy.capture.store import CaptureStore

_WRITE_LIMIT_S = 10.0
_BATCH_CALLS = 4096
_GATHER_S = 0.2
"""After the first call of a batch: a thread that wakes for each call, and a file that is opened,
locked and synced for each, cost more than the rest. At 32 rollouts 0.2 s instead of 0.02 s saves
45 us per call."""

_log = structlog.get_logger("dragoman")


class Writer:
    """Writes calls in the order in which they are put; those that come together at once.

    Attributes:
        budget: What calls charge for the memory they hold until they are written.
    """

    def __init__(
        self, store: CaptureStore, line_of: Callable[[Call], bytes], buffer_bytes: int
    ) -> None:
        """Make a writer; ``line_of`` gives the line to write of a call."""
        self.budget = Budget(buffer_bytes)
        self._store = store
        self._line_of = line_of
        self._queue: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        # A file system that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="captures", daemon=True)

    def start(self) -> None:
        """Begin to write; what nobody lets it write before is written as the process exits."""
        atexit.register(self.close)
        self._thread.start()

    def put(self, call: Call) -> None:
        """Have a call written; never waits."""
        self._queue.put(call)

    def close(self, limit_s: float = _WRITE_LIMIT_S) -> None:
        """Write what was put so far, for at most so many seconds."""
        atexit.unregister(self.close)
        self._closing.set()
        self._queue.put(None)
        self._thread.join(limit_s)
        if self._thread.is_alive():
            _log.warning("captures are lost", calls=self._queue.qsize(), why="no time left")

    def _run(self) -> None:
        while batch := self._take():
            self._write(batch)

    def _take(self) -> list[Call]:
        """The next call, and those that were put until now; none at the end."""
        batch: list[Call] = []
        while (call := self._queue.get()) is not None:
            if not batch:
                self._closing.wait(_GATHER_S)
            batch.append(call)
            if len(batch) == _BATCH_CALLS or self._queue.empty():
                return batch
        if batch:
            self._queue.put(None)  # it is the end after these
        return batch

    def _write(self, batch: list[Call]) -> None:
        lines: dict[str, list[bytes]] = {}
        for call in batch:
            if call.is_dropped:
                self._lose(call.rollout, "the buffer is full")
                continue
            try:
                line = self._line_of(call)
            except Exception as error:  # noqa: BLE001 - the others have to be written
                self._lose(call.rollout, f"an unexpected error: {error!r}")
            else:
                lines.setdefault(call.rollout, []).append(line)
        for rollout, found in lines.items():
            try:
                self._store.append(rollout, b"".join(found))
            except OSError as error:
                self._lose(rollout, str(error))
        for call in batch:
            self.budget.free(call.size_bytes)

    def _lose(self, rollout: str, why: str) -> None:
        _log.warning("a capture is lost", rollout=rollout, why=why)
        try:
            self._store.mark_incomplete(rollout)
        except OSError as error:
            _log.warning("a rollout cannot be marked", rollout=rollout, why=str(error))
