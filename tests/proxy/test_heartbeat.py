"""Signs of life while an upstream is silent."""

import asyncio

import msgspec
import pytest

from proxy.settings import Server, Settings, Upstream
from tests.proxy.caller import Call
from tests.proxy.conftest import RunProxy
from tests.proxy.dialects import (
    CHAT,
    DONE,
    RESPONSES,
    chat_request,
    chat_stream,
    responses_request,
    responses_stream,
)
from tests.upstream import ScriptedUpstream, StreamReply


def settings(url: str, speaks: str, heartbeat_s: float) -> Settings:
    return Settings(
        server=Server(heartbeat_s=heartbeat_s),
        upstreams={"default": Upstream(url=url, speaks=speaks)},
    )


async def test_silence_before_the_first_chunk(running_proxy: RunProxy) -> None:
    """A Responses caller gets the beginning of its response, then events that it counts."""
    go = asyncio.Event()
    async with ScriptedUpstream(StreamReply([go, *chat_stream(["Hi"])])) as upstream:
        proxy = await running_proxy(settings(upstream.url, "chat", 0.05))
        async with Call(proxy.port, RESPONSES, responses_request(stream=True)) as call:
            seen = b""
            while seen.count(b"event: response.in_progress") < 3:
                seen += await call.chunk()
            go.set()
            async for chunk in call.chunks():
                seen += chunk
    frames = [part for part in seen.split(b"\n\n") if part]
    names = [part.split(b"\n")[0].removeprefix(b"event: response.") for part in frames[:-1]]
    assert names.count(b"created") == 1
    assert (names[0], names[-1]) == (b"created", b"completed")
    events = [msgspec.json.decode(part.split(b"data: ", 1)[1]) for part in frames[:-1]]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    ids = {event["response"]["id"] for event in events if "response" in event}
    assert len(ids) == 1


async def test_chat_callers_get_comments(running_proxy: RunProxy) -> None:
    go = asyncio.Event()
    async with ScriptedUpstream(StreamReply([go, *responses_stream(["Hi"])])) as upstream:
        proxy = await running_proxy(settings(upstream.url, "responses", 0.05))
        async with Call(proxy.port, CHAT, chat_request(stream=True)) as call:
            assert await call.chunk() == b": alive\n\n"
            go.set()
            rest = b"".join([chunk async for chunk in call.chunks()])
    assert rest.endswith(DONE)


@pytest.mark.parametrize("heartbeat_s", [0, 30])
async def test_no_beat_is_sent_without_need(running_proxy: RunProxy, heartbeat_s: float) -> None:
    reply = StreamReply([0.1, *chat_stream(["Hi"])])
    async with ScriptedUpstream(reply) as upstream:
        proxy = await running_proxy(settings(upstream.url, "chat", heartbeat_s))
        async with Call(proxy.port, RESPONSES, responses_request(stream=True)) as call:
            answer = await call.answer()
    assert answer.body.count(b"event: response.in_progress") == 1


async def test_failure_after_a_beat_is_told_in_the_stream(running_proxy: RunProxy) -> None:
    go = asyncio.Event()
    error = b'data: {"error": {"message": "out of memory", "code": 500}}\n\n'
    async with ScriptedUpstream(StreamReply([go, error])) as upstream:
        proxy = await running_proxy(settings(upstream.url, "chat", 0.05))
        async with Call(proxy.port, RESPONSES, responses_request(stream=True)) as call:
            seen = await call.chunk()
            go.set()
            async for chunk in call.chunks():
                seen += chunk
    assert call.status == 200
    assert b"event: response.failed" in seen
    assert b"out of memory" in seen
