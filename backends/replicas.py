"""Several servers of the same model behind one name.

A session stays with one replica, so that its prefix cache is warm, and the choice needs no
memory: rendezvous hashing ("highest random weight", Thaler and Ravishankar, 1998) ranks the
replicas for each session, every proxy and worker alike, and a replica that joins or leaves moves
only its share. Health is judged by what requests meet; there are no background tasks.
"""

import asyncio
import enum
import hashlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping

import msgspec
import structlog

from backends.base import Backend, UpstreamReply, UpstreamRequest
from backends.errors import BackendError, BackendExited, BackendTimeout, BackendUnavailable

_PROBE_LIMIT_S = 3.0
_REMEMBERED_SESSIONS = 16384
_log = structlog.get_logger("dragoman")


class Ejection(msgspec.Struct, frozen=True):
    """When a replica is left out, and how it comes back.

    Attributes:
        after: Consecutive failures that eject a replica.
        backoff_s: How long for, at first; twice as long each time it fails on its return.
        longest_s: Longest back-off.
        returns_after: Replies after which a returning replica is a full member again.
    """

    after: int = 3
    backoff_s: float = 1.0
    longest_s: float = 60.0
    returns_after: int = 8


class Standing(enum.Enum):
    """Whether a replica takes part."""

    SERVING = "serving"
    EJECTED = "ejected"
    RETURNING = "returning"


class Health:
    """What the outcomes of requests say of one replica.

    SERVING becomes EJECTED by consecutive failures, EJECTED becomes RETURNING when the back-off
    is over, or when a request that was sent regardless is answered. A RETURNING replica first has
    room for one request more than it has open, and for one more with each reply; enough of them
    make it SERVING, any failure makes it EJECTED for longer.

    Attributes:
        epoch: Number of ejections. An outcome is told with the epoch at which its request was
            sent: what was sent before the last ejection says nothing new.
    """

    def __init__(self, rules: Ejection) -> None:
        """Start as SERVING."""
        self.epoch = 0
        self._rules = rules
        self._standing = Standing.SERVING
        self._failures = 0
        self._backoff_s = rules.backoff_s
        self._until_s = 0.0
        self._replies = 0
        self._room = 0

    def standing(self, outstanding: int, now_s: float) -> Standing:
        """The standing at a time, with so many requests open."""
        if self._standing is Standing.EJECTED and now_s >= self._until_s:
            self._return(outstanding)
        return self._standing

    def has_room(self, outstanding: int) -> bool:
        """Whether one request more may be sent now."""
        return self._standing is Standing.SERVING or outstanding < self._room

    def succeed(self, epoch: int, outstanding: int) -> bool:
        """Note a reply, of any status; whether the replica became a full member again."""
        if epoch != self.epoch:
            return False
        self._failures = 0
        if self._standing is Standing.EJECTED:
            self._return(outstanding)
        elif self._standing is Standing.RETURNING:
            self._room += 1
            self._replies += 1
            if self._replies >= self._rules.returns_after:
                self._standing = Standing.SERVING
                self._backoff_s = self._rules.backoff_s
                return True
        return False

    def fail(self, epoch: int, now_s: float) -> float | None:
        """Note a failure; the back-off in seconds if it ejects the replica."""
        if epoch != self.epoch or self._standing is Standing.EJECTED:
            return None
        self._failures += 1
        if self._standing is Standing.SERVING and self._failures < self._rules.after:
            return None
        backoff_s = self._backoff_s
        self.epoch += 1
        self._standing = Standing.EJECTED
        self._until_s = now_s + backoff_s
        self._backoff_s = min(2 * backoff_s, self._rules.longest_s)
        return backoff_s

    def _return(self, outstanding: int) -> None:
        self._standing = Standing.RETURNING
        self._failures = 0
        self._replies = 0
        self._room = outstanding + 1


class _Replica:
    """One backend of a set, and what is known of it."""

    def __init__(self, name: str, backend: Backend, rules: Ejection) -> None:
        self.name = name
        self.backend = backend
        self.health = Health(rules)
        self.outstanding = 0
        self.is_draining = False
        self._hash = hashlib.blake2b(name.encode() + b"\0", digest_size=8)
        self._sessions: OrderedDict[int, None] = OrderedDict()

    def weight(self, session: bytes) -> int:
        """Rank of the replica for a session: the highest of all replicas wins."""
        state = self._hash.copy()
        state.update(session)
        return int.from_bytes(state.digest(), "big")

    def remember(self, weight: int) -> None:
        """Note that a session, known by its weight, is here; old ones are forgotten."""
        self._sessions[weight] = None
        self._sessions.move_to_end(weight)
        if len(self._sessions) > _REMEMBERED_SESSIONS:
            self._sessions.popitem(last=False)

    def preference(self, weight: int | None, now_s: float) -> int:
        """0 if a request should come here, 1 if only for want of better, 2 if as a last resort."""
        if self.health.standing(self.outstanding, now_s) is Standing.EJECTED:
            return 2
        is_welcome = not self.is_draining or weight in self._sessions
        return 0 if is_welcome and self.health.has_room(self.outstanding) else 1


