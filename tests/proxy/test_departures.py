"""A caller who goes away closes the upstream at once, and that is no error."""

import asyncio

import pytest
from structlog.typing import EventDict

from proxy.settings import Settings, Upstream
from tests.backends.processes import until
from tests.proxy.caller import Call
from tests.proxy.conftest import RunningProxy, RunProxy
from tests.proxy.dialects import chat_request
from tests.proxy.test_streams import WAYS, using, way
from tests.upstream import Reply, ScriptedUpstream, StreamReply

pytestmark = pytest.mark.server

_AT_ONCE_S = 0.2


async def closing(call: Call, upstream: ScriptedUpstream) -> float:
    """Close the call; seconds until the upstream noticed."""
    request = await upstream.request()
    left = asyncio.get_running_loop().time()
    call.close()
    latency_s = await request.closed() - left
    assert not request.finished
    return latency_s


async def ended(proxy: RunningProxy) -> None:
    """Wait until the proxy is done with all requests."""
    tasks = list(proxy.server.server_state.tasks)
    if tasks:
        await asyncio.wait(tasks, timeout=2)


@way
@pytest.mark.parametrize("stream", [True, False])
async def test_while_the_upstream_is_silent(
    way: str, stream: bool, running_proxy: RunProxy, log_lines: list[EventDict]
) -> None:
    """Nothing has come from the upstream, not even a status."""
    path, request, speaks, _ = WAYS[way]

    async def never(_: object) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    async with ScriptedUpstream(handler=never) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        async with Call(proxy.port, path, request(stream=stream)) as call:
            assert await closing(call, upstream) < _AT_ONCE_S
        await ended(proxy)
    (line,) = log_lines
    assert (line["outcome"], line["status"], line["log_level"]) == ("client_closed", None, "info")


@way
async def test_in_mid_stream(way: str, running_proxy: RunProxy, log_lines: list[EventDict]) -> None:
    path, request, speaks, stream = WAYS[way]
    first, *_ = stream(["x"])
    async with ScriptedUpstream(StreamReply([first, asyncio.Event()])) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        async with Call(proxy.port, path, request(stream=True)) as call:
            assert await call.chunk()
            assert await closing(call, upstream) < _AT_ONCE_S
        await ended(proxy)
    (line,) = log_lines
    assert (line["outcome"], line["status"], line["log_level"]) == ("client_closed", 200, "info")


@way
async def test_in_the_middle_of_a_whole_reply(way: str, running_proxy: RunProxy) -> None:
    """The upstream has begun its JSON, of which a translating proxy has sent nothing yet."""
    path, request, speaks, _ = WAYS[way]
    begun = asyncio.Event()

    async def note() -> None:
        begun.set()

    reply = StreamReply([b'{"id":', note(), asyncio.Event()], {"content-type": "application/json"})
    async with ScriptedUpstream(reply) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        async with Call(proxy.port, path, request()) as call:
            await begun.wait()
            assert await closing(call, upstream) < _AT_ONCE_S


@pytest.mark.parametrize("way", ["responses-chat", "chat-chat"])
async def test_while_it_does_not_read(way: str, running_proxy: RunProxy) -> None:
    """The proxy is stuck in writing, not in reading, when the caller goes."""
    path, request, speaks, stream = WAYS[way]
    frames = stream(["x" * 100_000] * 200)
    async with ScriptedUpstream(StreamReply(frames)) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        async with Call(proxy.port, path, request(stream=True)) as call:
            await call.head()
            before = -1
            while (now := upstream.requests[0].sent_chunks) != before:
                before = now
                await asyncio.sleep(0.15)
            assert await closing(call, upstream) < _AT_ONCE_S


async def test_while_it_uploads(running_proxy: RunProxy, log_lines: list[EventDict]) -> None:
    """Half a body reaches no upstream and is no error of anybody's."""
    async with ScriptedUpstream() as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        headers = {"content-length": "1000"}
        async with Call(proxy.port, "/v1/responses", b'{"model"', headers) as call:
            await until(lambda: bool(proxy.server.server_state.tasks))
            call.close()
            await ended(proxy)
    assert upstream.requests == []
    (line,) = log_lines
    assert (line["outcome"], line["log_level"]) == ("client_closed", "info")


async def test_while_the_upstream_is_asked_what_it_speaks(running_proxy: RunProxy) -> None:
    """The next caller asks again."""
    silent = asyncio.Event()

    async def answer(_: object) -> Reply:
        if len(upstream.requests) == 1:
            await silent.wait()
        return Reply.json({"error": {"message": "no messages"}}, 400)

    settings = Settings()
    async with ScriptedUpstream(handler=answer) as upstream:
        settings = Settings(upstreams={"default": Upstream(url=upstream.url)})
        proxy = await running_proxy(settings)
        async with Call(proxy.port, "/v1/chat/completions", chat_request()) as first:
            assert await closing(first, upstream) < _AT_ONCE_S
        async with Call(proxy.port, "/v1/chat/completions", chat_request()) as second:
            assert (await second.answer()).status == 400
    assert len(upstream.requests) == 3


async def test_many_at_once(running_proxy: RunProxy) -> None:
    """Fifty callers leave together; no request stays behind at the upstream."""
    path, request, speaks, stream = WAYS["responses-chat"]
    first, *_ = stream(["x"])

    def handler(_: object) -> StreamReply:
        return StreamReply([first, asyncio.Event()])

    async with ScriptedUpstream(handler=handler) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        calls = [Call(proxy.port, path, request(stream=True)) for _ in range(50)]
        for call in calls:
            await call.__aenter__()
            await call.chunk()
        left = asyncio.get_running_loop().time()
        for call in calls:
            call.close()
        times = [await received.closed() for received in upstream.requests]
        assert max(times) - left < _AT_ONCE_S
        for call in calls:
            await call.__aexit__(None, None, None)
