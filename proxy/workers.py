"""Several worker processes on one port, and the process that owns what they share.

The owner listens, chooses the upstream, spawns vLLM where one is asked for, and starts the workers,
each with a socket of its own on the same address, among which the kernel divides the connections.
The owner keeps the sockets, so that connections to a worker that ended wait for its successor.
"""

import asyncio
import contextlib
import math
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence

import msgspec
import structlog

from backends.vllm_command import free_port
from proxy.settings import VLLM, Settings, Upstream, speaks_of
from proxy.tables import SettingsError
from proxy.upstreams import build_upstream

_SECRET_ENV = "DRAGOMAN_SHARED_REASONING_KEY"
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_LIVED_WELL_S = 60.0
_log = structlog.get_logger("dragoman")


class Workers:
    """The worker processes, from their start to their end."""

    def __init__(self, settings: Settings, listeners: Sequence[socket.socket]) -> None:
        """Make as many workers as there are sockets; ``settings`` name the upstreams."""
        self._owned, self._settings = share(settings)
        self._listeners = listeners
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._ending = asyncio.Event()

    async def run(self) -> None:
        """Serve until a signal; the first lets open requests end, a second one does not."""
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sig, self._end)
        backends = [build_upstream(name, u).backend for name, u in self._owned.items()]
        try:
            for backend in backends:
                await backend.start()
            keepers = [self._keep(number) for number in range(len(self._listeners))]
            await asyncio.gather(*keepers)
        finally:
            for backend in backends:
                await backend.aclose()

    def _end(self) -> None:
        self._ending.set()
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()

    async def _keep(self, number: int) -> None:
        """Run one worker, again and again until the end; a pause grows while it fails early."""
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while not self._ending.is_set():
            started_s = loop.time()
            status = await self._run_once(number)
            if self._ending.is_set():
                return
            if loop.time() - started_s > _LIVED_WELL_S:
                pause_s = _FIRST_PAUSE_S
            _log.error("worker ended", worker=number, status=status, restart_in_s=pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._ending.wait()
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _run_once(self, number: int) -> int:
        """Start a worker and wait for its end; its exit status.

        Its standard input has the settings, keys included, and closes when the owner dies.
        """
        fd = self._listeners[number].fileno()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "proxy.worker", str(fd), str(number)),
            stdin=subprocess.PIPE,
            pass_fds=[fd],
            start_new_session=True,  # a terminal's Ctrl-C is for the owner alone
        )
        assert process.stdin is not None
        self._processes[number] = process
        with contextlib.suppress(ConnectionError):
            process.stdin.write(msgspec.json.encode(self._settings) + b"\n")
            await process.stdin.drain()
        if self._ending.is_set():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        ended = asyncio.create_task(process.wait())
        ending = asyncio.create_task(self._ending.wait())
        await asyncio.wait([ended, ending], return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        patience_s = math.ceil(self._settings.server.drain_s) + 5.0
        try:
            async with asyncio.timeout(patience_s if self._ending.is_set() else None):
                return await ended
        except TimeoutError:
            process.kill()
            return await process.wait()
        finally:
            del self._processes[number]


def listen_many(first: socket.socket, count: int) -> list[socket.socket]:
    """Sockets on the address of ``first``, which is closed: nobody else listens there."""
    address = first.getsockname()
    first.close()
    sockets = []
    for _ in range(count):
        listener = socket.socket(first.family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        sockets.append(listener)
    return sockets


def share(settings: Settings) -> tuple[dict[str, Upstream], Settings]:
    """The upstreams that the owner spawns, and the settings of workers that use them by URL.

    Reasoning is sealed with one secret, so that any worker opens what another one sealed.

    Raises:
        SettingsError: A vLLM's port or key is given, which have to be known here.
    """
    owned: dict[str, Upstream] = {}
    upstreams = dict(settings.upstreams)
    for name, upstream in settings.upstreams.items():
        vllm = upstream.vllm
        if vllm is None:
            continue
        _check(name, vllm)
        key, port = secrets.token_urlsafe(32), free_port()
        args = [*vllm.args, "--port", str(port)]
        vllm = msgspec.structs.replace(vllm, args=args, env={**vllm.env, "VLLM_API_KEY": key})
        owned[name] = msgspec.structs.replace(upstream, vllm=vllm)
        upstreams[name] = msgspec.structs.replace(
            upstream,
            vllm=None,
            url=f"http://127.0.0.1:{port}/v1",
            key=key,
            speaks=speaks_of(upstream),
        )
    server = settings.server
    if server.reasoning_key_env is None:
        os.environ.setdefault(_SECRET_ENV, secrets.token_urlsafe(32))
        server = msgspec.structs.replace(server, reasoning_key_env=_SECRET_ENV)
    return owned, msgspec.structs.replace(settings, upstreams=upstreams, server=server)


def _check(name: str, vllm: VLLM) -> None:
    named = {arg.partition("=")[0] for arg in vllm.args if arg.startswith("--")}
    named |= {f"--{flag.replace('_', '-')}" for flag in vllm.flags}
    for flag in ("--port", "--api-key"):
        if flag in named:
            raise SettingsError(
                f"upstreams.{name}.vllm: with several workers, {flag} is chosen for them all; "
                "leave it out"
            )
