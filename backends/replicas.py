"""Several servers of the same model behind one name.

A session stays with one replica, so that its prefix cache is warm, and the choice needs no
memory: rendezvous hashing ("highest random weight", Thaler and Ravishankar, 1998) ranks the
replicas for each session, every proxy and worker alike, and a replica that joins or leaves moves
only its share. Health is judged by what requests meet and, at intervals, by asking.
"""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

import msgspec
import structlog

from backends.aside import Aside
from backends.base import Backend, BackendReply, UpstreamRequest
from backends.errors import (
    BackendConnectTimeout,
    BackendError,
    BackendExited,
    BackendQueueFull,
    BackendTimeout,
    BackendUnavailable,
)
from backends.health import (
    CHECK_LIMIT_S,
    Ejection,
    Health,
    Standing,
    Verdict,
    ask_health,
    why_silent,
)

_PROBE_LIMIT_S = 3.0
_REMEMBERED_SESSIONS = 16384
_DRAWS = 64
_NOT_SENT = (BackendUnavailable, BackendConnectTimeout, BackendQueueFull)
_FAILURES = (BackendUnavailable, BackendTimeout, BackendExited)
T = TypeVar("T")
_Order = Sequence[tuple["_Replica", int | None]]
"""Replicas in an order, each with its weight for the session, if there is one."""

_log = structlog.get_logger("dragoman")


class ReplicaState(msgspec.Struct, frozen=True):
    """Whether a replica takes part: ``serving``, ``draining``, ``ejected`` or ``returning``.

    ``open`` is how many requests it has.
    """

    state: str
    open: int


class _Replica:
    """One backend of a set, and what is known of it."""

    def __init__(self, name: str, backend: Backend, rules: Ejection) -> None:
        self.name = name
        self.backend = backend
        self.health = Health(rules)
        self.outstanding = 0
        self.says_draining = False
        self.is_draining = False
        self.ill_count = 0
        self._hash = hashlib.blake2b(name.encode() + b"\0", digest_size=8)
        self._sessions: set[int] = set()
        self._older_sessions: set[int] = set()

    def weight(self, session: bytes) -> int:
        """Rank of the replica for a session: the highest of all replicas wins."""
        state = self._hash.copy()
        state.update(session)
        return int.from_bytes(state.digest(), "big")

    def remember(self, weight: int) -> None:
        """Note that a session, known by its weight, is here; old ones are forgotten."""
        self._sessions.add(weight)
        if len(self._sessions) >= _REMEMBERED_SESSIONS:
            self._sessions, self._older_sessions = set(), self._sessions

    def forget(self, weight: int) -> None:
        """Note that a session is here no longer; none is if the replica says itself that it ends.

        For that is what a dead engine behind a live server says, too.
        """
        for sessions in (self._sessions, self._older_sessions):
            if self.says_draining:
                sessions.clear()
            sessions.discard(weight)

    def finish(self) -> None:
        """Note that a request is open no longer."""
        self.outstanding -= 1

    def state(self, now_s: float) -> ReplicaState:
        """What to tell of it."""
        state = self.health.standing(self.outstanding, now_s).value
        is_draining = self.is_draining and state != Standing.EJECTED.value
        return ReplicaState("draining" if is_draining else state, self.outstanding)

    @property
    def is_full(self) -> bool:
        """Whether its backend would refuse a request."""
        return getattr(self.backend, "is_full", False)

    def preference(self, weight: int | None, now_s: float) -> int:
        """0 if a request should come here, 1 if only for want of better, 2 if as a last resort."""
        if self.health.standing(self.outstanding, now_s) is Standing.EJECTED:
            return 2
        is_known = weight in self._sessions or weight in self._older_sessions
        is_welcome = is_known or not self.is_draining
        has_room = self.health.has_room(self.outstanding)
        return 0 if is_welcome and has_room and not self.is_full else 1


