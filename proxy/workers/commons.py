"""The owner's side of what workers share: places at servers, and spawned vLLMs.

A worker takes a free place by itself, from the tally. While none is free, requests wait in the
owner's queue, whose turns go round the callers of all workers. What a worker had is free as soon as
the kernel closes its end of the channel.
"""

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from backends.errors import BackendError, BackendQueueFull, BackendQueueTimeout
from backends.turns import FairTurns, Ticket
from backends.vllm import VllmBackend
from backends.vllm_server import VllmServer
from proxy.parts import OwnParts
from proxy.settings import Settings
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

_read: Final = msgspec.msgpack.Decoder(FromWorker).decode


class Commons:
    """What all workers share."""

    def __init__(self, parts: OwnParts, tallies: Tallies) -> None:
        """Share these parts, whose places are counted in ``tallies``."""
        self.parts = parts
        self._tallies = tallies
        self._attendants: set[Attendant] = set()
        for name, vllm in parts.vllms.items():
            vllm.listen(partial(self._tell_condition, name))

    async def attend(self, number: int, sock: socket.socket, settings: Settings) -> "Attendant":
        """Serve a worker on this socket, which gets the settings before all else."""
        attendant = Attendant(self, number)
        await attendant.begin(sock, settings)
        self._attendants.add(attendant)
        for name, vllm in self.parts.vllms.items():
            attendant.tell(_condition_of(name, vllm))
        return attendant

    def leave(self, attendant: "Attendant") -> None:
        """Tell a worker nothing more."""
        self._attendants.discard(attendant)

    def free(self, number: int) -> None:
        """Give places that a worker took by itself to others, since it has ended."""
        self._tallies.clear(1 + number)
        for turns in self.parts.places.values():
            turns.call()

    def _tell_condition(self, name: str) -> None:
        for attendant in self._attendants:
            attendant.tell(_condition_of(name, self.parts.vllms[name]))


class Attendant:
    """Answers one worker, and takes back what it held when it is gone."""

    def __init__(self, commons: Commons, number: int) -> None:
        """Answer the worker of this number from ``commons``."""
        self._commons = commons
        self._number = number
        self._is_lost = False
        self._channel = Channel(_read, self._receive, self._lose)
        self._ends: dict[int, Callable[[], object]] = {}  # of the calls that are open
        self._loads: dict[str, Load] = {}

    async def begin(self, sock: socket.socket, settings: Settings) -> None:
        """Send the settings, and listen."""
        await self._channel.connect(sock)
        self._channel.send(settings)

    def tell(self, message: FromOwner) -> None:
        """Send a message."""
        self._channel.send(message)

    def close(self) -> None:
        """End the connection; what the worker had is free now. May be called again."""
        self._lose()
        self._channel.close()

    def _receive(self, message: FromWorker) -> None:
        match message:
            case Enter():
                self._enter(message)
            case Free():
                self._commons.parts.places[message.turns].call()
            case End():
                if (end := self._ends.pop(message.call, None)) is not None:
                    end()
            case Ask():
                self._ends[message.call] = asyncio.create_task(self._answer(message)).cancel
            case Load():
                self._count(message)

    def _lose(self) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        self._commons.leave(self)
        for end in self._ends.values():
            end()
        self._ends.clear()
        self._commons.free(self._number)
        for load in list(self._loads.values()):
            self._count(msgspec.structs.replace(load, open=0))

    def _enter(self, message: Enter) -> None:
        turns = self._commons.parts.places[message.turns]
        place = turns.take()
        if place is not None:
            self._ends[message.call] = place.leave
            self.tell(Entered(message.call, place.queued_s))
            return
        try:
            ticket = turns.join(message.caller, message.session)
        except BackendQueueFull as error:
            self._fail(message.call, error)
            return
        waiting = asyncio.create_task(self._wait(turns, ticket, message.call))

        def end() -> None:
            waiting.cancel()
            turns.resign(ticket)

        self._ends[message.call] = end

    async def _wait(self, turns: FairTurns, ticket: Ticket, call: int) -> None:
        try:
            queued_s = await turns.wait(ticket)
        except BackendQueueTimeout as error:
            self._fail(call, error)
        else:
            self.tell(Entered(call, queued_s))

    async def _answer(self, ask: Ask) -> None:
        try:
            address = await _answer(self._commons.parts.vllms[ask.vllm], ask)
        except BackendError as error:
            self._fail(ask.call, error)
        except Exception:  # a fault of ours; callers must not wait for ever
            what = "An unexpected error happened in the proxy."
            self._fail(ask.call, BackendError(what, backend=ask.vllm))
            raise
        else:
            del self._ends[ask.call]
            self.tell(Told(ask.call, address))

    def _fail(self, call: int, error: BackendError) -> None:
        self._ends.pop(call, None)
        self.tell(Failed(call, Fault.of(error)))

    def _count(self, load: Load) -> None:
        """Add what a worker has under way to what others have."""
        server = self._commons.parts.vllms[load.vllm].launched(load.number)
        if server.number != load.number:
            return  # it ended long ago
        before = self._loads.get(load.vllm)
        if before is None or before.number != load.number:
            before = Load(load.vllm, load.number, 0, 0)
        server.traffic.open += load.open - before.open
        server.traffic.heard += load.heard - before.heard
        self._loads[load.vllm] = load


async def _answer(vllm: VllmBackend, ask: Ask) -> Address | None:
    """The server that is an answer, or none.

    Raises:
        BackendError: The answer is an error.
    """
    if ask.question is Question.READY:
        return _address_of(await vllm.ready())
    if ask.question is Question.PROBE:
        await vllm.probe()
        return None
    server = vllm.launched(ask.number)
    if ask.question is Question.CHECK_SURVIVAL:
        await vllm.check_survival(server)
        return None
    assert ask.fault is not None
    error = ask.fault.error()
    if ask.question is Question.WHY_BROKEN:
        raise await vllm.why_broken(server, error)
    return _address_of(await vllm.after(server, error))


def _address_of(server: VllmServer) -> Address:
    return Address(server.number, server.launch.origin, server.launch.api_key)


def _condition_of(name: str, vllm: VllmBackend) -> Condition:
    address = None if vllm.server is None else _address_of(vllm.server)
    return Condition(name, vllm.state, address, vllm.served_model, vllm.version)
