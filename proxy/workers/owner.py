"""The process that starts the workers and owns what they share.

The owner listens, chooses the upstream, spawns vLLM where one is asked for, and starts the workers,
each with a socket of its own on the same address, among which the kernel divides the connections:
evenly, which processes that accept from one socket do not. The owner keeps the sockets, so that
connections to a worker that ended wait for its successor.
"""

import asyncio
import contextlib
import math
import os
import secrets
import signal
import socket
import sys
from collections.abc import Sequence

import msgspec
import structlog

from proxy.app import create_app
from proxy.parts import OwnParts
from proxy.settings import Settings
from proxy.upstreams import build_upstreams
from proxy.workers.commons import Commons
from proxy.workers.tally import OWNER, Tallies, open_memory

_SECRET_ENV = "DRAGOMAN_SHARED_REASONING_KEY"
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_LIVED_WELL_S = 60.0
_log = structlog.get_logger("dragoman")


class Workers:
    """The worker processes, from their start to their end."""

    def __init__(self, settings: Settings) -> None:
        """Prepare what the workers share.

        Raises:
            SettingsError: A setting turns out to be wrong, which the workers need not find out.
        """
        self._settings = _with_secret(settings)
        self._file = open_memory()
        tallies = Tallies(self._file.fileno(), 1 + settings.server.workers, OWNER)
        self._parts = OwnParts(tallies.count)
        create_app(settings, build_upstreams(settings, self._parts))
        self._commons = Commons(self._parts, tallies)
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._ending = asyncio.Event()

    async def run(self, listeners: Sequence[socket.socket]) -> None:
        """Serve with a worker for each socket, until a signal.

        The first signal lets open requests end, a second one does not.
        """
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sig, self._end, listeners)
        vllms = self._parts.vllms.values()
        try:
            for vllm in vllms:
                await vllm.start()
            keepers = [self._keep(number, sock) for number, sock in enumerate(listeners)]
            await asyncio.gather(*keepers)
        finally:
            for vllm in vllms:
                await vllm.aclose()
            self._file.close()

    def _end(self, listeners: Sequence[socket.socket]) -> None:
        self._ending.set()
        for listener in listeners:
            listener.close()  # nobody would answer who comes now
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()

    async def _keep(self, number: int, listener: socket.socket) -> None:
        """Run one worker, again and again until the end; a pause grows while it fails early."""
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while not self._ending.is_set():
            started_s = loop.time()
            status: int | str
            try:
                status = await self._run_once(number, listener.fileno())
            except OSError as error:  # no process or no file to be had; perhaps later
                status = str(error)
            if self._ending.is_set():
                return
            if loop.time() - started_s > _LIVED_WELL_S:
                pause_s = _FIRST_PAUSE_S
            _log.error("worker ended", worker=number, status=status, restart_in_s=pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._ending.wait()
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _run_once(self, number: int, listener: int) -> int:
        """Start a worker on a listening socket and wait for its end; its exit status.

        Its standard input is the channel to it, which closes when either of us dies.

        Raises:
            OSError: It cannot be started.
        """
        fds = listener, self._file.fileno()
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as unused, theirs:
            unused.callback(ours.close)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "proxy.workers.worker", *map(str, (number, *fds))),
                stdin=theirs.fileno(),
                pass_fds=fds,
                start_new_session=True,  # a terminal's Ctrl-C is for the owner alone
            )
            unused.pop_all()
        self._processes[number] = process
        attendant = await self._commons.attend(number, ours, self._settings)
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
            attendant.close()
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


def _with_secret(settings: Settings) -> Settings:
    """Settings by which any worker opens the reasoning that another one sealed."""
    if settings.server.reasoning_key_env is not None:
        return settings
    os.environ.setdefault(_SECRET_ENV, secrets.token_urlsafe(32))
    server = msgspec.structs.replace(settings.server, reasoning_key_env=_SECRET_ENV)
    return msgspec.structs.replace(settings, server=server)
