"""What a reply holds is released when it is closed, whatever kind of reply it is."""

from collections.abc import Awaitable, Callable
from contextlib import nullcontext

import httpx
import pytest

from backends.base import BackendReply, UpstreamRequest
from backends.demo import DemoReply
from backends.errors import BackendError
from backends.openai_compatible import HTTPReply
from backends.traffic import Traffic


class BrokenStream(httpx.AsyncByteStream):
    """A body whose connection cannot even be closed."""

    async def aclose(self) -> None:
        raise httpx.CloseError("gone")


async def over_http() -> BackendReply:
    return HTTPReply(httpx.Response(200, stream=BrokenStream()), "main")


async def of_the_demo() -> BackendReply:
    return DemoReply(200, {}, [])


async def counted() -> BackendReply:
    async def send(request: UpstreamRequest) -> BackendReply:
        return await over_http()

    async def explain(error: BackendError) -> BackendError:
        return error

    return await Traffic().send(send, UpstreamRequest("POST", "/x"), explain)


@pytest.mark.parametrize("make", [over_http, of_the_demo, counted])
async def test_all_is_released_once_even_if_the_connection_cannot_be_closed(
    make: Callable[[], Awaitable[BackendReply]],
) -> None:
    reply = await make()
    released = []
    reply.hold(lambda: released.append("first"), 0.5)
    reply.hold(lambda: released.append("second"), 0.25)
    has_connection = make is not of_the_demo
    for _ in range(2):
        with pytest.raises(httpx.CloseError) if has_connection else nullcontext():
            await reply.aclose()
        assert released == ["second", "first"]
    assert getattr(reply, "queued_s", None) == 0.75
