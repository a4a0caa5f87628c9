"""The caller's side of an exchange: status, headers and body over ASGI."""

import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

from proxy.capture.call import Call
from proxy.eager import run_eagerly
from proxy.headers import JSON_TYPE, Headers
from proxy.record import Record
from translators.errors import ErrorInfo, Loss
from translators.wire import JSON, encode

Send = Callable[[Any], Coroutine[Any, Any, None]]

_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_LONGEST_HEADER = 4000


class Answer:
    """One reply to a caller; what leaves is noted in the request's record, and in its capture.

    Attributes:
        has_started: Whether status and headers are out.
        is_whole: Whether it went out in one piece.
        cookie: A header to send besides.
    """

    def __init__(self, send: Send, record: Record, call: Call | None = None) -> None:
        """Answer through an ASGI ``send``; ``call`` is the request's capture, if it has one."""
        self._send = send
        self._record = record
        self._call = call
        self.has_started = False
        self.is_whole = False
        self.cookie: tuple[bytes, bytes] | None = None

    async def start(self, status: int, headers: Headers) -> None:
        """Send status and headers; the reply carries the request's id."""
        self.has_started = True
        self._record.status = status
        if b"x-request-id" not in [name for name, _ in headers]:
            headers = [*headers, (b"x-request-id", self._record.request_id.encode("latin-1"))]
        if self.cookie is not None:
            headers = [*headers, self.cookie]
        if self._call is not None and not self.is_whole:
            self._call.begin_reply(headers)
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, body: bytes) -> None:
        """Send a piece of the body."""
        if (rest := self.push(body)) is not None:
            await rest

    def push(self, body: bytes) -> Awaitable[None] | None:
        """Send a piece of the body; what to wait for before the next one, if for anything."""
        self._record.first_byte()
        if self._call is not None:
            self._call.keep(self._call.reply, body)
        message = {"type": "http.response.body", "body": body, "more_body": True}
        return run_eagerly(self._send(message))

    async def end(self) -> None:
        """Say that the body is whole."""
        if self._call is not None:
            self._call.has_ended = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def whole(self, status: int, document: Mapping[str, JSON], headers: Headers) -> Awaitable[None]:
        """Send a JSON document as the whole reply."""
        body = encode(document)
        if self._call is not None:
            self._call.keep_document(document, body)
        return self._send_whole(status, body, [*JSON_TYPE, *headers])

    def whole_body(self, status: int, body: bytes, headers: Headers) -> Awaitable[None]:
        """Send the whole body of a reply; ``headers`` say what it is."""
        if self._call is not None:
            self._call.begin_reply(headers)
            self._call.keep(self._call.reply, body)
            self._call.has_ended = True
        return self._send_whole(status, body, headers)

    async def _send_whole(self, status: int, body: bytes, headers: Headers) -> None:
        self.is_whole = True
        await self.start(status, [*headers, (b"content-length", str(len(body)).encode())])
        self._record.first_byte()
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def refuse(
        self, error: ErrorInfo, document: Mapping[str, JSON], headers: Headers | None = None
    ) -> None:
        """Send an error, of which ``document`` tells in the caller's dialect.

        Once a reply has begun this is too late. Then it is left unfinished, and the server
        breaks the connection off: the caller must not take it for whole.
        """
        self._record.fail(error)
        if self.has_started:
            return
        headers = [*(headers or ()), *loss_header(self._record.losses)]
        if error.retry_after_s is not None:
            headers.append((b"retry-after", str(error.retry_after_s).encode()))
        await self.whole(error.status, document, headers)


def loss_header(losses: Sequence[Loss]) -> Headers:
    """The header that tells of losses, if there are any."""
    if not losses:
        return []
    text = "; ".join(f"{loss.param}: {loss.why}" for loss in losses)
    printable = _UNPRINTABLE.sub("?", text)[:_LONGEST_HEADER]
    return [(b"x-dragoman-loss", printable.encode("ascii"))]
