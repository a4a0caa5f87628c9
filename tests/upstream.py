"""A real HTTP/1.1 server that does what a test tells it, byte by byte.

    async with ScriptedUpstream(Reply.json({"id": "x"})) as upstream:
        await client.post(f"{upstream.url}/chat/completions", json={"model": "m"})
    assert upstream.requests[0].json == {"model": "m"}

It runs in the test's own event loop, on a free port of the loopback interface.
"""

import asyncio
import contextlib
import http
import socket
import struct
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
)
from types import TracebackType
from typing import Any, Self, TypeAlias

import msgspec

from backends.base import Backend, UpstreamReply, UpstreamRequest

JSON: TypeAlias = Any
Headers: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]


class Abort(msgspec.Struct, frozen=True):
    """Drop the connection here.

    Instead of a reply, or among the chunks of one, which then lacks its end. What was sent before
    still arrives; with ``reset`` the peer may see a connection reset instead.
    """

    reset: bool = False


class Reply(msgspec.Struct, frozen=True):
    """A whole reply; ``content-length`` is added if ``headers`` does not have it."""

    status: int = 200
    headers: Headers = ()
    body: bytes = b""

    @classmethod
    def json(cls, document: JSON, status: int = 200, headers: Headers = ()) -> Self:
        """A reply whose body is a JSON document."""
        named = [("content-type", "application/json"), *_pairs(headers)]
        return cls(status, named, msgspec.json.encode(document))


Piece: TypeAlias = bytes | float | asyncio.Event | Awaitable[object] | Abort
"""Bytes to send, seconds to sleep, something to wait for, or the end of the connection."""


class StreamReply(msgspec.Struct, frozen=True):
    """A reply in chunked transfer encoding, each of its byte strings one chunk, flushed at once.

    The final chunk follows by itself. The content type is that of server-sent events unless
    ``headers`` says otherwise.
    """

    chunks: Iterable[Piece] | AsyncIterable[Piece]
    headers: Headers = ()
    status: int = 200

    @classmethod
    def sse(cls, *documents: JSON, done: bool = True) -> Self:
        """A stream of JSON events in the manner of Chat Completions."""
        events = [b"data: " + msgspec.json.encode(document) + b"\n\n" for document in documents]
        return cls([*events, b"data: [DONE]\n\n"] if done else events)


Answer: TypeAlias = Reply | StreamReply | Abort


class ReceivedRequest:
    """A request as it came in, and what became of its reply.

    Attributes:
        method: In upper case.
        path: The request target, a query string included.
        headers: With lower-case names; repeated ones joined by a comma.
        body: Without transfer encoding; a content encoding is left as it is.
        connection: Number of the connection, from 0; the same for requests that share one.
        arrived_s: Time of the event loop when the request was complete.
        closed_s: The same when the peer closed the connection, ``None`` before.
        sent_chunks: Byte strings of a stream that were handed to the socket.
        finished: Whether the whole reply was handed to the socket.
    """

    def __init__(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, connection: int
    ) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.body = body
        self.connection = connection
        self.arrived_s = asyncio.get_running_loop().time()
        self.closed_s: float | None = None
        self.sent_chunks = 0
        self.finished = False
        self._closed = asyncio.Event()

    @property
    def json(self) -> JSON:
        """The decoded body."""
        return msgspec.json.decode(self.body)

    async def closed(self, timeout_s: float = 5) -> float:
        """Wait until the peer closes the connection; the time of the event loop when it did.

        Whether it did so before the reply's end is what ``finished`` says.

        Raises:
            TimeoutError: It stays open.
        """
        async with asyncio.timeout(timeout_s):
            await self._closed.wait()
        assert self.closed_s is not None
        return self.closed_s

    def note_close(self) -> None:
        """Called by the server when the peer is gone."""
        if self.closed_s is None:
            self.closed_s = asyncio.get_running_loop().time()
            self._closed.set()

    def __repr__(self) -> str:
        return f"<{self.method} {self.path}, {len(self.body)} bytes>"


Handler: TypeAlias = Callable[[ReceivedRequest], Answer | Awaitable[Answer]]


class ScriptedUpstream:
    """An upstream that gives the replies of its script in turn, then those of its handler.

    Used as an async context manager. A request for which there is neither gets status 500. When
    the peer closes the connection, a reply under way is cancelled. An exception in a handler
    drops the connection and is raised, or noted on what the test raised, at the context's end.

    Attributes:
        requests: All requests, in the order of arrival.
    """

    def __init__(self, *script: Answer, handler: Handler | None = None) -> None:
        self.requests: list[ReceivedRequest] = []
        self._script = list(script)
        self._handler = handler
        self._arrival = asyncio.Condition()
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._connection_count = 0
        self._errors: list[Exception] = []
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._server is not None, "use it as an async context manager"
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """The API root, with ``/v1``."""
        return f"http://127.0.0.1:{self.port}/v1"

    def queue(self, *answers: Answer) -> None:
        """Add to the script."""
        self._script.extend(answers)

    async def request(self, index: int = 0, timeout_s: float = 5) -> ReceivedRequest:
        """Wait for a request, the first by default.

        Raises:
            TimeoutError: It does not come.
        """
        async with asyncio.timeout(timeout_s), self._arrival:
            await self._arrival.wait_for(lambda: len(self.requests) > index)
        return self.requests[index]

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connect, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()
        for error in self._errors:
            if exc is None:
                raise error
            exc.add_note(f"the scripted upstream failed too: {error!r}")

    def _connect(self) -> asyncio.Protocol:
        reader = asyncio.StreamReader()
        protocol = _WatchedProtocol(reader, self._accept)
        protocol.peer_gone = asyncio.Event()
        return protocol

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer, self._connection_count))
        self._connection_count += 1
        self._connections[task] = writer
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._connections[task]
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._errors.append(error)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        """Requests of one connection, one after the other, until either side closes it."""
        protocol = writer.transport.get_protocol()
        assert isinstance(protocol, _WatchedProtocol)
        try:
            while (request := await _read_request(reader, writer, number)) is not None:
                protocol.requests.append(request)
                async with self._arrival:
                    self.requests.append(request)
                    self._arrival.notify_all()
                exchange = asyncio.create_task(self._answer(request, writer))
                gone = asyncio.create_task(protocol.peer_gone.wait())
                try:
                    await asyncio.wait({exchange, gone}, return_when=asyncio.FIRST_COMPLETED)
                    if protocol.peer_gone.is_set():
                        writer.transport.abort()  # there is nobody to flush for
                finally:
                    gone.cancel()
                    exchange.cancel()  # without effect if it is done
                    with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                        await exchange
                if not request.finished or request.headers.get("connection") == "close":
                    return
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        """Send the reply; sets ``finished`` unless it was cut off."""
        match answer := await self._choose(request):
            case Reply(status=status, headers=headers, body=body):
                named = _with_default(headers, "content-length", str(len(body)))
                writer.write(_head(status, named) + body)
                await writer.drain()
                request.finished = True
            case StreamReply():
                request.finished = await _send_stream(answer, request, writer)
            case Abort():
                _abort(answer, writer)

    async def _choose(self, request: ReceivedRequest) -> Answer:
        if self._script:
            return self._script.pop(0)
        if self._handler is None:
            return Reply(500, body=b"the script has no reply for this request")
        answer = self._handler(request)
        return await answer if isinstance(answer, Awaitable) else answer


