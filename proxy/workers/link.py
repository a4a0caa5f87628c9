"""A worker's side of what workers share: it asks the owner."""

import asyncio
import itertools
import socket
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from backends.base import Backend, BackendReply, UpstreamRequest
from backends.errors import BackendError, BackendUnavailable
from backends.process import State
from backends.spawned import SpawnedVllm
from backends.traffic import Explain, Traffic
from backends.turns import Count, Limit, Place, Turns
from backends.vllm_server import Connect
from proxy import settings as config
from proxy.workers.channel import Channel
from proxy.workers.messages import (
    Address,
    Ask,
    Condition,
    End,
    Enter,
    Entered,
    Failed,
    Fault,
    Free,
    FromOwner,
    FromWorker,
    Load,
    Question,
    Told,
)
from proxy.workers.tally import Tallies

_TELL_LOAD_S: Final = 1.0

_read: Final = msgspec.msgpack.Decoder(FromOwner).decode


class Link:
    """The way to the owner; the ``Parts`` of a worker, which the owner has."""

    def __init__(self, tallies: Tallies) -> None:
        """Make a way that is not open yet; places are counted in ``tallies``."""
        self._tallies = tallies
        self._channel: Channel[FromOwner] | None = None
        self._numbers = itertools.count()
        self._calls: dict[int, asyncio.Future[Entered | Told | Failed | None]] = {}
        self._vllms: dict[str, SharedVllm] = {}

    async def open(self, sock: socket.socket, lost: Callable[[], None]) -> None:
        """Connect, once all parts are made; ``lost`` is called when the owner is gone."""

        def lose() -> None:
            self._channel = None
            for number in self._calls:
                self._settle(number, None)
            lost()

        self._channel = Channel(_read, self._receive, lose)
        await self._channel.connect(sock)

    def turns(self, key: str, name: str, limit: Limit) -> Turns:
        """Places that all processes count together, and whose queue the owner has."""
        return SharedTurns(self, key, name, limit, self._tallies.count(limit))

    def vllm(self, name: str, vllm: config.VLLM, connect: Connect) -> Backend:
        """A vLLM that the owner spawned."""
        return self._vllms.setdefault(name, SharedVllm(self, name, connect))

    def tell(self, message: FromWorker) -> None:
        """Send a message, if there is anybody to hear it."""
        if self._channel is not None:
            self._channel.send(message)

    async def call(self, make: Callable[[int], FromWorker], backend: str) -> Entered | Told:
        """Send a message that is made with the call's number, and wait for the answer.

        Cancelling the call ends it.

        Raises:
            BackendError: The answer is an error, or the owner is gone; ``backend`` is named then.
        """
        number = next(self._numbers)
        answer: asyncio.Future[Entered | Told | Failed | None]
        answer = self._calls[number] = asyncio.get_running_loop().create_future()
        if self._channel is None:
            answer.set_result(None)
        self.tell(make(number))
        try:
            told = await answer
        except asyncio.CancelledError:
            self.end(number)
            raise
        finally:
            del self._calls[number]
        if told is None:
            raise BackendUnavailable("The proxy is shutting down.", backend=backend)
        if isinstance(told, Failed):
            raise told.fault.error()
        return told

    def end(self, number: int) -> None:
        """End a call, and leave the place that it holds."""
        self.tell(End(number))

    def _receive(self, message: FromOwner) -> None:
        match message:
            case Condition():
                self._vllms[message.vllm].note(message)
            case _:
                self._settle(message.call, message)

    def _settle(self, number: int, answer: Entered | Told | Failed | None) -> None:
        call = self._calls.get(number)
        if call is not None and not call.done():
            call.set_result(answer)


class SharedTurns:
    """The places at a server; while none is free, the owner has the queue for them."""

    def __init__(self, link: Link, key: str, name: str, limit: Limit, count: Count) -> None:
        """Use the places that the owner knows by a key; ``name`` is the upstream's."""
        self._link = link
        self._key = key
        self._name = name
        self._limit = limit
        self._count = count
        self._at_once = Place(self._leave)

    @property
    def is_full(self) -> bool:
        """Whether one request more would be refused."""
        count, limit = self._count, self._limit
        return count.taken >= limit.open and count.waiting >= limit.waiting

    async def enter(self, caller: str, session: str) -> Place:
        """Take a place, now or when its turn has come; see ``Turns``.

        Raises:
            BackendQueueFull: Too many wait already.
            BackendQueueTimeout: Its turn did not come in time.
            BackendUnavailable: The owner is gone.
        """
        if self._count.take():
            return self._at_once
        entered = await self._link.call(
            lambda number: Enter(number, self._key, caller, session), self._name
        )
        assert isinstance(entered, Entered)
        return Place(partial(self._link.end, entered.call), entered.queued_s)

    def _leave(self) -> None:
        self._count.give()
        if self._count.waiting:
            self._link.tell(Free(self._key))


