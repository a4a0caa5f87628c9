"""The end of a translated stream: what waits for whom, and for how long."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy import replies
from proxy.replies import translate_stream
from tests.proxy.dialects import chat_stream, responses_request
from translators.translation import Translation

LIMIT_S = 0.01


@pytest.fixture(autouse=True)
def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "_DRAIN_LIMIT_S", LIMIT_S)


class Stream:
    """An upstream's stream of one piece, which ends when it may."""

    status = 200

    def __init__(self) -> None:
        self.headers = {"content-type": "text/event-stream"}
        self.may_end = asyncio.Event()
        self.has_ended = False

    async def chunks(self) -> AsyncIterator[bytes]:
        yield b"".join(chat_stream(["Hi"]))
        await self.may_end.wait()
        self.has_ended = True

    async def aclose(self) -> None:
        raise AssertionError


async def test_a_slow_caller_gets_the_end() -> None:
    """However long it takes: only the upstream's end is not waited for."""
    taken: list[bytes] = []

    async def write(piece: bytes) -> None:
        await asyncio.sleep(10 * LIMIT_S)
        taken.append(piece)

    translation = Translation.between("responses", "chat")
    translation.request(responses_request(stream=True))
    await translate_stream(Stream(), translation, translation.stream(), write)
    assert b"response.completed" in b"".join(taken)


@pytest.mark.parametrize("lingers", [False, True])
async def test_the_upstreams_end_is_waited_for_a_moment(lingers: bool) -> None:
    """Then its connection can be kept."""
    upstream = Stream()
    if not lingers:
        asyncio.get_running_loop().call_soon(upstream.may_end.set)
    translation = Translation.between("responses", "chat")
    translation.request(responses_request(stream=True))
    async with asyncio.timeout(5):
        await translate_stream(upstream, translation, translation.stream(), lambda piece: None)
    assert upstream.has_ended is not lingers
