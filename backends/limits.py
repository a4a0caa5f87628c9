"""No more requests at a server than it should have; the others wait for their turn."""

from backends.base import Backend, BackendReply, UpstreamRequest
from backends.turns import Turns


class LimitedBackend:
    """A backend with a limit.

    POST requests are limited: what asks for models, health or metrics does not wait behind them,
    nor what is asked aside, for a request that may hold its place until then.
    Callers are told apart by their ``authorization``.
    """

    wants_session = True

    def __init__(self, backend: Backend, turns: Turns) -> None:
        """Limit a backend, which is owned from now on, to the places that ``turns`` have."""
        self._backend = backend
        self._turns = turns

    @property
    def name(self) -> str:
        """Name of the upstream."""
        return self._backend.name

    @property
    def inner(self) -> Backend:
        """The backend that is limited."""
        return self._backend

    @property
    def is_full(self) -> bool:
        """Whether one request more would be refused."""
        return self._turns.is_full

    async def start(self) -> None:
        """Start the backend."""
        await self._backend.start()

    async def send(self, request: UpstreamRequest) -> BackendReply:
        """Send a request when its turn has come; see ``Backend.send``.

        Cancelling the call gives up its place, in the queue or at the server.

        Raises:
            BackendQueueFull: Too many wait already.
            BackendQueueTimeout: Its turn did not come in time.
            BackendError: The backend gave no reply.
        """
        if request.method != "POST" or request.is_aside:
            return await self._backend.send(request)
        place = await self._turns.enter(_caller_of(request), request.session or "")
        try:
            reply = await self._backend.send(request)
        except BaseException:
            place.leave()
            raise
        reply.hold(place.leave, place.queued_s)
        return reply

    async def probe(self) -> None:
        """Ask whether the backend answers, whatever waits; see ``Backend.probe``."""
        await self._backend.probe()

    async def aclose(self) -> None:
        """Close the backend."""
        await self._backend.aclose()


def without_limit(backend: Backend) -> Backend:
    """The backend itself, for whoever asks for its kind."""
    return backend.inner if isinstance(backend, LimitedBackend) else backend


def _caller_of(request: UpstreamRequest) -> str:
    return next((value for name, value in request.headers if name == "authorization"), "")
