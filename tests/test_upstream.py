"""The scripted upstream itself: what it sends, records and notices."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from backends.demo import DemoBackend
from tests.upstream import (
    Abort,
    Answer,
    ReceivedRequest,
    Reply,
    ScriptedUpstream,
    StreamReply,
    serve_backend,
)

pytestmark = pytest.mark.server


async def test_records_requests_and_answers_in_turn() -> None:
    """The script's replies come in order, over one connection, and requests are kept whole."""
    script = [Reply.json({"n": 1}), Reply.json({"n": 2}, status=429, headers={"retry-after": "7"})]
    async with ScriptedUpstream(*script) as upstream, httpx.AsyncClient() as client:
        first = await client.post(f"{upstream.url}/chat/completions?x=1", json={"model": "ä"})
        second = await client.get(f"{upstream.url}/models", headers=[("x-a", "1"), ("X-A", "2")])
        third = await client.get(f"{upstream.url}/models")

    assert (first.status_code, first.json()) == (200, {"n": 1})
    assert (
        second.status_code,
        second.headers["retry-after"],
        second.json(),
    ) == (429, "7", {"n": 2})
    assert third.status_code == 500
    assert [request.method for request in upstream.requests] == ["POST", "GET", "GET"]
    assert upstream.requests[0].path == "/v1/chat/completions?x=1"
    assert upstream.requests[0].json == {"model": "ä"}
    assert upstream.requests[1].headers["x-a"] == "1, 2"
    assert [request.connection for request in upstream.requests] == [0, 0, 0]
    assert all(request.finished for request in upstream.requests)


async def test_reads_a_chunked_request_body() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    async with ScriptedUpstream(Reply()) as upstream, httpx.AsyncClient() as client:
        await client.post(upstream.url, content=body())
    assert upstream.requests[0].body == b"one two"


async def test_holds_back_a_chunk() -> None:
    """The second chunk is sent only after the caller has seen the first."""
    seen = asyncio.Event()
    reply = StreamReply([b"first", seen, 0.01, b"", b"second"])
    async with (
        ScriptedUpstream(reply) as upstream,
        httpx.AsyncClient() as client,
        client.stream("GET", upstream.url) as response,
    ):
        chunks = response.aiter_raw()
        assert await anext(chunks) == b"first"
        assert upstream.requests[0].sent_chunks == 1
        seen.set()
        assert await anext(chunks) == b"second"
        assert [chunk async for chunk in chunks] == []
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert upstream.requests[0].finished


async def test_notices_when_the_caller_leaves_a_stream() -> None:
    """A reply that waits for ever is cancelled as soon as the caller closes the connection."""
    reply = StreamReply([b"first", asyncio.Event(), b"never"])
    async with ScriptedUpstream(reply) as upstream, httpx.AsyncClient() as client:
        async with client.stream("GET", upstream.url) as response:
            await anext(response.aiter_raw())
            left = asyncio.get_running_loop().time()
        closed = await upstream.requests[0].closed(1)
    assert closed - left < 0.5
    assert not upstream.requests[0].finished
    assert upstream.requests[0].sent_chunks == 1


async def test_notices_when_the_caller_leaves_before_the_reply() -> None:
    """A handler that still thinks is cancelled."""
    cancelled = asyncio.Event()

    async def think(_: ReceivedRequest) -> Reply:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with ScriptedUpstream(handler=think) as upstream, httpx.AsyncClient() as client:
        call = asyncio.create_task(client.get(upstream.url))
        request = await upstream.request()
        with pytest.raises(TimeoutError):
            await request.closed(0.01)
        call.cancel()
        await request.closed(1)
        await asyncio.wait_for(cancelled.wait(), 1)


async def test_cancels_a_stream_whose_reader_does_not_read() -> None:
    """Back-pressure reaches the script, and the context's end does not wait for the peer."""
    reply = StreamReply([bytes(100_000)] * 1000)
    async with ScriptedUpstream(reply) as upstream:
        _, writer = await asyncio.open_connection("127.0.0.1", upstream.port, limit=1000)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        request = await upstream.request()
        await asyncio.sleep(0.1)
        assert request.sent_chunks < 1000
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@pytest.mark.parametrize("reset", [False, True])
async def test_drops_the_connection(reset: bool) -> None:
    """Instead of a reply, or before the final chunk, what was sent before still arriving."""
    script: list[Answer] = [Abort(reset), StreamReply([b"first", 0.02, Abort(reset), b"never"])]
    async with ScriptedUpstream(*script) as upstream, httpx.AsyncClient() as client:
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await client.get(upstream.url)
        async with client.stream("GET", upstream.url) as response:
            chunks = response.aiter_raw()
            assert await anext(chunks) == b"first"
            with pytest.raises(httpx.ReadError if reset else httpx.RemoteProtocolError):
                await anext(chunks)
    assert [request.finished for request in upstream.requests] == [False, False]


async def test_a_failing_handler_fails_the_test() -> None:
    def fail(_: ReceivedRequest) -> Reply:
        raise LookupError("no such case")

    with pytest.raises(LookupError, match="no such case"):
        async with ScriptedUpstream(handler=fail) as upstream, httpx.AsyncClient() as client:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(upstream.url)


async def test_serves_a_backend() -> None:
    """Status, headers and body of any backend reach the network; its streams are not held up."""
    handler = serve_backend(DemoBackend(pause_s=0.05))
    async with ScriptedUpstream(handler=handler) as upstream, httpx.AsyncClient() as client:
        health = await client.get(f"{upstream.url}/health")
        unknown = await client.get(f"{upstream.url}/nothing")
        request = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        started = time.monotonic()
        async with client.stream(
            "POST", f"{upstream.url}/chat/completions", json=request
        ) as response:
            await anext(response.aiter_raw())
            first_after_s = time.monotonic() - started
        await upstream.requests[-1].closed(1)
    assert (health.status_code, health.content) == (200, b"")
    assert (unknown.status_code, unknown.json()) == (404, {"detail": "Not Found"})
    assert first_after_s < 0.5
    assert not upstream.requests[-1].finished
