"""Whether a replica takes part: what requests meet, and what it says of its health."""

import asyncio
import enum
import math

import msgspec

from backends.base import Backend, UpstreamRequest
from backends.errors import BackendError

CHECK_LIMIT_S = 3.0
"""Longest wait for an answer about health, in seconds."""


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
        is_steady: Whether it is SERVING without a failure, which a reply cannot change.
    """

    def __init__(self, rules: Ejection) -> None:
        """Start as SERVING."""
        self.epoch = 0
        self.is_steady = True
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
        if self._standing is Standing.SERVING:
            self.is_steady = True
        elif self._standing is Standing.EJECTED:
            self._return(outstanding)
        else:
            self._room += 1
            self._replies += 1
            if self._replies >= self._rules.returns_after:
                self._standing = Standing.SERVING
                self._backoff_s = self._rules.backoff_s
                self.is_steady = True
                return True
        return False

    def fail(self, epoch: int, now_s: float) -> float | None:
        """Note a failure; the back-off in seconds if it ejects the replica."""
        if epoch != self.epoch or self._standing is Standing.EJECTED:
            return None
        self._failures += 1
        self.is_steady = False
        if self._standing is Standing.SERVING and self._failures < self._rules.after:
            return None
        backoff_s = self._backoff_s
        self.epoch += 1
        self._standing = Standing.EJECTED
        self._until_s = now_s + backoff_s
        self._backoff_s = min(2 * backoff_s, self._rules.longest_s)
        return backoff_s

    def hold(self) -> bool:
        """Eject it until it is released; whether that is new."""
        if self._standing is Standing.EJECTED and self._until_s == math.inf:
            return False
        self.epoch += 1
        self.is_steady = False
        self._standing = Standing.EJECTED
        self._until_s = math.inf
        return True

    def release(self, outstanding: int) -> None:
        """Let it return if it was held."""
        if self._standing is Standing.EJECTED and self._until_s == math.inf:
            self._return(outstanding)

    def _return(self, outstanding: int) -> None:
        self._standing = Standing.RETURNING
        self._failures = 0
        self._replies = 0
        self._room = outstanding + 1


class Verdict(enum.Enum):
    """What a server says of its health."""

    WELL = "well"
    DRAINING = "draining"
    ILL = "ill"


async def why_silent(backend: Backend, limit_s: float) -> str | None:
    """Why a backend does not answer in time, ``None`` if it does."""
    try:
        async with asyncio.timeout(limit_s):
            await backend.probe()
    except BackendError as error:
        return str(error)
    except TimeoutError:
        return f"It does not answer within {limit_s:.0f} s."
    return None


async def ask_health(backend: Backend) -> tuple[Verdict, str]:
    """Ask a server for its ``/health``; the verdict, and why it is not WELL.

    Status 503 is DRAINING, as load balancers read it: what is there may end, nothing new should
    come. Servers that know no such path are WELL because they answer. Other server errors, and no
    answer within ``CHECK_LIMIT_S``, are ILL.
    """
    try:
        async with asyncio.timeout(CHECK_LIMIT_S):
            reply = await backend.send(UpstreamRequest("GET", "/health", is_at_root=True))
            await reply.aclose()
    except BackendError as error:
        return Verdict.ILL, str(error)
    except TimeoutError:
        return Verdict.ILL, f"It does not answer within {CHECK_LIMIT_S:.0f} s."
    reason = f"GET /health gave status {reply.status}"
    if reply.status == 503:
        return Verdict.DRAINING, reason
    return (Verdict.ILL if reply.status >= 500 else Verdict.WELL), reason
