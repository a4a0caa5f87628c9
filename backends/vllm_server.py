"""One life of a vLLM: its process, its log, and the connections to it."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from backends.base import Backend, BackendReply, UpstreamRequest
from backends.errors import BackendError, BackendTimeout, BackendUnavailable
from backends.process import ManagedProcess
from backends.spawn import Spawn
from backends.stall import StallWatch
from backends.supervision import Supervision
from backends.traffic import Explain, Traffic
from backends.vllm_command import Launch
from backends.vllm_log import LogFile, LogReader

_PROBE_TIMEOUT_S: Final = 10.0

Connect = Callable[[str, str], Backend]
"""Makes the backend that talks HTTP, of a base URL and an API key."""


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    """Reply of ``GET /v1/models``."""

    data: list[_Model]


class _Version(msgspec.Struct):
    """Reply of ``GET /version``."""

    version: str


_read_models: Final = msgspec.json.Decoder(_Models).decode
_read_version: Final = msgspec.json.Decoder(_Version).decode


class VllmServer:
    """One launch of vLLM; another launch is another object.

    Args:
        number: Which launch of its backend it is.
        launch: Its command, environment and address.
        name: The upstream's name in logs and errors.
        connect: Makes the inner backends, one for ``/v1`` and one for ``/health``.
        log_file: Where its whole output is appended; nowhere if absent.
        on_phase: Is told when the log begins another phase.
        on_state: Is told when the process came into another state.
        rules: When its engine counts as stalled.
        stall_s: The start failed if vLLM logs nothing for so long.
        poll_s: Pause between two questions whether it is ready.
        grace_s: Time to end by itself when it is stopped.
        clock: Seconds, for the stall timer.
        spawn: Starts the command.
    """

    def __init__(
        self,
        number: int,
        launch: Launch,
        *,
        name: str,
        connect: Connect,
        log_file: Path | None,
        on_phase: Callable[[], None],
        on_state: Callable[[], None],
        rules: Supervision,
        stall_s: float,
        poll_s: float,
        grace_s: float,
        clock: Callable[[], float],
        spawn: Spawn,
    ) -> None:
        self.number = number
        self.launch = launch
        self.traffic = Traffic()
        self.reader = LogReader()
        self.served: tuple[str, ...] = ()
        self.version: str | None = None
        self._name = name
        self._on_phase = on_phase
        self._answer_s = rules.stall_answer_s
        self._stall = StallWatch(
            name=name,
            traffic=self.traffic,
            read_metrics=self._read_metrics,
            ask=self._ask_for_a_token,
            stall_s=rules.stall_s,
            clock=clock,
        )
        self._log_file = None if log_file is None else LogFile(log_file)
        self._api = connect(f"{launch.origin}/v1", launch.api_key)
        self._root = connect(launch.origin, launch.api_key)
        self.process = ManagedProcess(
            launch.command,
            name=name,
            probe=self._answers,
            env=launch.env,
            on_line=self._on_line,
            on_state=on_state,
            explain=self.reader.explain,
            redact=[launch.api_key] if launch.api_key else [],
            stall_s=stall_s,
            poll_s=poll_s,
            grace_s=grace_s,
            clock=clock,
            spawn=spawn,
        )

    async def start(self) -> None:
        """Begin to start it; returns at once."""
        await self._api.start()
        await self._root.start()
        await self.process.start()

    async def send(self, request: UpstreamRequest, explain: Explain) -> BackendReply:
        """Send a request to its API; ``explain`` makes errors of broken connections."""
        return await self.traffic.send(self._api.send, request, explain)

    async def check(self) -> None:
        """Ask for health and models, within a time limit.

        Raises:
            BackendError: One of them is not as it should be.
        """
        await self.check_health()
        status, body = await self._get(self._api, "/models")
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
        self.served = tuple(model.id for model in models.data)

    async def ask_version(self) -> None:
        """Learn vLLM's version, if it tells."""
        with contextlib.suppress(BackendError, msgspec.MsgspecError):
            status, body = await self._get(self._root, "/version")
            if status == 200:
                self.version = _read_version(body).version

    async def check_at_work(self) -> None:
        """Ask for its health, and whether its engine moves while requests are open.

        Raises:
            EngineStalled: The engine does not.
            BackendError: Server or engine are not well.
        """
        await self.check_health()
        await self._stall.check()

    async def check_health(self) -> None:
        """Ask whether server and engine are well, within a time limit.

        Raises:
            BackendError: They are not, or nobody answers.
        """
        status, _ = await self._get(self._root, "/health")
        if status != 200:
            raise BackendUnavailable(
                f"vLLM answers GET /health with status {status}", backend=self._name
            )

    async def release(self) -> None:
        """Close the connections and the log file, once the process has ended."""
        await self._api.aclose()
        await self._root.aclose()
        if self._log_file is not None:
            self._log_file.close()

    async def _answers(self) -> bool:
        try:
            await self.check()
        except BackendError:
            return False
        return True

    async def _read_metrics(self) -> bytes:
        status, body = await self._get(self._root, "/metrics")
        return body if status == 200 else b""

    async def _ask_for_a_token(self) -> None:
        """Have the engine make one token.

        Raises:
            BackendError: It did not within the time limit. A refusal is no such sign: the model
                may complete nothing.
        """
        model = self.served[0]
        body = msgspec.json.encode({"model": model, "prompt": [1], "max_tokens": 1})
        headers = [("content-type", "application/json"), ("accept-encoding", "identity")]
        request = UpstreamRequest("POST", "/completions", headers, body)
        status, _ = await self._ask(self._api, request, self._answer_s)
        if status >= 500:
            raise BackendUnavailable(f"vLLM answered with status {status}", backend=self._name)

    async def _get(self, backend: Backend, path: str) -> tuple[int, bytes]:
        request = UpstreamRequest("GET", path, headers=[("accept-encoding", "identity")])
        return await self._ask(backend, request, _PROBE_TIMEOUT_S)

    async def _ask(
        self, backend: Backend, request: UpstreamRequest, timeout_s: float
    ) -> tuple[int, bytes]:
        """Status and body of a reply to a request of our own, within a time limit."""
        try:
            async with asyncio.timeout(timeout_s):
                reply = await backend.send(request)
                try:
                    return reply.status, b"".join([chunk async for chunk in reply.chunks()])
                finally:
                    await reply.aclose()
        except TimeoutError as exc:
            raise BackendTimeout(
                f"vLLM did not answer within {timeout_s:g} s", backend=self._name
            ) from exc

    def _on_line(self, line: str) -> None:
        if self._log_file is not None:
            self._log_file.write(line)
        if self.reader.feed(line):
            self._on_phase()
