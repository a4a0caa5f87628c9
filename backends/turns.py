"""Whose turn it is at a server that has no more requests than it should: nobody starves.

A server that gets thousands of requests at once serves all of them slowly, and whoever comes last
waits for all who came before. Here they wait in a queue whose turns go round the callers, so that
one who sends a single request is served before another's five thousandth.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec

from backends.errors import BackendQueueFull, BackendQueueTimeout

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
    """One place in a queue since some time; ``called`` is set when its turn has come."""

    def __init__(self, caller: str, session: str, since_s: float = 0.0) -> None:
        self.caller = caller
        self.session = session
        self.since_s = since_s
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


class Place(NamedTuple):
    """A place at a server, from its turn until it is left.

    Attributes:
        leave: Gives it up; has to be called once.
        queued_s: How long it was waited for, in seconds.
    """

    leave: Callable[[], None]
    queued_s: float = 0.0


class Turns(Protocol):
    """The places at one server."""

    @property
    def is_full(self) -> bool:
        """Whether one request more would be refused."""

    async def enter(self, caller: str, session: str) -> Place:
        """Take a place, now or when its turn has come.

        Cancelling the call gives up its place, in the queue or at the server.

        Raises:
            BackendError: There is none; see ``FairTurns``.
        """


class Count(Protocol):
    """How many places at a server are taken, and how many requests wait for one.

    ``waiting`` is set by who keeps the queue.
    """

    waiting: int

    @property
    def taken(self) -> int:
        """How many places are taken."""

    def take(self, *, in_turn: bool = False) -> bool:
        """Take a place; false if none is free, or others wait whose turn is before."""

    def give(self) -> None:
        """Give a place back."""


class OwnCount:
    """A count of this process alone."""

    def __init__(self, limit: Limit) -> None:
        """Make a count without any place taken."""
        self.waiting = 0
        self.taken = 0
        self._most = limit.open

    def take(self, *, in_turn: bool = False) -> bool:
        """Take a place; while others wait none is free but in their turn."""
        if self.taken >= self._most:
            return False
        self.taken += 1
        return True

    def give(self) -> None:
        """Give a place back."""
        self.taken -= 1


class FairTurns:
    """The places at a server, and the queue for them."""

    def __init__(
        self,
        name: str,
        limit: Limit,
        count: Count | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an empty queue.

        Args:
            name: The upstream's name in errors.
            limit: How many places there are, and how many may wait for how long.
            count: Knows which are taken; if absent, those that are taken here.
            clock: Monotonic time in seconds.
        """
        self._name = name
        self._limit = limit
        self._count = OwnCount(limit) if count is None else count
        self._clock = clock
        self._queue = FairQueue()
        self._at_once = Place(self._leave)

    @property
    def is_full(self) -> bool:
        """Whether one request more would be refused."""
        return self._count.taken >= self._limit.open and len(self._queue) >= self._limit.waiting

    def take(self) -> Place | None:
        """Take a place if one is free and nobody waits."""
        return self._at_once if self._count.take() else None

    async def enter(self, caller: str, session: str) -> Place:
        """Take a place, now or when its turn has come; see ``Turns``.

        Raises:
            BackendQueueFull: Too many wait already.
            BackendQueueTimeout: Its turn did not come in time.
        """
        place = self.take()
        if place is not None:
            return place
        ticket = self.join(caller, session)
        try:
            queued_s = await self.wait(ticket)
        except asyncio.CancelledError:
            self.resign(ticket)
            raise
        return Place(self._leave, queued_s)

    def join(self, caller: str, session: str) -> Ticket:
        """Take a ticket, which has to be resigned once, unless waiting for its turn fails.

        Raises:
            BackendQueueFull: Too many wait already.
        """
        if self.is_full:
            raise BackendQueueFull(
                f"The upstream is busy: {self._count.taken} requests are open and"
                f" {len(self._queue)} wait, which is as many as may.",
                backend=self._name,
                retry_after_s=_RETRY_AFTER_S,
            )
        ticket = Ticket(caller, session, self._clock())
        self._queue.add(ticket)
        self._count.waiting = len(self._queue)
        self.call()  # a place may have been given back before anybody knew that one waits
        return ticket

    async def wait(self, ticket: Ticket) -> float:
        """Wait for a ticket's turn; how long that took, in seconds.

        Raises:
            BackendQueueTimeout: It did not come in time, and the ticket is resigned.
        """
        try:
            async with asyncio.timeout(self._limit.wait_s):
                await ticket.called.wait()
        except TimeoutError as error:
            self.resign(ticket)
            raise BackendQueueTimeout(
                f"The upstream is busy: {self._limit.wait_s:g} s went by before the request's"
                " turn came.",
                backend=self._name,
                retry_after_s=_RETRY_AFTER_S,
            ) from error
        return self._clock() - ticket.since_s

    def resign(self, ticket: Ticket) -> None:
        """Give up a ticket's place, in the queue or at the server."""
        if ticket.called.is_set():
            self._leave()
        else:
            self._queue.remove(ticket)
            self._count.waiting = len(self._queue)

    def call(self) -> None:
        """Give places that are free to those whose turn it is."""
        while self._queue and self._count.take(in_turn=True):
            self._queue.take().called.set()
            self._count.waiting = len(self._queue)

    def _leave(self) -> None:
        self._count.give()
        self.call()
