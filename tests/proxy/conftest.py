"""A proxy as it runs, on a free port in the test's own event loop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
import structlog
import uvicorn
from structlog.typing import EventDict

from proxy.app import create_app
from proxy.routing import Upstream
from proxy.serve import listen, server_config
from proxy.settings import Settings

_PATIENCE_S = 5.0


@dataclass(frozen=True)
class RunningProxy:
    """Where the proxy listens, and its server."""

    port: int
    server: uvicorn.Server


RunProxy = Callable[..., Awaitable[RunningProxy]]
"""Starts a proxy with these settings, and with these upstreams instead of theirs if given."""


@pytest.fixture
async def running_proxy() -> AsyncIterator[RunProxy]:
    """Proxies that run until the test's end, when no request may be left in them."""
    async with AsyncExitStack() as stack:

        async def run(settings: Settings, upstreams: list[Upstream] | None = None) -> RunningProxy:
            return await stack.enter_async_context(running(settings, upstreams))

        yield run


@asynccontextmanager
async def running(
    settings: Settings, upstreams: list[Upstream] | None
) -> AsyncIterator[RunningProxy]:
    """What ``uvicorn.Server.serve`` does, but for signals and the pauses of its main loop."""
    listener = listen("127.0.0.1", 0)
    config = server_config(create_app(settings, upstreams), settings)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listener])
    await server.on_tick(0)
    try:
        yield RunningProxy(listener.getsockname()[1], server)
    finally:
        for listening in server.servers:
            listening.close()
        for connection in list(server.server_state.connections):
            connection.shutdown()
        tasks = list(server.server_state.tasks)
        _, stuck = await asyncio.wait(tasks, timeout=_PATIENCE_S) if tasks else ((), ())
        for task in stuck:
            task.cancel()
        await server.lifespan.shutdown()
        assert not stuck, "requests are still under way although nobody waits for them"


@pytest.fixture
def log_lines() -> Iterator[list[EventDict]]:
    """What is logged during the test."""
    with structlog.testing.capture_logs() as lines:
        yield lines