class SharedServer:
    """One launch of the owner's vLLM, as a worker reaches it."""

    def __init__(self, number: int, api: Backend) -> None:
        """Send to ``api``, which reaches the launch ``number``."""
        self.number = number
        self.api = api
        self.traffic = Traffic()

    async def send(self, request: UpstreamRequest, explain: Explain) -> BackendReply:
        """Send a request; ``explain`` makes errors of broken connections."""
        return await self.traffic.send(self.api.send, request, explain)


class SharedVllm(SpawnedVllm[SharedServer]):
    """A vLLM that the owner spawned and watches; requests go to it straight."""

    def __init__(self, link: Link, name: str, connect: Connect) -> None:
        """Ask the owner about the upstream ``name``; ``connect`` makes ways to it."""
        self._link = link
        self._name = name
        self._connect = connect
        self._condition = Condition(name, State.NEW, None, None, None)
        self._server: SharedServer | None = None
        self._telling: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The upstream's name in settings, logs and errors."""
        return self._name

    @property
    def state(self) -> State:
        """Where in its life vLLM is, by the owner's last word."""
        return self._condition.state

    @property
    def served_model(self) -> str | None:
        """The first model that vLLM lists; None before it is ready."""
        return self._condition.model

    @property
    def version(self) -> str | None:
        """What vLLM calls its version; None before it is ready."""
        return self._condition.version

    def note(self, condition: Condition) -> None:
        """Take the owner's word."""
        self._condition = condition

    async def start(self) -> None:
        """Begin to tell the owner what is under way here; vLLM is the owner's to start."""
        self._telling = asyncio.create_task(self._tell_load())

    async def ready(self) -> SharedServer:
        """The server, after a wait for its restart; see ``SpawnedVllm``.

        Raises:
            BackendError: It is not ready.
        """
        address = self._condition.address
        return self._server_at(address or await self._ask(Question.READY))

    async def after(self, server: SharedServer, error: BackendError) -> SharedServer:
        """The server that follows one which refuses connections; see ``SpawnedVllm``.

        Raises:
            BackendError: It is not waited for, or not ready in time.
        """
        return self._server_at(await self._ask(Question.AFTER, server, error))

    async def why_broken(self, server: SharedServer, error: BackendError) -> BackendError:
        """What to tell a caller of a refused or broken connection; see ``SpawnedVllm``."""
        try:
            await self._ask(Question.WHY_BROKEN, server, error)
        except BackendError as reason:
            return reason
        return error

    async def check_survival(self, server: SharedServer) -> None:
        """See whether the engine survived a request that failed.

        Raises:
            BackendExited: It did not.
        """
        await self._ask(Question.CHECK_SURVIVAL, server)

    async def probe(self) -> None:
        """Have the owner ask vLLM for its health and its models.

        Raises:
            BackendError: It is not ready, or does not answer well.
        """
        await self._ask(Question.PROBE)

    async def aclose(self) -> None:
        """Close connections; vLLM is the owner's to stop."""
        if self._telling is not None:
            self._telling.cancel()
        if self._server is not None:
            await self._server.api.aclose()

    async def _ask(
        self,
        question: Question,
        server: SharedServer | None = None,
        error: BackendError | None = None,
    ) -> Address | None:
        about = 0 if server is None else server.number
        fault = None if error is None else Fault.of(error)
        told = await self._link.call(
            lambda number: Ask(number, self._name, question, about, fault), self._name
        )
        assert isinstance(told, Told)
        return told.address

    def _server_at(self, address: Address | None) -> SharedServer:
        """The way to an address; connections to the launch before have ended with it."""
        assert address is not None
        if self._server is None or self._server.number != address.number:
            api = self._connect(f"{address.origin}/v1", address.api_key)
            self._server = SharedServer(address.number, api)
        return self._server

    async def _tell_load(self) -> None:
        last: Load | None = None
        while True:
            await asyncio.sleep(_TELL_LOAD_S)
            if self._server is not None:
                traffic = self._server.traffic
                load = Load(self._name, self._server.number, traffic.open, traffic.heard)
                if load != last:
                    last = load
                    self._link.tell(load)
