"""The server process: socket, event loop, signals, and the words at its start."""

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable

import structlog
import uvicorn

from proxy.app import create_app
from proxy.settings import Settings, SettingsError

_log = structlog.get_logger("dragoman")

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
    listener = listen(settings.server.host, settings.server.port)
    if sys.platform == "win32":
        asyncio.run(_serve(settings, choose, listener))
        return 0
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, choose, listener))
    return 0


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
    settings, sentence = await choose(settings)
    try:
        app = create_app(settings)
    except SettingsError:
        listener.close()
        raise
    host, port = listener.getsockname()[:2]
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        headers=[("server", "dragoman")],
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(settings.server.drain_s),
        backlog=4096,
    )
    _log.info("dragoman serves", url=_url(host, port), upstream=sentence)
    server = uvicorn.Server(config)
    await server.serve(sockets=[listener])


def _url(host: str, port: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/v1"