class _CountedReply:
    """A reply that is outstanding until it is closed."""

    def __init__(self, reply: UpstreamReply, replica: _Replica) -> None:
        self._reply = reply
        self._replica: _Replica | None = replica

    @property
    def status(self) -> int:
        return self._reply.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._reply.headers

    def chunks(self) -> AsyncIterator[bytes]:
        return self._reply.chunks()

    async def aclose(self) -> None:
        if self._replica is not None:
            self._replica.outstanding -= 1
            self._replica = None
        await self._reply.aclose()


class ReplicaSet:
    """Several backends that serve the same; see the module.

    A request of a session goes to the first replica in the session's order that is fit for it,
    one without a session to the replica with the fewest requests open. Where a connection is
    refused, so that nothing was sent, the next replica is tried, once. If none is fit, the first
    is tried all the same: what the caller then hears of is the real trouble.
    """

    def __init__(
        self,
        name: str,
        replicas: Mapping[str, Backend],
        *,
        ejection: Ejection | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a set that owns its replicas.

        Args:
            name: The upstream's name.
            replicas: At least one, by the name that is hashed: proxies that should agree have to
                use the same names, in any order.
            ejection: When a replica is left out.
            clock: Monotonic time in seconds.
        """
        rules = ejection or Ejection()
        self._name = name
        self._replicas = {key: _Replica(key, b, rules) for key, b in replicas.items()}
        self._clock = clock
        self._turn = 0
        self._silent: set[str] = set()

    @property
    def name(self) -> str:
        """Name of the upstream."""
        return self._name

    @property
    def wants_session(self) -> bool:
        """Whether it matters to which session a request belongs."""
        return len(self._replicas) > 1

    def set_draining(self, replica: str, is_draining: bool) -> None:
        """Say whether a replica takes no new sessions, but keeps those of which it has answered.

        It keeps the 16384 most recent ones. New sessions go to it all the same if no other
        replica is fit.

        Raises:
            KeyError: There is no replica of that name.
        """
        self._replicas[replica].is_draining = is_draining

    async def start(self) -> None:
        """Start all replicas."""
        for replica in self._replicas.values():
            await replica.backend.start()

    async def send(self, request: UpstreamRequest) -> UpstreamReply:
        """Send a request to the replica that it belongs to; see ``Backend.send``.

        Raises:
            BackendError: The replica gave no reply, or neither of two accepted a connection.
        """
        (replica, weight), *others = self._rank(request.session)
        try:
            return await self._send(replica, weight, request)
        except BackendUnavailable:
            if not others:
                raise
        replica, weight = others[0]
        return await self._send(replica, weight, request)

    async def probe(self) -> None:
        """Ask all replicas whether they answer; one is enough. Those that do not are logged.

        Raises:
            BackendUnavailable: None answers; the message counts the replicas from 1.
        """
        replicas = self._replicas.values()
        reasons = await asyncio.gather(*(_why_not(replica.backend) for replica in replicas))
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
        self._silent = set(silent)
        if len(silent) == len(self._replicas):
            numbered = (f"replica {i}: {reason}" for i, reason in enumerate(silent.values(), 1))
            raise BackendUnavailable("; ".join(numbered), backend=self._name)

    async def aclose(self) -> None:
        """Close all replicas."""
        await asyncio.gather(*(replica.backend.aclose() for replica in self._replicas.values()))

    def _rank(self, session: str | None) -> list[tuple[_Replica, int | None]]:
        """The replicas in the order in which to try them, each with its weight for the session."""
        ranked: list[tuple[_Replica, int | None]]
        if session is None:
            # The sort is stable, so that replicas with as many requests open take turns.
            replicas = list(self._replicas.values())
            self._turn = (self._turn + 1) % len(replicas)
            replicas = replicas[self._turn :] + replicas[: self._turn]
            replicas.sort(key=lambda replica: replica.outstanding)
            ranked = [(replica, None) for replica in replicas]
        else:
            key = session.encode()
            weighed = [(replica, replica.weight(key)) for replica in self._replicas.values()]
            weighed.sort(key=lambda pair: pair[1], reverse=True)
            ranked = [*weighed]
        now_s = self._clock()
        ranked.sort(key=lambda pair: pair[0].preference(pair[1], now_s))
        return ranked

    async def _send(
        self, replica: _Replica, weight: int | None, request: UpstreamRequest
    ) -> UpstreamReply:
        """Send a request to one replica and note the outcome; being cancelled is none."""
        epoch = replica.health.epoch
        replica.outstanding += 1
        try:
            reply = await replica.backend.send(request)
        except BaseException as error:
            replica.outstanding -= 1
            if isinstance(error, BackendUnavailable | BackendTimeout | BackendExited):
                self._note_failure(replica, epoch, error)
            raise
        if replica.health.succeed(epoch, replica.outstanding):
            _log.info("replica has returned", upstream=self._name, replica=replica.name)
        if weight is not None:
            replica.remember(weight)
        return _CountedReply(reply, replica)

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


async def _why_not(backend: Backend) -> str | None:
    """Why a backend does not answer, ``None`` if it does."""
    try:
        async with asyncio.timeout(_PROBE_LIMIT_S):
            await backend.probe()
    except BackendError as error:
        return str(error)
    except TimeoutError:
        return f"It does not answer within {_PROBE_LIMIT_S:.0f} s."
    return None
