"""One request of a rollout and its reply, kept as they go by."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from backends.base import UpstreamReply, UpstreamRequest
from proxy.capture.budget import Budget
from proxy.ids import random_hex
from proxy.record import Record

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_PIECE_BYTES = 96
"""What a piece takes besides its bytes: streams may come in very small ones."""


class Body:
    """A body in pieces, each as it came; ``times_s`` is when, on the monotonic clock."""

    __slots__ = ("encoding", "pieces", "times_s", "type")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.times_s: list[float] = []
        self.type = ""
        self.encoding = ""


class Call:
    """Stands between the server and the application, changes nothing, and keeps both bodies.

    Attributes:
        status: The reply's status, once it is there.
        has_ended: Whether the reply came to its end.
        is_gone: Whether the caller went away before.
        has_failed: Whether the application raised an exception.
        is_dropped: Whether there was no room for it; then no body is left.
    """

    def __init__(
        self, rollout: str, dialect: str, scope: Any, receive: Receive, send: Send, budget: Budget
    ) -> None:
        """Begin a call; the budget is charged for what it keeps, until ``size_bytes`` is freed."""
        self.id = random_hex()
        self.rollout = rollout
        self.dialect = dialect
        self.started_unix_s = time.time()
        self.started_s = time.perf_counter()
        self.ended_s = 0.0
        self.status: int | None = None
        self.has_ended = self.is_gone = self.has_failed = self.is_dropped = False
        self.request = Body()
        self.reply = Body()
        self.upstream: Upstream | None = None
        self.upstream_name: str | None = None
        self.upstream_dialect: str | None = None
        self.request_id: str | None = None
        self.error_code: str | None = None
        self.size_bytes = 0
        self._record: Record | None = None
        self._receive = receive
        self._send = send
        self._budget = budget
        for name, value in scope["headers"]:
            if name == b"content-encoding":
                self.request.encoding = value.decode("latin-1")

    async def receive(self) -> Any:
        """The server's next message."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.is_gone = not self.has_ended
        elif piece := message.get("body"):
            self.keep(self.request, piece)
        return message

    def send(self, message: Any) -> Awaitable[None]:
        """Pass a message of the application on.

        No coroutine around the server's: saves 2 us per message.
        """
        if message["type"] == "http.response.body":
            if piece := message.get("body"):
                self.keep(self.reply, piece)
            self.has_ended = not message.get("more_body")
        elif message["type"] == "http.response.start":
            self.status = message["status"]
            for name, value in message.get("headers", ()):
                if name == b"content-type":
                    self.reply.type = value.decode("latin-1")
                elif name == b"content-encoding":
                    self.reply.encoding = value.decode("latin-1")
        return self._send(message)

    def follow(self, record: Record) -> None:
        """Learn from the request's record where it went."""
        self._record = record

    def follow_upstream(self, record: Record) -> None:
        """The same, and keep what goes to the upstream and what it says."""
        self._record = record
        record.watch = self._watch

    def keep(self, body: Body, piece: bytes) -> None:
        """Keep a piece; if there is no room for it, keep nothing at all any more."""
        if self.is_dropped:
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
        """Note the end, and let go of the request: until a call is written, little stays of it."""
        self.ended_s = time.perf_counter()
        if self._record is not None:
            self.request_id = self._record.request_id
            self.upstream_name = self._record.upstream
            self.upstream_dialect = self._record.upstream_dialect
            self.error_code = None if self._record.error is None else self._record.error.code
            self._record.watch = None
            self._record = None
        if self.upstream is not None:
            self.upstream.end()
        del self._receive, self._send

    def _watch(self, request: UpstreamRequest, reply: UpstreamReply) -> UpstreamReply:
        if self.is_dropped:
            return reply
        self.upstream = watched = Upstream(self, reply)
        self.keep(watched.request, request.body)
        return watched


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
