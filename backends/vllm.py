"""A vLLM that we start ourselves and restart: the way to it, and what callers are told.

Requests go to one ``VllmServer`` after another. What vLLM serves, its parsers and its limits are
the user's arguments; we add only what is needed to reach it.
"""

import asyncio
import contextlib
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, assert_never

import structlog

from backends.errors import BackendError, BackendExited, BackendUnavailable
from backends.guardian import DEFAULT_GRACE_S
from backends.leftovers import remembering
from backends.process import State
from backends.spawn import Spawn, spawn_guarded
from backends.spawned import SpawnedVllm
from backends.supervision import Supervision
from backends.vllm_command import (
    Flag,
    check_arguments,
    find_launcher,
    flag_arguments,
    free_port,
    plan_launch,
    printable,
)
from backends.vllm_life import Progress, VllmLife
from backends.vllm_server import Connect, VllmServer

RETRY_AFTER_S: Final = 5

_SHOWN_LINES: Final = 10
_EXIT_NOTICE_S: Final = 0.5
_KEPT_SERVERS: Final = 2  # the one at work, and the one before, of which callers may still ask

_log = structlog.get_logger("dragoman")


class VllmBackend(SpawnedVllm[VllmServer]):
    """Starts vLLM for one model, talks to it, and restarts it.

    Args:
        name: The upstream's name in settings, logs and errors.
        model: What vLLM calls the model: a folder or a repository.
        connect: Makes the inner backend. It is called twice for a start, with
            ``http://host:port/v1`` for requests and ``http://host:port`` for ``/health``.
        python: Interpreter of the environment that has vLLM; looked for if absent.
        flags: vLLM's flags by name, such as ``tensor_parallel_size``; they win over ours.
        args: More arguments for vLLM; they win over the flags.
        env: More environment variables; they win over ours.
        log_file: Where vLLM's whole output is appended; nowhere if absent.
        supervision: When it counts as unhealthy, and how it is restarted.
        leftovers: Folder of files by which a later run finds what we leave behind; none if absent.
        stall_s: The start failed if vLLM logs nothing for so long.
        poll_s: Pause between two questions whether it is ready.
        grace_s: Time to end by itself when it is stopped.
        clock: Seconds, for progress, the stall timer, and how long it was ready.
        spawn: Starts the command.
        choose_port: Gives a port that is probably free.

    Raises:
        ValueError: ``flags`` or ``args`` are wrong, or vLLM could not be reached under them.
    """

    def __init__(
        self,
        *,
        name: str,
        model: str,
        connect: Connect,
        python: str | None = None,
        flags: Mapping[str, Flag] | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        log_file: Path | None = None,
        supervision: Supervision | None = None,
        leftovers: Path | None = None,
        stall_s: float = 600.0,
        poll_s: float = 0.5,
        grace_s: float = DEFAULT_GRACE_S,
        clock: Callable[[], float] = time.monotonic,
        spawn: Spawn = spawn_guarded,
        choose_port: Callable[[], int] = free_port,
    ) -> None:
        self._args = (*flag_arguments(flags or {}), *args)
        check_arguments(self._args)
        rules = supervision or Supervision()
        self._name = name
        self._model = model
        self._connect = connect
        self._python = python
        self._env = dict(env or {})
        self._log_file = log_file
        self._rules = rules
        self._stall_s = stall_s
        self._poll_s = poll_s
        self._grace_s = grace_s
        self._clock = clock
        self._spawn = spawn if leftovers is None else remembering(spawn, leftovers)
        self._choose_port = choose_port

        self._life = VllmLife(
            name=name,
            launch=self._launch,
            rules=rules,
            leftovers=leftovers,
            grace_s=grace_s,
            on_turn=self._tell,
            clock=clock,
        )
        self._servers: deque[VllmServer] = deque(maxlen=_KEPT_SERVERS)
        self._launches = itertools.count(1)
        self._listener: Callable[[], None] | None = None

    @property
    def name(self) -> str:
        """The upstream's name in settings, logs and errors."""
        return self._name

    @property
    def state(self) -> State:
        """Where in its life vLLM is."""
        return self._life.state

    @property
    def progress(self) -> Progress:
        """How far the start is."""
        return self._life.progress

    @property
    def served_model(self) -> str | None:
        """The first model that vLLM lists; None before it is ready."""
        server = self._life.server
        return server.served[0] if server is not None and server.served else None

    @property
    def version(self) -> str | None:
        """What vLLM calls its version; None before it is ready."""
        return None if self._life.server is None else self._life.server.version

    @property
    def reason(self) -> str:
        """Why it is not running, in one sentence; empty if nothing is wrong."""
        return self._life.reason

    @property
    def server(self) -> VllmServer | None:
        """The server, while it is ready."""
        return self._life.server if self.state is State.READY else None

    def launched(self, number: int) -> VllmServer:
        """The server of this launch, or the earliest that is remembered; there has to be one."""
        servers = (server for server in self._servers if server.number == number)
        return next(servers, self._servers[0])

    def listen(self, listener: Callable[[], None]) -> None:
        """Have somebody told when state, model or version may be others; it must not raise."""
        self._listener = listener

    async def start(self) -> None:
        """Begin to start vLLM; returns at once."""
        self._life.begin()

    async def ready(self) -> VllmServer:
        """The server, after a wait for its restart if it must be and may be waited for.

        Raises:
            BackendError: It is not ready.
        """
        if self._rules.wait_s > 0 and self._life.comes_back:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._rules.wait_s):
                    await self._life.wait_back()
        server = self.server
        if server is None:
            raise self._not_ready()
        return server

    async def after(self, server: VllmServer, error: BackendError) -> VllmServer:
        """The server that follows one which refuses connections, as one about to end does.

        Raises:
            BackendError: It is not waited for, or not ready in time.
        """
        if not self._rules.restart or self._rules.wait_s <= 0:
            raise await self.why_broken(server, error) from error
        await server.process.wait_ended(self._rules.wait_s)
        return await self.ready()

    async def why_broken(self, server: VllmServer, error: BackendError) -> BackendError:
        """What to tell a caller of a refused or broken connection: often vLLM's end is behind."""
        match await server.process.wait_ended(_EXIT_NOTICE_S):
            case State.EXITED | State.FAILED:
                return self._ended(server)
            case State.STOPPING | State.UNHEALTHY:
                return self._not_ready()
        return error

    async def check_survival(self, server: VllmServer) -> None:
        """See whether the engine survived a request that failed.

        Raises:
            BackendExited: It did not.
        """
        try:
            await server.check_health()
        except BackendError as exc:
            raise self._unwell(server, exc) from exc

    async def probe(self) -> None:
        """Ask vLLM for its health and its models.

        Raises:
            BackendError: It is not ready, or does not answer well.
        """
        server = self.server
        if server is None:
            raise self._not_ready()
        try:
            await server.check()
        except BackendError as exc:
            raise self._unwell(server, exc) from exc

    async def aclose(self) -> None:
        """Stop vLLM and wait until nothing of it is left; may be called again."""
        await self._life.end()

    def _launch(self, on_phase: Callable[[], None]) -> VllmServer:
        """Prepare one server on a port of its own."""
        launch = plan_launch(
            find_launcher(self._python),
            model=self._model,
            args=self._args,
            env=self._env,
            port=self._choose_port(),
        )
        _log.info("vllm_start", backend=self._name, command=printable(launch.command))
        server = VllmServer(
            next(self._launches),
            launch,
            name=self._name,
            connect=self._connect,
            log_file=self._log_file,
            on_phase=on_phase,
            on_state=self._tell,
            rules=self._rules,
            stall_s=self._stall_s,
            poll_s=self._poll_s,
            grace_s=self._grace_s,
            clock=self._clock,
            spawn=self._spawn,
        )
        self._servers.append(server)
        return server

    def _tell(self) -> None:
        if self._listener is not None:
            self._listener()

    def _unwell(self, server: VllmServer, error: BackendError) -> BackendExited:
        """What to tell of a server that is not well, before its end is noticed."""
        message = ": ".join(filter(None, [str(error), server.reader.cause]))
        return BackendExited(
            f"{self._name}: {message}",
            backend=self._name,
            retry_after_s=RETRY_AFTER_S if self._rules.restart else None,
        )

    def _not_ready(self) -> BackendError:
        """What to tell a caller while vLLM cannot be asked."""
        state, progress = self.state, self.progress
        if self._life.comes_back:
            return BackendUnavailable(
                f"{self._name}: vLLM is being restarted; before that: {self._life.last_reason}",
                backend=self._name,
                retry_after_s=max(RETRY_AFTER_S, math.ceil(self._life.pause_left_s)),
            )
        match state:
            case State.EXITED | State.FAILED:
                return self._ended(self._life.server)
            case State.UNHEALTHY:
                message, retry_after_s = f"vLLM is unhealthy: {self.reason}", None
            case State.STOPPING:
                message, retry_after_s = "vLLM is stopping", None
            case State.NEW:
                message, retry_after_s = "vLLM was not started", None
            case State.STARTING | State.READY:
                message = (
                    f"vLLM is still starting ({progress.phase.value},"
                    f" {progress.elapsed_s:.0f} s so far)"
                )
                retry_after_s = RETRY_AFTER_S
            case _:
                assert_never(state)
        return BackendUnavailable(
            f"{self._name}: {message}", backend=self._name, retry_after_s=retry_after_s
        )

    def _ended(self, server: VllmServer | None) -> BackendExited:
        """What to tell a caller whose server ended, with its last lines."""
        ended = self._life.reason if server is None else server.process.reason
        message = ended or "vLLM ended"
        lines = () if server is None else server.process.tail[-_SHOWN_LINES:]
        if lines:
            message = "; its last lines were:\n".join([message, "\n".join(lines)])
        return BackendExited(
            f"{self._name}: {message}",
            backend=self._name,
            retry_after_s=RETRY_AFTER_S if self._life.comes_back else None,
        )