class _WatchedProtocol(asyncio.StreamReaderProtocol):
    """Notices at once that the peer closed, also while nobody reads."""

    peer_gone: asyncio.Event

    def __init__(
        self,
        reader: asyncio.StreamReader,
        connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None],
    ) -> None:
        super().__init__(reader, connected)
        self.requests: list[ReceivedRequest] = []

    def eof_received(self) -> bool | None:
        self._note()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._note()
        super().connection_lost(exc)

    def _note(self) -> None:
        self.peer_gone.set()
        for request in self.requests:
            request.note_close()


async def _read_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
) -> ReceivedRequest | None:
    """The next request of a connection, or ``None`` at its end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        method, path, _ = first.split(" ")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            key, value = name.lower(), value.strip()
            headers[key] = f"{headers[key]}, {value}" if key in headers else value
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = b"".join([chunk async for chunk in _read_chunks(reader)])
        else:
            body = await reader.readexactly(int(headers.get("content-length", 0)))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return ReceivedRequest(method, path, headers, body, connection)


async def _read_chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        yield (await reader.readexactly(size + 2))[:size]
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # a trailer


async def _send_stream(
    reply: StreamReply, request: ReceivedRequest, writer: asyncio.StreamWriter
) -> bool:
    """Send a stream; whether it went to its end."""
    headers = _with_default(reply.headers, "content-type", "text/event-stream; charset=utf-8")
    writer.write(_head(reply.status, [*headers, ("transfer-encoding", "chunked")]))
    await writer.drain()
    async with contextlib.aclosing(_iterate(reply.chunks)) as pieces:
        async for piece in pieces:
            match piece:
                case bytes():
                    if piece:  # an empty chunk would be the last one
                        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                        await writer.drain()
                    request.sent_chunks += 1
                case Abort():
                    _abort(piece, writer)
                    return False
                case int() | float():
                    await asyncio.sleep(piece)
                case asyncio.Event():
                    await piece.wait()
                case _:
                    await piece
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


async def _iterate(
    chunks: Iterable[Piece] | AsyncIterable[Piece],
) -> AsyncGenerator[Piece, None]:
    if isinstance(chunks, Iterable):
        for chunk in chunks:
            yield chunk
        return
    iterator = aiter(chunks)
    try:
        async for chunk in iterator:
            yield chunk
    finally:
        if (aclose := getattr(iterator, "aclose", None)) is not None:
            await aclose()


def _abort(abort: Abort, writer: asyncio.StreamWriter) -> None:
    if abort.reset:
        # Lingering for no time makes the kernel send RST instead of FIN.
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
    else:
        writer.close()


def _head(status: int, headers: Headers) -> bytes:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [
        f"HTTP/1.1 {status} {phrase}",
        *(f"{name}: {value}" for name, value in _pairs(headers)),
    ]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")


def _pairs(headers: Headers) -> list[tuple[str, str]]:
    return list(headers.items()) if isinstance(headers, Mapping) else list(headers)


def _with_default(headers: Headers, name: str, value: str) -> list[tuple[str, str]]:
    pairs = _pairs(headers)
    return pairs if name in {key.lower() for key, _ in pairs} else [*pairs, (name, value)]


def serve_backend(backend: Backend, root: str = "/v1") -> Handler:
    """A handler that makes a real network upstream of a backend.

    ``root`` is taken off the path, where it is there.
    """

    async def answer(request: ReceivedRequest) -> Answer:
        sent = UpstreamRequest(
            request.method,
            request.path.removeprefix(root),
            list(request.headers.items()),
            request.body,
        )
        reply = await backend.send(sent)
        framing = ("content-length", "transfer-encoding", "connection")
        headers = [pair for pair in reply.headers.items() if pair[0] not in framing]
        body = _owned(reply)
        if "content-length" in reply.headers:
            return Reply(reply.status, headers, b"".join([chunk async for chunk in body]))
        return StreamReply(body, headers, reply.status)

    return answer


async def _owned(reply: UpstreamReply) -> AsyncIterator[bytes]:
    try:
        async for chunk in reply.chunks():
            yield chunk
    finally:
        await reply.aclose()
