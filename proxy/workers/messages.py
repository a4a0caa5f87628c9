"""What workers and their owner say to each other.

A call is a question of a worker that has one answer; it may hold a place until the worker ends it.
"""

import enum
from typing import Final

import msgspec

from backends.errors import (
    BackendBrokeOff,
    BackendConnectTimeout,
    BackendError,
    BackendExited,
    BackendQueueFull,
    BackendQueueTimeout,
    BackendTimeout,
    BackendUnavailable,
    BackendURLRefused,
)
from backends.process import State


class _Message(msgspec.Struct, array_like=True, tag=True, gc=False):
    """One message."""


class Address(msgspec.Struct, frozen=True, array_like=True):
    """Where a spawned vLLM is reached, and which of its launches that is."""

    number: int
    origin: str
    api_key: str


class Fault(msgspec.Struct, frozen=True, array_like=True):
    """A ``BackendError`` on its way."""

    kind: str
    message: str
    backend: str
    retry_after_s: int | None

    @classmethod
    def of(cls, error: BackendError) -> "Fault":
        """What says all that callers are told of an error."""
        kind = next(base.__name__ for base in type(error).__mro__ if base.__name__ in _KINDS)
        return cls(kind, str(error), error.backend, error.retry_after_s)

    def error(self) -> BackendError:
        """The error again."""
        kind = _KINDS[self.kind]
        return kind(self.message, backend=self.backend, retry_after_s=self.retry_after_s)


_KINDS: Final = {
    kind.__name__: kind
    for kind in (
        *(BackendError, BackendUnavailable, BackendExited, BackendTimeout, BackendConnectTimeout),
        *(BackendQueueFull, BackendQueueTimeout, BackendURLRefused, BackendBrokeOff),
    )
}


class Question(enum.Enum):
    """What is asked about a spawned vLLM: the methods of ``SpawnedVllm`` that may fail or wait."""

    READY = "ready"
    AFTER = "after"
    WHY_BROKEN = "why_broken"
    CHECK_SURVIVAL = "check_survival"
    PROBE = "probe"


class Enter(_Message):
    """A worker asks for a place at a server, since none is free; it is held until the call ends."""

    call: int
    turns: str
    caller: str
    session: str


class Free(_Message):
    """A worker gave back a place that it took by itself, and others wait."""

    turns: str


class Ask(_Message):
    """A worker asks about a vLLM, or about its launch ``number``, where it met ``fault``."""

    call: int
    vllm: str
    question: Question
    number: int = 0
    fault: Fault | None = None


class End(_Message):
    """A worker's call is over: its answer is not waited for any more, its place is left."""

    call: int


class Load(_Message):
    """What a worker has under way at a launch of a vLLM; see ``backends.traffic.Traffic``."""

    vllm: str
    number: int
    open: int
    heard: int


class Entered(_Message):
    """The place is there."""

    call: int
    queued_s: float


class Told(_Message):
    """The answer to a question that has a server for an answer, or none."""

    call: int
    address: Address | None


class Failed(_Message):
    """The answer to a call is an error."""

    call: int
    fault: Fault


class Condition(_Message):
    """How a vLLM is; the address is there while it is ready."""

    vllm: str
    state: State
    address: Address | None
    model: str | None
    version: str | None


FromWorker = Enter | Free | Ask | End | Load
FromOwner = Entered | Told | Failed | Condition
