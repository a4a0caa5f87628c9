"""One request of a rollout and its reply, kept as they go by."""

import time
from collections.abc import AsyncIterator, Iterable, Mapping

from msgspec import UNSET

from backends.base import UpstreamReply, UpstreamRequest
from proxy.capture.budget import Budget
from proxy.ids import random_hex
from proxy.record import Record
from translators.wire import JSON

_PIECE_BYTES = 96
"""What a piece takes besides its bytes: streams may come in very small ones."""


class Body:
    """A body in pieces, each as it came; ``times_s`` is when, on the record's clock."""

    __slots__ = ("encoding", "pieces", "times_s", "type")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.times_s: list[float] = []
        self.type = ""
        self.encoding = ""


class Call:
    """What is kept of a request and its reply: references to what passes, nothing else.

    Attributes:
        record: What the log tells of the request; read when the call is written.
        has_ended: Whether the reply came to its end.
        has_failed: Whether the application raised an exception.
        is_dropped: Whether there was no room for it; then no body is left.
        reply_status: The member ``status`` of a whole reply that was made here, and so is strict
            JSON on one line; ``UNSET`` of any other.
    """

    __slots__ = (
        *("_budget", "ended_s", "has_ended", "has_failed", "id", "is_dropped", "record", "reply"),
        *("reply_status", "request", "rollout", "size_bytes", "started_unix_s", "upstream"),
    )

    def __init__(self, rollout: str, record: Record, budget: Budget) -> None:
        """Begin a call; the budget is charged for what it keeps, until ``size_bytes`` is freed."""
        self.id = random_hex()
        self.rollout = rollout
        self.record = record
        self.started_unix_s = time.time()
        self.ended_s = 0.0
        self.has_ended = self.has_failed = self.is_dropped = False
        self.request = Body()
        self.reply = Body()
        self.reply_status: JSON = UNSET
        self.upstream: Upstream | None = None
        self.size_bytes = 0
        self._budget = budget

    def keep_request(self, pieces: Iterable[bytes], encoding: str) -> None:
        """Keep what came of the request's body."""
        self.request.encoding = encoding
        for piece in pieces:
            self.keep(self.request, piece)

    def begin_reply(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Note what the reply's headers say of its body."""
        for name, value in headers:
            if name == b"content-type":
                self.reply.type = value.decode("latin-1")
            elif name == b"content-encoding":
                self.reply.encoding = value.decode("latin-1")

    def keep_document(self, document: JSON, body: bytes) -> None:
        """Keep a whole reply that was made here, which ends with it."""
        self.keep(self.reply, body)
        self.reply_status = document.get("status") if isinstance(document, dict) else None
        self.has_ended = True

    def watch(self, request: UpstreamRequest, reply: UpstreamReply) -> UpstreamReply:
        """Keep what went to the upstream, and what it says; see ``Record.watch``."""
        if self.is_dropped:
            return reply
        self.upstream = watched = Upstream(self, reply)
        self.keep(watched.request, request.body)
        return watched

    def keep(self, body: Body, piece: bytes) -> None:
        """Keep a piece; if there is no room for it, keep nothing at all any more."""
        if self.is_dropped or not piece:
            return
        size_bytes = len(piece) + _PIECE_BYTES
        if not self._budget.take(size_bytes):
            self.drop()
            return
        self.size_bytes += size_bytes
        body.pieces.append(piece)
        body.times_s.append(time.perf_counter())

    def drop(self) -> None:
        """Forget the bodies, and give their room back."""
        self.is_dropped = True
        self.request, self.reply, self.upstream = Body(), Body(), None
        self._budget.give_back(self.size_bytes)
        self.size_bytes = 0

    def end(self) -> None:
        """Note the end, and let go of the upstream: until it is written, little stays of a call."""
        self.ended_s = time.perf_counter()
        self.record.watch = None
        if self.upstream is not None:
            self.upstream.end()


class Upstream:
    """An upstream's reply, kept as it is read."""

    def __init__(self, call: Call, reply: UpstreamReply) -> None:
        self.request = Body()
        self.reply = Body()
        self.reply.type = reply.headers.get("content-type", "")
        self.reply.encoding = reply.headers.get("content-encoding", "")
        self.status = reply.status
        self._call = call
        self._reply = reply

    @property
    def headers(self) -> Mapping[str, str]:
        """Reply headers."""
        return self._reply.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives."""
        async for chunk in self._reply.chunks():
            self._call.keep(self.reply, chunk)
            yield chunk

    async def aclose(self) -> None:
        """Release the connection."""
        await self._reply.aclose()

    def end(self) -> None:
        """Let go of the reply."""
        del self._call, self._reply
