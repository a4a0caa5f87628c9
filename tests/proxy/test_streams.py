"""Streams through the proxy: nothing lost, nothing late, nothing held back."""

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from proxy.settings import Settings, Upstream
from tests.proxy.caller import Call, ask, read_frames
from tests.proxy.conftest import RunProxy
from tests.proxy.dialects import (
    CHAT,
    RESPONSES,
    chat_chunk,
    chat_request,
    chat_stream,
    responses_request,
    responses_stream,
    streaming,
    texts_of,
)
from tests.upstream import Piece, ReceivedRequest, ScriptedUpstream, StreamReply

pytestmark = pytest.mark.server

_STREAMS = 64
_CHUNKS = 200

WAYS = {
    "responses-chat": (RESPONSES, responses_request, "chat", chat_stream),
    "chat-responses": (CHAT, chat_request, "responses", responses_stream),
    "chat-chat": (CHAT, chat_request, "chat", chat_stream),
    "responses-responses": (RESPONSES, responses_request, "responses", responses_stream),
}
"""Caller-upstream -> the caller's path and request, what the upstream speaks, its frames."""

way = pytest.mark.parametrize("way", WAYS)
translated = pytest.mark.parametrize("way", ["responses-chat", "chat-responses"])


def using(upstream: ScriptedUpstream, speaks: str) -> Settings:
    return Settings(upstreams={"default": Upstream(url=upstream.url, speaks=speaks)})


@way
async def test_parallel_streams_lose_reorder_and_mix_nothing(
    way: str, running_proxy: RunProxy
) -> None:
    """64 streams of 200 chunks, whose upstream takes turns between all of them."""
    path, request, speaks, stream = WAYS[way]

    def words(name: str) -> list[str]:
        return [f"{name}.{n} " for n in range(_CHUNKS)]

    async def one_by_one(frames: list[bytes]) -> AsyncIterator[Piece]:
        for frame in frames:
            yield frame
            yield 0  # lets the other streams go on

    def handler(received: ReceivedRequest) -> StreamReply:
        found = re.search(rb"s\d+", received.body)
        assert found is not None
        return StreamReply(one_by_one(stream(words(found[0].decode()))))

    async with ScriptedUpstream(handler=handler) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        names = [f"s{n}" for n in range(_STREAMS)]
        answers = await asyncio.gather(
            *(ask(proxy.port, path, request(name, stream=True)) for name in names)
        )
    for name, answer in zip(names, answers, strict=True):
        assert (answer.status, answer.is_whole) == (200, True)
        assert texts_of(answer.frames) == words(name)
        if path == RESPONSES:
            numbers = [frame["sequence_number"] for frame in answer.events]
            assert numbers == list(range(len(numbers)))
            last = answer.events[-1]
            assert last["type"] == "response.completed"
            assert last["response"]["output"][0]["content"][0]["text"] == "".join(words(name))
        else:
            assert answer.frames[-1] == "[DONE]"


@way
async def test_first_chunk_arrives_before_the_upstream_sends_its_second(
    way: str, running_proxy: RunProxy
) -> None:
    path, request, speaks, stream = WAYS[way]
    may_go_on = asyncio.Event()
    first, *others = stream(["one", "two"])
    reply = StreamReply([first, may_go_on, *others])
    async with ScriptedUpstream(reply) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        async with Call(proxy.port, path, request(stream=True)) as call:
            assert await call.chunk()
            assert upstream.requests[0].sent_chunks == 1
            may_go_on.set()
            rest = b"".join([chunk async for chunk in call.chunks()])
    assert b"two" in rest


@way
async def test_each_chunk_arrives_before_the_upstream_sends_the_next(
    way: str, running_proxy: RunProxy
) -> None:
    """Nothing is held back in mid-stream either: the upstream goes on only after the caller."""
    path, request, speaks, stream = WAYS[way]
    words = ["one ", "two ", "three "]
    seen = [asyncio.Event() for _ in words]

    async def in_step() -> AsyncIterator[Piece]:
        for frame in stream(words):
            yield frame
            for word, event in zip(words, seen, strict=True):
                if f'"{word}"'.encode() in frame and b"delta" in frame:
                    yield event

    async with ScriptedUpstream(StreamReply(in_step())) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        async with Call(proxy.port, path, request(stream=True)) as call:
            body = b""
            async for chunk in call.chunks():
                body += chunk
                for word, event in zip(words, seen, strict=True):
                    if f'"{word}"'.encode() in body:
                        event.set()
    assert texts_of(read_frames(body)) == words


@way
async def test_frames_of_one_read_leave_in_one_write(way: str, running_proxy: RunProxy) -> None:
    """Ten frames that come in one piece leave in one HTTP chunk."""
    path, request, speaks, stream = WAYS[way]
    seen = asyncio.Event()
    words = [f"w{n} " for n in range(10)]
    frames = stream(words)
    middle = [frame for frame in frames if b"delta" in frame and b'"w' in frame]
    at = frames.index(middle[0])
    reply = StreamReply(
        [*frames[:at], seen, b"".join(middle), seen_twice := asyncio.Event(), *frames[at + 10 :]]
    )
    async with ScriptedUpstream(reply) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        async with Call(proxy.port, path, request(stream=True)) as call:
            assert await call.chunk()
            while upstream.requests[0].sent_chunks < at:
                await call.chunk()
            seen.set()
            while b"w0" not in (chunk := await call.chunk()):
                pass
            seen_twice.set()
            assert texts_of(read_frames(chunk)) == words
            assert [rest async for rest in call.chunks()]


