"""A vLLM that we start ourselves: its command, its way to readiness, its end.

Requests go through an inner HTTP backend that is made once the port is known. What vLLM serves,
its parsers and its limits are the user's arguments; we add only what is needed to reach it.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import structlog

from backends.base import Backend, UpstreamReply, UpstreamRequest
from backends.errors import (
    BackendBrokeOff,
    BackendError,
    BackendExited,
    BackendTimeout,
    BackendUnavailable,
)
from backends.guardian import DEFAULT_GRACE_S
from backends.process import ManagedProcess, State
from backends.spawn import Spawn, spawn_guarded
from backends.vllm_command import (
    Launch,
    NoLauncher,
    check_arguments,
    find_launcher,
    free_port,
    plan_launch,
    printable,
)
from backends.vllm_log import LogReader, Phase

PORT_ATTEMPTS: Final = 3
RETRY_AFTER_S: Final = 5

_SHOWN_LINES: Final = 10
_TELL_EVERY_S: Final = 10.0
_TICK_S: Final = 1.0
_PROBE_TIMEOUT_S: Final = 10.0
_EXIT_NOTICE_S: Final = 0.5

_log = structlog.get_logger("dragoman")

Connect = Callable[[str, str], Backend]
"""Makes the backend that talks HTTP, of a base URL and an API key."""


class Progress(msgspec.Struct, frozen=True):
    """How far the start is."""

    phase: Phase
    elapsed_s: float
    """Since the start was asked for; stands still once it is ready or over."""
    last_line: str
    """Of vLLM's log, without its prefix."""


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    """Reply of ``GET /v1/models``."""

    data: list[_Model]


_read_models: Final = msgspec.json.Decoder(_Models).decode


