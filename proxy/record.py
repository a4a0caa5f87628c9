"""What the log tells of one request."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from backends.base import UpstreamReply, UpstreamRequest
from translators.canonical import Usage
from translators.errors import ErrorInfo, Loss
from translators.wire import JSON

Watch = Callable[[UpstreamRequest, UpstreamReply], UpstreamReply]
"""Sees what goes to an upstream; gives the reply to be read."""


class Record:
    """Facts of one request, for one log line; durations are in milliseconds.

    ``started_s`` is when it began, on the clock of ``time.perf_counter``; ``total_ms`` is known
    when its line was written. ``has_strict_body`` says that its body is a JSON object for strict
    readers, see ``Peek``.
    """

    def __init__(self, dialect: str, request_id: str) -> None:
        """Start the clock of a request in this dialect."""
        self.started_s = time.perf_counter()
        self.total_ms = 0.0
        self.first_byte_ms: float | None = None
        self._answered: float | None = None
        self._queued_s = 0.0
        self.error: ErrorInfo | None = None
        self.request_id = request_id
        self.has_strict_body = False
        self.dialect = dialect
        self.upstream_dialect: str | None = None
        self.upstream: str | None = None
        self.model: JSON = None
        self.status: int | None = None
        self.is_stream = False
        self.usage: Usage | None = None
        self.losses: Sequence[Loss] = ()
        self.outcome = "ok"
        self.watch: Watch | None = None

    def upstream_answered(self, reply: UpstreamReply) -> None:
        """Note that the upstream's status is here, and how long the request was queued for it."""
        self._answered = time.perf_counter()
        self._queued_s = getattr(reply, "queued_s", 0.0)

    def first_byte(self) -> None:
        """Note that the caller's first body byte leaves."""
        if self.first_byte_ms is None:
            self.first_byte_ms = ms(self.started_s, time.perf_counter())

    def fail(self, error: ErrorInfo) -> None:
        """Note what went wrong."""
        self.error = error
        self.outcome = "error"

    def write(self, log: Any) -> None:
        """Write the line: an error of the upstream's or ours is a warning."""
        self.total_ms = ms(self.started_s, time.perf_counter())
        facts: dict[str, JSON] = {
            "request_id": self.request_id,
            "caller": self.dialect,
            "upstream": self.upstream,
            "speaks": self.upstream_dialect,
            "model": self.model if isinstance(self.model, str) else None,
            "stream": self.is_stream,
            "status": self.status,
            "outcome": self.outcome,
            "total_ms": self.total_ms,
        }
        if self._queued_s:
            facts["queued_ms"] = ms(0.0, self._queued_s)
        if self._answered is not None:
            facts["upstream_ms"] = ms(self.started_s, self._answered)
        if self.first_byte_ms is not None:
            facts["first_byte_ms"] = self.first_byte_ms
        if self.usage is not None:
            facts["input_tokens"] = self.usage.input
            facts["output_tokens"] = self.usage.output
        if self.losses:
            facts["losses"] = [f"{loss.param}: {loss.why}" for loss in self.losses]
        if self.error is not None:
            facts["error"] = self.error.code or self.error.type
        is_fault = self.error is not None and self.error.status >= 500
        (log.warning if is_fault else log.info)("request", **facts)


def ms(start_s: float, end_s: float) -> float:
    """The milliseconds between two times, in hundredths."""
    return int((end_s - start_s) * 100_000 + 0.5) / 100  # half the cost of round()
