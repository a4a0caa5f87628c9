"""No more requests at a server than it should have; the others wait, and nobody starves.

A server that gets thousands of requests at once serves all of them slowly, and whoever comes last
waits for all who came before. Here they wait in a queue whose turns go round the callers, so that
one who sends a single request is served before another's five thousandth.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from backends.base import Backend, UpstreamReply, UpstreamRequest
from backends.errors import BackendQueueFull, BackendQueueTimeout
from backends.held import HeldReply

_RETRY_AFTER_S = 5


class Limit(msgspec.Struct, frozen=True):
    """How many requests a server has at once.

    Attributes:
        open: Most requests that are open: sent, and their replies not closed.
        waiting: Most requests that wait; with 0 none does.
        wait_s: Longest wait in seconds.
    """

    open: int
    waiting: int = 10_000
    wait_s: float = 600.0


class Ticket:
    """One place in a queue; ``called`` is set when its turn has come."""

    def __init__(self, caller: str, session: str) -> None:
        self.caller = caller
        self.session = session
        self.called = asyncio.Event()


class FairQueue:
    """Tickets; turns go round the callers, and a caller's turns round its sessions.

    Within one session it is first come, first served. Whoever has nothing left in the queue and
    comes again is last in the round. All operations take constant time.
    """

    def __init__(self) -> None:
        """Make an empty queue."""
        self._callers: OrderedDict[str, OrderedDict[str, OrderedDict[Ticket, None]]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        """The number of tickets."""
        return self._size

    def add(self, ticket: Ticket) -> None:
        """Let a ticket wait."""
        sessions = self._callers.setdefault(ticket.caller, OrderedDict())
        sessions.setdefault(ticket.session, OrderedDict())[ticket] = None
        self._size += 1

    def take(self) -> Ticket:
        """Take out the ticket whose turn it is.

        Raises:
            StopIteration: The queue is empty.
        """
        caller, sessions = next(iter(self._callers.items()))
        session, tickets = next(iter(sessions.items()))
        ticket = next(iter(tickets))
        self._callers.move_to_end(caller)
        sessions.move_to_end(session)
        self.remove(ticket)
        return ticket

    def remove(self, ticket: Ticket) -> None:
        """Take out a ticket before its turn.

        Raises:
            KeyError: It is not in the queue.
        """
        sessions = self._callers[ticket.caller]
        tickets = sessions[ticket.session]
        del tickets[ticket]
        self._size -= 1
        if not tickets:
            del sessions[ticket.session]
        if not sessions:
            del self._callers[ticket.caller]


class LimitedBackend:
    """A backend with a limit; see the module.

    POST requests are limited: what asks for models, health or metrics does not wait behind them,
    nor what is asked aside, for a request that may hold its place until then.
    Callers are told apart by their ``authorization``.
    """

    wants_session = True

    def __init__(
        self, backend: Backend, limit: Limit, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Limit a backend, which is owned from now on; ``clock`` gives monotonic seconds."""
        self._backend = backend
        self._limit = limit
        self._clock = clock
        self._open = 0
        self._queue = FairQueue()

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
        return self._open >= self._limit.open and len(self._queue) >= self._limit.waiting

    async def start(self) -> None:
        """Start the backend."""
        await self._backend.start()

    async def send(self, request: UpstreamRequest) -> UpstreamReply:
        """Send a request when its turn has come; see ``Backend.send``.

        Cancelling the call gives up its place, in the queue or at the server.

        Raises:
            BackendQueueFull: Too many wait already.
            BackendQueueTimeout: Its turn did not come in time.
            BackendError: The backend gave no reply.
        """
        if request.method != "POST" or request.is_aside:
            return await self._backend.send(request)
        queued_s = await self._enter(request)
        try:
            reply = await self._backend.send(request)
        except BaseException:
            self._leave()
            raise
        return HeldReply(reply, self._leave, queued_s)

    async def probe(self) -> None:
        """Ask whether the backend answers, whatever waits; see ``Backend.probe``."""
        await self._backend.probe()

    async def aclose(self) -> None:
        """Close the backend."""
        await self._backend.aclose()

    async def _enter(self, request: UpstreamRequest) -> float:
        """Take a place at the server, now or when one is free; seconds until then."""
        if self._open < self._limit.open:  # then nobody waits
            self._open += 1
            return 0.0
        if self.is_full:
            raise BackendQueueFull(
                f"The upstream is busy: {self._open} requests are open and {len(self._queue)} wait,"
                " which is as many as may.",
                backend=self.name,
                retry_after_s=_RETRY_AFTER_S,
            )
        ticket = Ticket(_caller_of(request), request.session or "")
        self._queue.add(ticket)
        since_s = self._clock()
        try:
            async with asyncio.timeout(self._limit.wait_s):
                await ticket.called.wait()
        except BaseException as error:
            if ticket.called.is_set():
                self._leave()  # called and cancelled in the same moment
            else:
                self._queue.remove(ticket)
            if isinstance(error, TimeoutError):
                raise BackendQueueTimeout(
                    f"The upstream is busy: {self._limit.wait_s:g} s went by before the request's"
                    " turn came.",
                    backend=self.name,
                    retry_after_s=_RETRY_AFTER_S,
                ) from error
            raise
        return self._clock() - since_s

    def _leave(self) -> None:
        """Give a place to whose turn it is."""
        if self._queue:
            self._queue.take().called.set()
        else:
            self._open -= 1


def without_limit(backend: Backend) -> Backend:
    """The backend itself, for whoever asks for its kind."""
    return backend.inner if isinstance(backend, LimitedBackend) else backend


def _caller_of(request: UpstreamRequest) -> str:
    return next((value for name, value in request.headers if name == "authorization"), "")