class ReplicaSet:
    """Several backends that serve the same; see the module.

    A request of a session goes to the first replica in the session's order that is fit for it,
    one without a session to the replica with the fewest requests open. Where no connection could
    be made, or the queue was full after all, so that nothing was sent, the next replica is tried,
    once. If none is fit, the first is tried all the same: what the caller then hears of is the
    real trouble.

    Replicas may have a member ``is_full``, which says that they would refuse.

    Attributes:
        wants_session: Whether it matters to which session a request belongs.
    """

    def __init__(
        self,
        name: str,
        replicas: Mapping[str, Backend],
        *,
        ejection: Ejection | None = None,
        check_interval_s: float = 0.0,
        list_drained: Callable[[], Collection[str]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a set that owns its replicas.

        Args:
            name: The upstream's name.
            replicas: At least one, by the name that is hashed: proxies that should agree have to
                use the same names, in any order.
            ejection: When a replica is left out.
            check_interval_s: Pause between two questions for all replicas' health; 0 for never.
            list_drained: Names the replicas that are to drain; called in a thread before each
                question. What it says too late counts from the next question on.
            clock: Monotonic time in seconds.
        """
        rules = ejection or Ejection()
        self._name = name
        self._replicas = {key: _Replica(key, b, rules) for key, b in replicas.items()}
        self._rules = rules
        self._check_interval_s = check_interval_s
        self._listing = None if list_drained is None else Aside(list_drained)
        self._is_listed = True
        self._checking: asyncio.Task[None] | None = None
        self._clock = clock
        self._turn = 0
        # A session's weights never change; to look them up saves 3 us per request and 3 replicas.
        self._known_order = lru_cache(_REMEMBERED_SESSIONS)(self._order)
        self._silent: dict[str, str] = {}
        self._drained: Collection[str] = ()
        self.wants_session = len(replicas) > 1 or any(
            getattr(backend, "wants_session", False) for backend in replicas.values()
        )

    @property
    def name(self) -> str:
        """Name of the upstream."""
        return self._name

    async def start(self) -> None:
        """Start all replicas, and the questions for their health."""
        for replica in self._replicas.values():
            await replica.backend.start()
        await self._look_up_drained()
        if self._check_interval_s > 0:
            self._checking = asyncio.create_task(self._keep_checking())

    async def send(self, request: UpstreamRequest) -> BackendReply:
        """Send a request to the replica that it belongs to; see ``Backend.send``.

        Raises:
            BackendError: The replica gave no reply, or neither of two accepted the request.
        """
        order = self._in_turn() if request.session is None else self._known_order(request.session)
        others = len(order) - 1
        while True:  # each further coroutine around the wait would cost 1 us
            replica, weight = self._best(order)
            health, epoch = replica.health, replica.health.epoch
            replica.outstanding += 1
            try:
                reply = await replica.backend.send(request)
            except BaseException as error:  # being cancelled says nothing of a replica
                replica.finish()
                if isinstance(error, _FAILURES):
                    self._note_failure(replica, epoch, error)
                if not (others and isinstance(error, _NOT_SENT)):
                    raise
            else:
                if not health.is_steady and health.succeed(epoch, replica.outstanding):
                    _log.info("replica has returned", upstream=self._name, replica=replica.name)
                if weight is not None:
                    (replica.remember if reply.status < 500 else replica.forget)(weight)
                reply.hold(replica.finish)
                return reply
            # Chosen anew, since much may have happened while the request waited.
            order = self._in_turn() if request.session is None else order
            order = [pair for pair in order if pair[0] is not replica]
            others = 0

    def new_session(self, make: Callable[[str], tuple[str, T]]) -> tuple[str, T]:
        """A session at the replica with the fewest requests open.

        Names are drawn until one leads there: on average as many as there are replicas. Among
        very many, another replica may be taken.

        Args:
            make: Makes the session's key, and something else, from a name.
        """
        best, _ = self._best(self._in_turn())
        made = make(secrets.token_hex(16))
        for _ in range(_DRAWS):
            if self._best(self._order(made[0]))[0] is best:
                break
            made = make(secrets.token_hex(16))
        return made

    async def check(self) -> None:
        """Ask all replicas for their health, and which of them are to drain.

        One that is ill so often in a row as ejects it is left out until it is well. One that drains
        takes no new sessions, but keeps those of which it has answered, the 16384 most recent ones
        at least, until it answers one of them with a server error.
        """
        await self._look_up_drained()
        await asyncio.gather(*(self._check(replica) for replica in self._replicas.values()))

    async def probe(self) -> None:
        """Ask all replicas whether they answer; one is enough.

        Those that do not are logged, and told by ``silent``.

        Raises:
            BackendUnavailable: None answers.
        """
        replicas = self._replicas.values()
        reasons = await asyncio.gather(
            *(why_silent(replica.backend, _PROBE_LIMIT_S) for replica in replicas)
        )
        silent = {
            replica.name: reason
            for replica, reason in zip(replicas, reasons, strict=True)
            if reason is not None
        }
        for replica, reason in silent.items():
            if replica not in self._silent:
                _log.warning(
                    "replica does not answer", upstream=self._name, replica=replica, reason=reason
                )
        self._silent = silent
        if len(silent) == len(self._replicas):
            raise BackendUnavailable("; ".join(self.silent), backend=self._name)

    @property
    def silent(self) -> list[str]:
        """Which replicas did not answer when they were last asked, counted from 1, and why."""
        numbered = enumerate(self._replicas, 1)
        return [f"replica {i}: {self._silent[r]}" for i, r in numbered if r in self._silent]

    def states(self) -> list[ReplicaState]:
        """The state of each replica, in their order."""
        now_s = self._clock()
        return [replica.state(now_s) for replica in self._replicas.values()]

    async def aclose(self) -> None:
        """Close all replicas."""
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.wait({self._checking})
        await asyncio.gather(*(replica.backend.aclose() for replica in self._replicas.values()))

    def _order(self, session: str) -> _Order:
        """The replicas as a session prefers them, whatever their health."""
        key = session.encode()
        weighed = [(replica, replica.weight(key)) for replica in self._replicas.values()]
        return sorted(weighed, key=lambda pair: pair[1], reverse=True)

    def _in_turn(self) -> _Order:
        """The replicas for a request without a session: the one with the fewest open first."""
        # The sort is stable, so that replicas with as many requests open take turns.
        replicas = list(self._replicas.values())
        self._turn = (self._turn + 1) % len(replicas)
        replicas = replicas[self._turn :] + replicas[: self._turn]
        replicas.sort(key=lambda replica: replica.outstanding)
        return [(replica, None) for replica in replicas]

    def _best(self, order: _Order) -> tuple[_Replica, int | None]:
        """The first of an order that is fit, or the fittest."""
        first = order[0][0]
        if first.health.is_steady and not (first.is_draining or first.is_full):
            return order[0]  # mostly
        now_s = self._clock()
        return min(order, key=lambda pair: pair[0].preference(pair[1], now_s))

    def _note_failure(self, replica: _Replica, epoch: int, error: BackendError) -> None:
        backoff_s = replica.health.fail(epoch, self._clock())
        if backoff_s is not None:
            _log.warning(
                "replica ejected",
                upstream=self._name,
                replica=replica.name,
                backoff_s=backoff_s,
                reason=str(error),
            )

    async def _keep_checking(self) -> None:
        while True:
            await asyncio.sleep(self._check_interval_s)
            await self.check()

    async def _check(self, replica: _Replica) -> None:
        verdict, reason = await ask_health(replica.backend)
        log = _log.bind(upstream=self._name, replica=replica.name)
        if verdict is Verdict.ILL:
            replica.ill_count += 1
            if replica.ill_count >= self._rules.after and replica.health.hold():
                log.warning("replica ejected", reason=reason)
            return
        replica.ill_count = 0
        replica.health.release(replica.outstanding)
        replica.says_draining = verdict is Verdict.DRAINING
        self._settle(replica)

    async def _look_up_drained(self) -> None:
        """Learn which replicas are to drain, if that can be had in time."""
        if self._listing is None:
            return
        drained = await self._listing.answer(CHECK_LIMIT_S)
        was_listed, self._is_listed = self._is_listed, drained is not None
        if drained is not None:
            self._drained = drained
            for replica in self._replicas.values():
                self._settle(replica)
        elif was_listed:
            reason = f"no answer within {CHECK_LIMIT_S:.0f} s"
            _log.warning("replicas to drain are unknown", upstream=self._name, reason=reason)

    def _settle(self, replica: _Replica) -> None:
        """Note whether a replica drains, as it says itself or as it was told."""
        is_drained = replica.name in self._drained
        is_draining = is_drained or replica.says_draining
        if is_draining != replica.is_draining:
            replica.is_draining = is_draining
            log = _log.bind(upstream=self._name, replica=replica.name)
            log.info("replica drains" if is_draining else "replica drains no longer")