@translated
async def test_frames_cut_anywhere_give_the_same_stream(way: str, running_proxy: RunProxy) -> None:
    """Multi-byte characters and frame ends may fall between reads."""
    path, request, speaks, stream = WAYS[way]
    words = ["Grüße ", "日本語 ", "🦜 ", "a\u2028b\u0085c"]
    whole = b"".join(stream(words))
    pieces = [whole[at : at + 7] for at in range(0, len(whole), 7)]
    async with ScriptedUpstream(streaming(*pieces)) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        answer = await ask(proxy.port, path, request(stream=True))
    assert texts_of(answer.frames) == words


@translated
async def test_headers_of_a_translated_stream_keep_middleboxes_from_holding_it_back(
    way: str, running_proxy: RunProxy
) -> None:
    path, request, speaks, stream = WAYS[way]
    async with ScriptedUpstream(streaming(*stream(["x"]))) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        answer = await ask(proxy.port, path, request(stream=True))
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in answer.headers
    assert upstream.requests[0].headers["accept-encoding"] == "identity"
    assert upstream.requests[0].headers["accept"] == "text/event-stream"


async def test_comments_of_the_upstream_do_not_reach_the_caller(running_proxy: RunProxy) -> None:
    frames = chat_stream(["x"])
    frames.insert(1, b": PROCESSING\n\n")
    async with ScriptedUpstream(streaming(*frames)) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        answer = await ask(proxy.port, RESPONSES, responses_request(stream=True))
    assert b"PROCESSING" not in answer.body
    assert answer.events[-1]["type"] == "response.completed"


@pytest.mark.parametrize("ending", ["finish", "done", "both", "after"])
async def test_one_of_both_signals_ends_a_chat_stream(ending: str, running_proxy: RunProxy) -> None:
    """``finish_reason`` or ``[DONE]`` suffices, and what follows the end is not read."""
    frames = [chat_chunk("Hi", role="assistant")]
    if ending != "done":
        frames.append(chat_chunk(finish="stop"))
    if ending != "finish":
        frames.append(b"data: [DONE]\n\n")
    if ending == "after":
        frames.append(b"data: {{{ no JSON\n\n")
    async with ScriptedUpstream(streaming(*frames)) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        answer = await ask(proxy.port, RESPONSES, responses_request(stream=True))
    assert answer.is_whole
    assert answer.events[-1]["type"] == "response.completed"


@way
async def test_connection_to_the_upstream_is_used_again(way: str, running_proxy: RunProxy) -> None:
    """A stream read to its end gives its connection back."""
    path, request, speaks, stream = WAYS[way]

    def handler(_: ReceivedRequest) -> StreamReply:
        return streaming(*stream(["x"]))

    async with ScriptedUpstream(handler=handler) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        for _ in range(3):
            answer = await ask(proxy.port, path, request(stream=True))
            assert answer.is_whole
    assert [received.connection for received in upstream.requests] == [0, 0, 0]


@way
async def test_connection_is_used_again_though_its_end_comes_late(
    way: str, running_proxy: RunProxy
) -> None:
    """Servers send the last frame and the end of the body in two writes."""
    path, request, speaks, stream = WAYS[way]
    seen: list[asyncio.Event] = []

    def handler(_: ReceivedRequest) -> StreamReply:
        seen.append(asyncio.Event())
        return StreamReply([*stream(["x"]), seen[-1]])

    async with ScriptedUpstream(handler=handler) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        for _ in range(3):
            async with Call(proxy.port, path, request(stream=True)) as call:
                body = b""
                while b"[DONE]" not in body and b'"response.completed"' not in body:
                    body += await call.chunk()
                seen[-1].set()
                assert await call.chunk() == b""
    assert [received.connection for received in upstream.requests] == [0, 0, 0]


@pytest.mark.parametrize("way", ["responses-chat", "chat-chat"])
async def test_caller_that_does_not_read_stops_the_upstream(
    way: str, running_proxy: RunProxy
) -> None:
    """What is under way is bounded by the buffers of sockets, not by the length of the stream."""
    path, request, speaks, stream = WAYS[way]
    block = "x" * 100_000
    frames = stream([block] * 160)  # 16 MB
    most = 140

    async with ScriptedUpstream(StreamReply(frames)) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        async with Call(proxy.port, path, request(stream=True)) as call:
            await call.head()
            before = -1
            while (now := upstream.requests[0].sent_chunks) != before:
                before = now
                await asyncio.sleep(0.15)  # that nothing happens takes time to see
            assert before < most
            received = b"".join([chunk async for chunk in call.chunks()])
    assert texts_of(read_frames(received)) == [block] * 160