class VllmBackend:
    """Starts vLLM for one model and talks to it.

    Args:
        name: The upstream's name in settings, logs and errors.
        model: What vLLM calls the model: a folder or a repository.
        connect: Makes the inner backend. It is called twice for a start, with
            ``http://host:port/v1`` for requests and ``http://host:port`` for ``/health``.
        python: Interpreter of the environment that has vLLM; looked for if absent.
        args: More arguments for vLLM; they win over ours.
        env: More environment variables; they win over ours.
        stall_s: The start failed if vLLM logs nothing for so long.
        poll_s: Pause between two questions whether it is ready.
        grace_s: Time to end by itself when it is stopped.
        clock: Seconds, for progress and the stall timer.
        spawn: Starts the command.
        choose_port: Gives a port that is probably free.

    Raises:
        ValueError: ``args`` has something under which vLLM could not be reached.
    """

    def __init__(
        self,
        *,
        name: str,
        model: str,
        connect: Connect,
        python: str | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        stall_s: float = 600.0,
        poll_s: float = 0.5,
        grace_s: float = DEFAULT_GRACE_S,
        clock: Callable[[], float] = time.monotonic,
        spawn: Spawn = spawn_guarded,
        choose_port: Callable[[], int] = free_port,
    ) -> None:
        check_arguments(args)
        self._name = name
        self._model = model
        self._connect = connect
        self._python = python
        self._args = tuple(args)
        self._env = dict(env or {})
        self._stall_s = stall_s
        self._poll_s = poll_s
        self._grace_s = grace_s
        self._clock = clock
        self._spawn = spawn
        self._choose_port = choose_port

        self._reader = LogReader()
        self._process: ManagedProcess | None = None
        self._launch: Launch | None = None
        self._inner: Backend | None = None
        self._root: Backend | None = None
        self._life: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._attempts_left = PORT_ATTEMPTS
        self._not_started = ""
        self._served: tuple[str, ...] = ()
        self._began_s: float | None = None
        self._settled_s: float | None = None
        self._told_s = 0.0

    @property
    def name(self) -> str:
        """The upstream's name in settings, logs and errors."""
        return self._name

    @property
    def state(self) -> State:
        """Where in its life vLLM is."""
        if self._not_started:
            return State.FAILED
        if self._process is None or self._will_retry():
            return State.NEW if self._life is None else State.STARTING
        return self._process.state

    @property
    def progress(self) -> Progress:
        """How far the start is."""
        until_s = self._clock() if self._settled_s is None else self._settled_s
        elapsed_s = 0.0 if self._began_s is None else until_s - self._began_s
        return Progress(self._reader.phase, elapsed_s, self._reader.last_line)

    @property
    def served_model(self) -> str | None:
        """The first model that vLLM lists; None before it is ready."""
        return self._served[0] if self._served else None

    @property
    def reason(self) -> str:
        """Why it is not running, in one sentence; empty if nothing is wrong."""
        if self._not_started or self._process is None:
            return self._not_started
        return self._process.reason

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines of vLLM's log."""
        return () if self._process is None else self._process.tail

    async def start(self) -> None:
        """Begin to start vLLM; returns at once."""
        if self._life is not None:
            raise RuntimeError(f"{self._name} was started before")
        self._began_s = self._told_s = self._clock()
        self._life = asyncio.create_task(self._live(), name=f"life of {self._name}")

    async def send(self, request: UpstreamRequest) -> UpstreamReply:
        """Send a request through the inner backend.

        Raises:
            BackendUnavailable: vLLM is still starting; the message has the phase.
            BackendExited: It ended or could not be started; the message has reason and last lines.
            BackendError: What the inner backend raises.
        """
        inner, process = self._inner, self._process
        if self.state is not State.READY or inner is None or process is None:
            raise self._not_ready()
        try:
            return await inner.send(request)
        except (BackendUnavailable, BackendBrokeOff) as exc:
            # A refused or broken connection is often the first sign of its end.
            if await process.wait_ended(_EXIT_NOTICE_S) is State.READY:
                raise
            raise self._not_ready() from exc

    async def probe(self) -> None:
        """Ask vLLM for its health and its models.

        Raises:
            BackendError: It is not ready, or does not answer well.
        """
        if self.state is not State.READY:
            raise self._not_ready()
        await self._check()

    async def aclose(self) -> None:
        """Stop vLLM and wait until nothing of it is left; may be called again."""
        self._closing.set()
        if self._process is not None:
            await self._process.stop()
        if self._life is not None:
            await asyncio.wait({self._life})
        await self._disconnect()

    def hurry(self) -> None:
        """Cut short the grace of an ``aclose`` under way."""
        if self._process is not None:
            self._process.hurry()

    async def _live(self) -> None:
        """Start vLLM, on another port if somebody took the first, and see it to its end.

        A restart after an exit belongs here too.
        """
        try:
            await self._live_with(find_launcher(self._python))
        except NoLauncher as exc:
            self._give_up(str(exc))
        except Exception as exc:  # a fault of ours; callers must not be told to wait for ever
            self._give_up(f"vLLM could not be started: {exc!r}")
            raise

    def _give_up(self, reason: str) -> None:
        self._not_started = reason
        self._settled_s = self._clock()
        _log.warning("vllm_not_started", backend=self._name, reason=reason)

    async def _live_with(self, launcher: Sequence[str]) -> None:
        while not self._closing.is_set():
            self._attempts_left -= 1
            process = await self._launch_with(launcher)
            if self._closing.is_set():
                return
            await process.start()
            while await process.wait_ready(_TICK_S) is State.STARTING:
                self._tell(at_least_every_s=_TELL_EVERY_S)
            self._settled_s = self._clock()
            if process.state is State.READY:
                self._reader.started()
                self._tell(at_least_every_s=0)
            await process.wait_ended()
            if not self._will_retry():
                return
            self._settled_s = None
            await self._disconnect()

    async def _launch_with(self, launcher: Sequence[str]) -> ManagedProcess:
        """Prepare one process, and the way to talk to it."""
        launch = plan_launch(
            launcher,
            model=self._model,
            args=self._args,
            env=self._env,
            port=self._choose_port(),
        )
        self._reader = reader = LogReader()
        self._launch = launch
        self._served = ()
        self._inner = self._connect(f"{launch.origin}/v1", launch.api_key)
        self._root = self._connect(launch.origin, launch.api_key)
        self._process = process = ManagedProcess(
            launch.command,
            name=self._name,
            probe=self._answers,
            env=launch.env,
            on_line=self._on_line,
            explain=reader.explain,
            redact=[launch.api_key] if launch.api_key else [],
            stall_s=self._stall_s,
            poll_s=self._poll_s,
            grace_s=self._grace_s,
            clock=self._clock,
            spawn=self._spawn,
        )
        _log.info("vllm_start", backend=self._name, command=printable(launch.command))
        await self._inner.start()
        await self._root.start()
        return process

    async def _disconnect(self) -> None:
        inner, root = self._inner, self._root
        self._inner = self._root = None
        for backend in (inner, root):
            if backend is not None:
                await backend.aclose()

    def _will_retry(self) -> bool:
        """Whether the process lost its port to another one and gets another."""
        return (
            self._process is not None
            and self._process.state in (State.FAILED, State.EXITED)
            and self._reader.lost_port
            and self._launch is not None
            and self._launch.port_is_ours
            and self._attempts_left > 0
            and not self._closing.is_set()
        )

    def _on_line(self, line: str) -> None:
        if self._reader.feed(line) and self.state is State.STARTING:
            self._tell(at_least_every_s=0)

    def _tell(self, *, at_least_every_s: float) -> None:
        """Log the progress, unless that was done a short while ago."""
        now_s = self._clock()
        if now_s - self._told_s < at_least_every_s:
            return
        self._told_s = now_s
        progress = self.progress
        _log.info(
            "vllm_progress",
            backend=self._name,
            phase=progress.phase.value,
            elapsed_s=round(progress.elapsed_s, 1),
            last_line=progress.last_line,
            model=self.served_model,
        )

    async def _answers(self) -> bool:
        try:
            await self._check()
        except BackendError:
            return False
        return True

    async def _check(self) -> None:
        """Ask for health and models, within a time limit.

        Raises:
            BackendError: One of them is not as it should be.
        """
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                status, _ = await self._get(self._root, "/health")
                if status != 200:
                    raise BackendUnavailable(
                        f"vLLM answers GET /health with status {status}", backend=self._name
                    )
                status, body = await self._get(self._inner, "/models")
        except TimeoutError as exc:
            raise BackendTimeout(
                f"vLLM did not answer within {_PROBE_TIMEOUT_S:.0f} s", backend=self._name
            ) from exc
        try:
            models = _read_models(body) if status == 200 else _Models([])
        except msgspec.MsgspecError as exc:
            raise BackendUnavailable(
                f"vLLM's list of models cannot be read: {exc}", backend=self._name
            ) from exc
        if not models.data:
            raise BackendUnavailable(
                f"vLLM lists no model (GET /v1/models has status {status})", backend=self._name
            )
        self._served = tuple(model.id for model in models.data)

    async def _get(self, backend: Backend | None, path: str) -> tuple[int, bytes]:
        if backend is None:
            raise self._not_ready()
        reply = await backend.send(
            UpstreamRequest("GET", path, headers=[("accept-encoding", "identity")])
        )
        try:
            return reply.status, b"".join([chunk async for chunk in reply.chunks()])
        finally:
            await reply.aclose()

    def _not_ready(self) -> BackendError:
        """What to tell a caller while vLLM cannot be asked."""
        match self.state:
            case State.EXITED | State.FAILED:
                message = self.reason or "vLLM ended"
                if lines := self.tail[-_SHOWN_LINES:]:
                    message = "; its last lines were:\n".join([message, "\n".join(lines)])
                return BackendExited(f"{self._name}: {message}", backend=self._name)
            case State.STOPPING:
                return BackendUnavailable(f"{self._name}: vLLM is stopping", backend=self._name)
            case State.NEW:
                return BackendUnavailable(f"{self._name}: vLLM was not started", backend=self._name)
            case State.STARTING | State.READY:
                progress = self.progress
                return BackendUnavailable(
                    f"{self._name}: vLLM is still starting ({progress.phase.value},"
                    f" {progress.elapsed_s:.0f} s so far)",
                    backend=self._name,
                    retry_after_s=RETRY_AFTER_S,
                )
