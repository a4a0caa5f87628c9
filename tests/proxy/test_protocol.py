"""What is written to a caller's connection, and when."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from proxy.protocol import CallerProtocol

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


class Wire(asyncio.Transport):
    """A caller's connection as the event loop has it; notes what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: Any) -> None:
        assert not self.is_closed
        self.writes.append(bytes(data))

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed


async def ask(app: Any, request: bytes = GET, *, turns: int = 10) -> Wire:
    """What an application's reply to a request is on the wire, after some turns of the loop."""
    config = uvicorn.Config(app, interface="asgi3", http=CallerProtocol, log_config=None)
    config.load()
    wire = Wire()
    protocol = CallerProtocol(config, ServerState(), {})
    protocol.connection_made(wire)
    protocol.data_received(request)
    for _ in range(turns):
        await asyncio.sleep(0)
    protocol.connection_lost(None)
    return wire


def start(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": 200, "headers": headers}


def piece(body: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


@pytest.mark.parametrize("size", [1, 1_000_000])
async def test_a_whole_reply_is_one_write(size: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start((b"content-length", b"%d" % size)))
        await send(piece(b"x" * size, more=False))

    (written,) = (await ask(app)).writes
    head, _, body = written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == b"x" * size


async def test_a_head_does_not_wait_for_a_body_that_takes_its_time() -> None:
    begun = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await begun.wait()

    (written,) = (await ask(app)).writes
    assert written.endswith(b"transfer-encoding: chunked\r\n\r\n")


async def test_pieces_are_written_at_once() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(piece(b"HTTP/1.1 one", more=True))
        await send(piece(b"two", more=True))
        await send(piece(b"", more=False))

    first, *others = (await ask(app)).writes
    assert first.endswith(b"\r\n\r\nc\r\nHTTP/1.1 one\r\n")
    assert others == [b"3\r\ntwo\r\n", b"0\r\n\r\n"]


async def test_a_body_that_looks_like_a_head_is_not_lost() -> None:
    body = b"HTTP/1.1 200 OK"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start((b"content-length", b"%d" % len(body))))
        await asyncio.sleep(0)
        await send(piece(body, more=False))

    written = (await ask(app)).writes
    assert written[1:] == [body]


async def test_a_head_is_written_before_the_connection_is_closed() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start((b"content-length", b"0"), (b"connection", b"close")))
        await send(piece(b"", more=False))

    wire = await ask(app)
    assert wire.is_closed
    assert b"".join(wire.writes).endswith(b"connection: close\r\n\r\n")


async def test_a_reply_that_is_broken_off_is_closed_after_its_head() -> None:
    """What uvicorn does where an application raises an exception."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        raise ZeroDivisionError

    wire = await ask(app)
    assert wire.is_closed
    assert len(wire.writes) == 1
