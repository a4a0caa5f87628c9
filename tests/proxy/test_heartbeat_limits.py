"""Signs of life do no harm: to what comes after them, to a caller that is busy, to a relay."""

import asyncio

import pytest

from proxy.settings import Server, Settings, Upstream
from tests.proxy.caller import Answer, Call
from tests.proxy.conftest import RunProxy
from tests.proxy.dialects import CHAT, chat_stream, texts_of
from tests.proxy.test_streams import WAYS, translated
from tests.upstream import Abort, Piece, ScriptedUpstream, StreamReply

pytestmark = pytest.mark.server


def beating(upstream: ScriptedUpstream, speaks: str, interval_s: float) -> Settings:
    return Settings(
        server=Server(heartbeat_s=interval_s),
        upstreams={"default": Upstream(url=upstream.url, speaks=speaks)},
    )


async def hear(
    way: str, running_proxy: RunProxy, before: list[Piece], after: list[Piece]
) -> Answer:
    """A stream whose upstream pauses until signs of life have come; it without comments."""
    path, request, speaks, _ = WAYS[way]
    heard = asyncio.Event()
    async with ScriptedUpstream(StreamReply([*before, heard, *after])) as upstream:
        proxy = await running_proxy(beating(upstream, speaks, 0.02))
        async with Call(proxy.port, path, request(stream=True)) as call:
            chunks = [await call.chunk() for _ in range(4)]
            heard.set()
            chunks += [chunk async for chunk in call.chunks()]
    kept = [chunk for chunk in chunks if not chunk.startswith(b":")]
    assert way == "responses-chat" or len(kept) < len(chunks)
    return Answer(call.status, call.headers, kept)


@translated
@pytest.mark.parametrize("cut", [0, 1, 4])
async def test_stream_goes_on_after_a_pause(way: str, cut: int, running_proxy: RunProxy) -> None:
    frames: list[Piece] = list(WAYS[way][3](["one ", "two "]))
    answer = await hear(way, running_proxy, frames[:cut], frames[cut:])
    assert texts_of(answer.frames) == ["one ", "two "]
    if way == "responses-chat":
        numbers = [event["sequence_number"] for event in answer.events]
        assert numbers == list(range(len(numbers)))
        assert answer.events[-1]["type"] == "response.completed"


@translated
async def test_upstream_that_breaks_off_in_a_pause(way: str, running_proxy: RunProxy) -> None:
    answer = await hear(way, running_proxy, [], [Abort()])
    assert answer.status == 200
    if way == "responses-chat":
        assert [event["type"] for event in answer.events[-2:]] == ["error", "response.failed"]
    else:
        assert answer.frames[-1]["error"]["code"] == "upstream_stream_truncated"


async def test_caller_that_leaves_in_a_pause_closes_the_upstream(running_proxy: RunProxy) -> None:
    path, request, speaks, _ = WAYS["responses-chat"]
    async with ScriptedUpstream(StreamReply([asyncio.Event()])) as upstream:
        proxy = await running_proxy(beating(upstream, speaks, 0.02))
        async with Call(proxy.port, path, request(stream=True)) as call:
            await call.chunk()
            call.close()
            await upstream.requests[0].closed(0.2)


async def test_caller_that_does_not_read_gets_no_pile(running_proxy: RunProxy) -> None:
    """Signs of life are no news to somebody who has yet to read what came before."""
    path, request, speaks, stream = WAYS["responses-chat"]
    block = "x" * 100_000
    async with ScriptedUpstream(StreamReply(stream([block] * 120))) as upstream:
        proxy = await running_proxy(beating(upstream, speaks, 0.01))
        async with Call(proxy.port, path, request(stream=True)) as call:
            await call.head()
            before = -1
            while (now := upstream.requests[0].sent_chunks) != before:
                before = now
                await asyncio.sleep(0.15)
            assert len(asyncio.all_tasks()) < 15
            answer = Answer(call.status, call.headers, [chunk async for chunk in call.chunks()])
    assert texts_of(answer.frames) == [block] * 120
    assert answer.events[-1]["type"] == "response.completed"


async def test_relayed_streams_are_left_alone(running_proxy: RunProxy) -> None:
    frames = chat_stream(["x"])
    async with ScriptedUpstream(StreamReply([frames[0], 0.1, *frames[1:]])) as upstream:
        proxy = await running_proxy(beating(upstream, "chat", 0.01))
        async with Call(proxy.port, CHAT, WAYS["chat-chat"][1](stream=True)) as call:
            answer = await call.answer()
    assert answer.body == b"".join(frames)
