"""The server process: socket, event loop, signals, and the words at its start."""

import asyncio
import gc
import math
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import structlog
import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from proxy.app import create_app
from proxy.capture.rollout import ASGIApp
from proxy.protocol import CallerProtocol
from proxy.settings import Settings
from proxy.tables import SettingsError
from proxy.upstreams import build_upstreams
from proxy.workers.link import Link
from proxy.workers.owner import Workers, listen_many

_log = structlog.get_logger("dragoman")

_COLLECT_AFTER = 20_000  # objects more than before; some hundred requests' worth

Choose = Callable[[Settings], Awaitable[tuple[Settings, str]]]
"""Completes settings that name no upstream, and says in a sentence which one is used."""


class PortTaken(Exception):
    """Nothing can listen at the address."""


def serve(settings: Settings, choose: Choose) -> int:
    """Serve until a signal ends it; returns the exit status.

    The first SIGINT or SIGTERM lets open requests end, a second one does not wait for them.

    Raises:
        PortTaken: The address is in use or not ours.
        SettingsError: A setting turns out to be wrong.
    """
    if settings.server.workers > 1 and not hasattr(socket, "SO_REUSEPORT"):
        raise SettingsError("server.workers: this system can have one worker only")
    listener = listen(settings.server.host, settings.server.port)
    run_until_complete(_serve(settings, choose, listener))
    return 0


def run_until_complete(main: Coroutine[Any, Any, None]) -> None:
    """Run on the fastest event loop there is."""
    if sys.platform == "win32":
        asyncio.run(main)
        return
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address; port 0 takes a free one.

    Raises:
        PortTaken: The address is in use or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise PortTaken(
            f"cannot listen on {host}:{port}: {error.strerror or error}; "
            "choose another one with --port or --host"
        ) from error
    return listener


async def _serve(settings: Settings, choose: Choose, listener: socket.socket) -> None:
    with listener:
        settings, sentence = await choose(settings)
        host, port = listener.getsockname()[:2]
        hello = {"url": _url(host, port), "upstream": sentence}
        if settings.server.workers == 1:
            app = create_app(settings)
            _log.info("dragoman serves", **hello)
            await _run(_Server(server_config(app, settings)), listener)
            return
        workers = Workers(settings)
        _log.info("dragoman serves", **hello, workers=settings.server.workers)
        await workers.run(listen_many(listener, settings.server.workers))


async def run_worker(
    settings: Settings, listener: socket.socket, link: Link, channel: socket.socket
) -> None:
    """Serve in this process until a signal, or until the owner is gone.

    Args:
        settings: Everything that can be set.
        listener: Where to listen.
        link: What the workers share.
        channel: The way to the owner.
    """
    app = create_app(settings, build_upstreams(settings, link))
    server = _Server(server_config(app, settings))
    await link.open(channel, server.end)
    await _run(server, listener)


async def _run(server: "_Server", listener: socket.socket) -> None:
    _calm_collector()
    await server.serve(sockets=[listener])


def _calm_collector() -> None:
    """Have the garbage collector look less often, and never at what lives as long as the process.

    Requests leave no cycles behind, as a test makes sure of, so that there is next to nothing to
    find. Saves 80 us per request, and pauses of 30 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 50, 100)


class _Server(uvicorn.Server):
    """Ends on a signal, which uvicorn itself would raise again when it has ended."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {sig: signal.signal(sig, self.handle_exit) for sig in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    def end(self) -> None:
        """Let open requests end, as at a signal."""
        self.handle_exit(signal.SIGTERM, None)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Let open requests end at the first signal, and not wait for them at the second."""
        self.force_exit = self.should_exit
        self.should_exit = True


def server_config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """How uvicorn runs the application."""
    return uvicorn.Config(
        app,
        interface="asgi3",
        http=CallerProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nobody asks for the caller's address
        headers=[("server", "dragoman")],
        timeout_keep_alive=75,
        timeout_graceful_shutdown=math.ceil(settings.server.drain_s),
        backlog=4096,
    )


def _url(host: str, port: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/v1"
