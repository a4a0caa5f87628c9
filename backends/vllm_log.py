"""What vLLM's log says about its start: how far it is, and why it failed; and its file.

Read from vLLM 0.32. Log texts are no interface: a line nobody recognises changes nothing, and the
last lines are shown beside every reason.
"""

import enum
import re
from pathlib import Path
from typing import Final, TextIO

import structlog

from backends.spawn import describe_status
from backends.vllm_causes import CAUSES, LOST_PORT

_log = structlog.get_logger("dragoman")


class Phase(enum.StrEnum):
    """How far vLLM's start is, in words for people."""

    IMPORTING = "importing"
    ENGINE = "starting the engine"
    WEIGHTS = "loading weights"
    WARM_UP = "compiling and warming up"
    KV_CACHE = "making the KV cache"
    SERVING = "serving"


_PHASES: Final = (
    (Phase.ENGINE, re.compile(r"Initializing a (?:V1 )?LLM engine|Waiting for .*core engine")),
    (
        Phase.WEIGHTS,
        re.compile(
            r"Starting to load model|Loading (?:weights|\w+ checkpoint shards)|Model loading took"
            r"|weights format|downloading weights|Fetching \d+ files"
        ),
    ),
    (
        Phase.WARM_UP,
        re.compile(
            r"Dynamo bytecode transform|Compiling a graph|torch\.compile (?:takes|took)"
            r"|Compile and warming up|Warming up model|[Cc]apturing (?:CUDA|HPU|NPU) ?graphs?"
            r"|Graph capturing"
        ),
    ),
    (
        Phase.KV_CACHE,
        re.compile(r"KV cache size|Available KV cache memory|GiB for KV cache|# GPU blocks"),
    ),
    (
        Phase.SERVING,
        re.compile(r"Starting vLLM (?:API )?server|Started server process|startup complete"),
    ),
)

_PREFIX: Final = re.compile(
    r"^(?:\([^)]*\) )?(?:[A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?)?(?:ERROR: +)?"
)
"""The process, level, time and place that stand before vLLM's own lines."""

_EXCEPTION: Final = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception)(?:: .+)?$")
_WRAPPERS: Final = re.compile(
    r"core initialization failed|WorkerProc initialization failed|EngineDeadError"
    r"|Failed core proc|EngineCore encountered an issue|Worker failed with error|CancelledError"
    r"|raise "
)
"""Exceptions that only say that another one happened, often in another process."""

_REASON_CHARS: Final = 500
_CAUSE_LINES: Final = 200
_LINE_CHARS: Final = 200
_ENGINE_DIED: Final = re.compile(r"[Ee]ngine core .*(?:died|exited) unexpectedly")


class LogReader:
    """Folds the log of one start, line by line, into a phase and a cause.

    Not from the tail afterwards: the tracebacks of engine and server are longer than that.
    """

    def __init__(self) -> None:
        self.phase = Phase.IMPORTING
        self.last_line = ""
        self._rank = len(CAUSES)
        self._cause = ""
        self._lines_since = 0
        self._started = False

    @property
    def lost_port(self) -> bool:
        """Whether the port was taken by another process."""
        return self._cause == LOST_PORT

    @property
    def cause(self) -> str:
        """What looks like a cause of its end, in one sentence; empty if nothing does."""
        return self._cause

    def feed(self, line: str) -> bool:
        """Take a line; True if it begins another phase."""
        text = _PREFIX.sub("", line, count=1)
        if not text:
            return False
        self.last_line = text[:_LINE_CHARS]
        self._look_for_cause(text)
        for phase, pattern in _PHASES:
            if pattern.search(text):
                changed = phase is not self.phase
                self.phase = phase
                return changed
        return False

    def started(self) -> None:
        """Take note that the start went well: what looked like a cause was none.

        From now on causes grow old, for requests may fail without any harm to the server.
        """
        self._started = True
        self.phase = Phase.SERVING
        self._forget()

    def explain(self, status: int) -> str:
        """Why it ended, in one sentence, when nobody asked it to."""
        if self._cause:
            return self._cause
        when = "" if self._started else " before it was ready"
        hint = ", often the kernel's answer to a lack of memory" if status == 128 + 9 else ""
        return f"{describe_status(status, who='vLLM')}{when}{hint}"

    def _forget(self) -> None:
        self._rank = len(CAUSES)
        self._cause = ""

    def _look_for_cause(self, text: str) -> None:
        self._lines_since += 1
        if self._started and self._lines_since > _CAUSE_LINES:
            self._forget()
        for rank, (pattern, reason) in enumerate(CAUSES[: self._rank]):
            if found := pattern.search(text):
                self._rank = rank
                self._cause = found.expand(reason)[:_REASON_CHARS]
                self._lines_since = 0
                return
        # Of unknown exceptions the last one counts: earlier ones were mostly survived.
        if self._rank == len(CAUSES) and _EXCEPTION.search(text) and not _WRAPPERS.search(text):
            self._cause = f"vLLM failed: {text}"[:_REASON_CHARS]
            self._lines_since = 0
        elif not self._cause and _ENGINE_DIED.search(text):
            self._cause = "vLLM's engine process died without a word"
            self._lines_since = 0


class LogFile:
    """Appends lines to a file; a fault is logged once and does not harm the server."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8", buffering=1)
        except OSError as exc:
            self._complain(exc)

    def write(self, line: str) -> None:
        """Append a line that comes without its end."""
        if self._file is None:
            return
        try:
            self._file.write(f"{line}\n")
        except OSError as exc:
            self._complain(exc)
            self.close()

    def close(self) -> None:
        """Close the file; may be called again."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as exc:
                self._complain(exc)

    def _complain(self, exc: OSError) -> None:
        _log.warning("vllm_log_file", file=str(self._path), reason=exc.strerror or str(exc))
