"""A caller on a bare socket: what it sends and what it reads is exact, HTTP chunks included."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import Self

import msgspec

from translators.wire import JSON

Pairs = Iterable[tuple[str, str]]


class BrokenOff(Exception):
    """The connection ended before the reply did."""


class Answer(msgspec.Struct):
    """A reply that was read to its end.

    ``chunks`` are the HTTP chunks, or the one body; ``is_whole`` says whether the reply ended as
    HTTP wants it.
    """

    status: int
    headers: dict[str, str]
    chunks: list[bytes]
    is_whole: bool = True

    @property
    def body(self) -> bytes:
        """All of the body."""
        return b"".join(self.chunks)

    @property
    def json(self) -> JSON:
        """The decoded body."""
        return msgspec.json.decode(self.body)

    @property
    def error(self) -> JSON:
        """The members of the error envelope."""
        assert self.headers["content-type"] == "application/json"
        document = self.json
        assert list(document) == ["error"]
        assert set(document["error"]) == {"message", "type", "param", "code"}
        return document["error"]

    @property
    def frames(self) -> list[JSON]:
        """Data of the stream's frames; ``[DONE]`` is a string."""
        return read_frames(self.body)

    @property
    def events(self) -> list[JSON]:
        """The frames without the ``[DONE]`` at their end."""
        frames = self.frames
        return frames[:-1] if frames[-1] == "[DONE]" else frames


def read_frames(body: bytes) -> list[JSON]:
    """Data of server-sent events as we write them: decoded JSON, or the string ``[DONE]``."""
    *frames, rest = body.split(b"\n\n")
    assert rest == b"", "a stream ends with a blank line"
    found: list[JSON] = []
    for frame in frames:
        *names, data = frame.split(b"\n")
        assert data.startswith(b"data: ")
        value = data.removeprefix(b"data: ")
        document: JSON = "[DONE]" if value == b"[DONE]" else msgspec.json.decode(value)
        if names:
            assert names == [b"event: " + document["type"].encode()]
        found.append(document)
    return found


class Call:
    """One request on a connection of its own, and its reply piece by piece.

    Used as an async context manager, which closes the connection at its end.
    """

    def __init__(
        self,
        port: int,
        path: str,
        body: JSON = None,
        headers: Pairs | Mapping[str, str] = (),
        *,
        method: str = "POST",
    ) -> None:
        """Prepare a request; a body that is not bytes is encoded as JSON."""
        self._port = port
        pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        data = b""
        if method == "POST" or body is not None:
            data = body if isinstance(body, bytes) else msgspec.json.encode(body)
            if not any(name.lower() == "content-length" for name, _ in pairs):
                pairs.append(("content-length", str(len(data))))
        lines = [f"{method} {path} HTTP/1.1", "host: proxy", *(f"{n}: {v}" for n, v in pairs)]
        self._sent = "\r\n".join([*lines, "", ""]).encode("latin-1") + data
        self._method = method
        self.status = 0
        self.headers: dict[str, str] = {}
        self._left = 0
        self._is_chunked = False

    async def __aenter__(self) -> Self:
        # A small limit, so that a caller who does not read soon stops the sender.
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self._port, limit=2**16
        )
        self.writer.write(self._sent)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    def close(self) -> None:
        """Go away, whatever is still to come."""
        self.writer.transport.abort()

    async def head(self) -> int:
        """Read status and headers; the status."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1])
        for line in lines[1:-2]:
            name, _, value = line.partition(": ")
            assert name not in self.headers, f"{name} comes twice"
            self.headers[name] = value
        self._is_chunked = self.headers.get("transfer-encoding") == "chunked"
        self._left = 0 if self._method == "HEAD" else int(self.headers.get("content-length", 0))
        return self.status

    async def chunk(self) -> bytes:
        """The next HTTP chunk, empty at the end.

        Raises:
            BrokenOff: The reply ends before its end.
        """
        if not self.status:
            await self.head()
        try:
            if not self._is_chunked:
                body, self._left = await self.reader.readexactly(self._left), 0
                return body
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            return (await self.reader.readexactly(size + 2))[:size]
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise BrokenOff from error

    async def chunks(self) -> AsyncIterator[bytes]:
        """All chunks that are left."""
        while chunk := await self.chunk():
            yield chunk

    async def answer(self) -> Answer:
        """Read to the end, clean or not."""
        await self.head()
        answer = Answer(self.status, self.headers, [])
        if self._method == "HEAD":
            return answer
        try:
            async for chunk in self.chunks():
                answer.chunks.append(chunk)
        except BrokenOff:
            answer.is_whole = False
        return answer


async def ask(
    port: int,
    path: str,
    body: JSON = None,
    headers: Pairs | Mapping[str, str] = (),
    *,
    method: str = "POST",
) -> Answer:
    """Send one request and read its whole reply."""
    async with Call(port, path, body, headers, method=method) as call:
        return await call.answer()
