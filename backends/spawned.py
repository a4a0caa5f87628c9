"""A vLLM that the proxy started, for whoever sends it requests: in this process or beside it."""

from abc import ABC, abstractmethod
from functools import partial
from typing import Generic, Protocol, TypeVar

from backends.base import BackendReply, UpstreamRequest
from backends.errors import BackendError, BackendUnavailable
from backends.process import State
from backends.traffic import Explain


class Server(Protocol):
    """One launch of vLLM, as far as requests are concerned."""

    async def send(self, request: UpstreamRequest, explain: Explain) -> BackendReply:
        """Send a request; ``explain`` makes errors of broken connections."""


S = TypeVar("S", bound=Server)


class SpawnedVllm(ABC, Generic[S]):
    """The way of requests to a spawned vLLM, which may be restarted; a ``Backend``."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The upstream's name in settings, logs and errors."""

    @property
    @abstractmethod
    def state(self) -> State:
        """Where in its life vLLM is."""

    @property
    @abstractmethod
    def served_model(self) -> str | None:
        """The first model that vLLM lists; None before it is ready."""

    @property
    @abstractmethod
    def version(self) -> str | None:
        """What vLLM calls its version; None before it is ready."""

    @abstractmethod
    async def ready(self) -> S:
        """The server, after a wait for its restart if it must be and may be waited for.

        Raises:
            BackendError: It is not ready.
        """

    @abstractmethod
    async def after(self, server: S, error: BackendError) -> S:
        """The server that follows one which refuses connections, as one about to end does.

        Raises:
            BackendError: It is not waited for, or not ready in time.
        """

    @abstractmethod
    async def why_broken(self, server: S, error: BackendError) -> BackendError:
        """What to tell a caller of a refused or broken connection: often vLLM's end is behind."""

    @abstractmethod
    async def check_survival(self, server: S) -> None:
        """See whether the engine survived a request that failed.

        Raises:
            BackendExited: It did not.
        """

    async def send(self, request: UpstreamRequest) -> BackendReply:
        """Send a request; during a restart it may wait for its end.

        Raises:
            BackendUnavailable: vLLM starts, is being restarted or does not work; the message has
                the phase or the reason.
            BackendExited: It ended or could not be started; the message has reason and last lines.
            BackendError: The request could not be sent, or got no reply.
        """
        server = await self.ready()
        try:
            reply = await server.send(request, partial(self.why_broken, server))
        except BackendUnavailable as exc:
            # It was refused, so nothing was sent yet: the request waits as if it came later.
            server = await self.after(server, exc)
            reply = await server.send(request, partial(self.why_broken, server))
        if reply.status == 500:
            try:
                await self.check_survival(server)
            except BaseException:
                await reply.aclose()
                raise
        return reply
