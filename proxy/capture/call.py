"""One request of a rollout and its reply, kept as they go by."""

import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence

import msgspec

from backends.base import Take, UpstreamReply, UpstreamRequest, pour
from proxy.capture.budget import Budget
from proxy.headers import Headers
from proxy.record import Record
from translators.wire import JSON

_PIECE_BYTES = 96
"""What a piece takes besides its bytes: streams may come in very small ones."""


class Body(msgspec.Struct, gc=False):
    """A body in pieces, each as it came.

    ``times_s`` is when, on the record's clock.
    """

    pieces: list[bytes] = []
    times_s: list[float] = []
    encoding: str = ""


class Call(msgspec.Struct):
    """What is kept of a request and its reply: references to what passes, nothing else.

    Attributes:
        rollout: The rollout it belongs to.
        record: What the log tells of the request; read when the call is written.
        budget: Is charged for what is kept, until ``size_bytes`` is freed.
        started_unix_s: When it began.
        has_ended: Whether the reply came to its end.
        has_failed: Whether the application raised an exception.
        is_dropped: Whether there was no room for it; then no body is left.
        request: The caller's request, in pieces.
        request_encoding: Its content encoding.
        document: What the caller got, if it is a whole reply that was made here, and so is strict
            JSON on one line.
        document_status: Its member ``status``.
        reply: What the caller got else; its type and encoding are in ``reply_headers``.
        reply_headers: The reply's headers.
        upstream: The upstream's side, if it is to be kept.
        size_bytes: What the bodies take.
    """

    rollout: str
    record: Record
    budget: Budget
    started_unix_s: float
    has_ended: bool = False
    has_failed: bool = False
    is_dropped: bool = False
    request: Sequence[bytes] = ()
    request_encoding: str = ""
    document: bytes | None = None
    document_status: JSON = None
    reply: Body | None = None
    reply_headers: Headers = []
    upstream: "Upstream | None" = None
    size_bytes: int = 0

    def keep_request(self, pieces: list[bytes], encoding: str) -> None:
        """Keep what came of the request's body; the list is the call's from now on."""
        self.request = pieces
        self.request_encoding = encoding
        self._charge(sum(map(len, pieces)) + _PIECE_BYTES * len(pieces))

    def keep_document(self, document: Mapping[str, JSON], body: bytes) -> None:
        """Keep a whole reply that was made here, which ends with it."""
        self.document = body
        self.document_status = document.get("status")
        self.has_ended = True
        self._charge(len(body) + _PIECE_BYTES)

    def begin_reply(self, headers: Headers) -> None:
        """Prepare to keep any other reply, piece by piece."""
        if not self.is_dropped:
            self.reply = Body()
            self.reply_headers = headers

    def keep(self, body: Body | None, piece: bytes) -> None:
        """Keep a piece of a body, of which there is none once the call was dropped."""
        if piece and body is not None and not self.is_dropped:
            body.pieces.append(piece)
            body.times_s.append(time.perf_counter())
            self._charge(len(piece) + _PIECE_BYTES)

    def watch(self, request: UpstreamRequest, reply: UpstreamReply) -> UpstreamReply:
        """Keep what went to the upstream, and what it says; see ``Record.watch``."""
        if self.is_dropped:
            return reply
        self.upstream = watched = Upstream(self, reply)
        self.keep(watched.request, request.body)
        return watched

    def drop(self) -> None:
        """Forget the bodies, and give their room back."""
        self.is_dropped = True
        self.request, self.document, self.reply, self.upstream = (), None, None, None
        self.budget.taken_bytes -= self.size_bytes
        self.size_bytes = 0

    def end(self) -> None:
        """Let go of what no line tells of: little should stay of a call until it is written.

        Memory that is held is not the next request's, which then finds none that is cached: calls
        that are held for 0.2 s at 4000 per second cost the event loop 6 us each.
        """
        record = self.record
        record.model = record.usage = record.watch = None
        record.losses = ()
        if self.upstream is not None:
            self.upstream.end()

    def _charge(self, size_bytes: int) -> None:
        """Pay for what was just kept; if there is no room for it, nothing at all is kept."""
        budget = self.budget
        self.size_bytes += size_bytes
        budget.taken_bytes += size_bytes
        if self.is_dropped or budget.taken_bytes - budget.freed_bytes > budget.limit_bytes:
            self.drop()


class Upstream:
    """An upstream's reply, kept as it is read."""

    def __init__(self, call: Call, reply: UpstreamReply) -> None:
        self.request = Body()
        self.reply = Body(encoding=reply.headers.get("content-encoding", ""))
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

    async def pour(self, take: Take) -> None:
        """Give the body to ``take``; see ``backends.base.pour``."""

        def keep(piece: bytes) -> Awaitable[None] | None:
            self._call.keep(self.reply, piece)
            return take(piece)

        await pour(self._reply, keep)

    async def aclose(self) -> None:
        """Release the connection."""
        await self._reply.aclose()

    def end(self) -> None:
        """Let go of the reply."""
        del self._call, self._reply
