"""The threads that write captures, so that the event loop never waits for a disk."""

import atexit
import contextvars
import queue
import threading
from collections.abc import Callable, Mapping

import structlog

from proxy.capture.budget import Budget
from proxy.capture.call import Call
from proxy.capture.store import CaptureStore, is_plain, stem_of

_WRITE_LIMIT_S = 10.0
_BATCH_CALLS = 4096
_GATHER_S = 0.2
"""After the first call of a batch: a thread that wakes for each call, and a file that is opened,
locked and written for each, cost more than the rest. A pause of 0.03 s costs some 4 us more per
call (32 rollouts, 4000 calls per second)."""

_SYNC_S = 1.0
"""After the first write that is not on the disk yet."""

_log = structlog.get_logger("dragoman")


class Writer:
    """Writes calls in the order in which they are put; those that come together at once.

    Attributes:
        budget: What calls charge for the memory they hold until they are written.
    """

    def __init__(
        self, store: CaptureStore, line_of: Callable[[Call], list[bytes]], buffer_bytes: int
    ) -> None:
        """Make a writer; ``line_of`` makes the line of a call, in pieces."""
        self.budget = Budget(buffer_bytes)
        self._store = store
        self._line_of = line_of
        self._queue: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._writing = _thread("captures", self._keep_writing)
        self._has_written = threading.Event()
        self._is_over = threading.Event()
        # A disk that takes long must not hold up the writing.
        self._syncing = _thread("captures-sync", self._keep_syncing)

    def start(self) -> None:
        """Begin to write; what nobody lets it write before is written as the process exits."""
        atexit.register(self.close)
        self._writing.start()
        self._syncing.start()

    def put(self, call: Call) -> None:
        """Have a call written; never waits."""
        self._queue.put(call)

    def close(self, limit_s: float = _WRITE_LIMIT_S) -> None:
        """Write what was put so far, for at most so many seconds."""
        atexit.unregister(self.close)
        self._closing.set()
        self._queue.put(None)
        self._syncing.join(limit_s)
        if self._writing.is_alive():
            _log.warning("captures are lost", calls=self._queue.qsize(), why="no time left")
        elif self._syncing.is_alive():
            _log.warning("captures may not last", why="the disk takes too long")

    def _keep_writing(self) -> None:
        is_over = False
        while not is_over:
            batch, is_over = self._take()
            self._write(batch)
            if is_over:
                self._is_over.set()
            self._has_written.set()

    def _keep_syncing(self) -> None:
        is_over = False
        while not is_over:
            self._has_written.wait()
            self._has_written.clear()
            is_over = self._is_over.wait(_SYNC_S)
            self._report(self._store.sync())

    def _take(self) -> tuple[list[Call], bool]:
        """The next call, and those that were put until now; whether these are the last."""
        batch: list[Call] = []
        call = self._queue.get()
        if call is not None:
            self._closing.wait(_GATHER_S)
        try:
            while call is not None:
                batch.append(call)
                if len(batch) == _BATCH_CALLS:
                    return batch, False
                call = self._queue.get_nowait()
        except queue.Empty:
            return batch, False
        return batch, True

    def _write(self, batch: list[Call]) -> None:
        rollouts: dict[str, list[Call]] = {}
        for call in batch:
            rollouts.setdefault(call.rollout, []).append(call)
        failures: dict[str, Exception] = {}
        for rollout, calls in rollouts.items():
            if not is_plain(rollout):
                file = stem_of(rollout)
                _log.warning("the rollout's id cannot name a file", id=rollout, file=file)
            try:
                if lines := self._lines_of(calls):
                    self._store.append(rollout, lines)
            except Exception as error:  # noqa: BLE001 - the thread has to go on
                failures[rollout] = error
            self.budget.freed_bytes += sum([call.size_bytes for call in calls])
        self._report(failures)

    def _lines_of(self, calls: list[Call]) -> list[bytes]:
        """The lines of a rollout's calls that can be written, in pieces."""
        lines: list[bytes] = []
        for call in calls:
            if call.is_dropped:
                self._lose(call.rollout, "the buffer is full")
                continue
            try:
                lines += self._line_of(call)
            except Exception as error:  # noqa: BLE001 - the others have to be written
                self._lose(call.rollout, f"an unexpected error: {error!r}")
        return lines

    def _report(self, failures: Mapping[str, Exception]) -> None:
        for rollout, error in failures.items():
            self._lose(rollout, str(error))

    def _lose(self, rollout: str, why: str) -> None:
        _log.warning("a capture is lost", rollout=rollout, why=why)
        try:
            self._store.mark_incomplete(rollout)
        except OSError as error:
            _log.warning("a rollout cannot be marked", rollout=rollout, why=str(error))


def _thread(name: str, run: Callable[[], None]) -> threading.Thread:
    """A thread that logs as this one, and does not keep the process from ending."""
    context = contextvars.copy_context()
    return threading.Thread(target=context.run, args=(run,), name=name, daemon=True)
