"""What workers share with their owner, on channels in the test's own event loop."""

import asyncio
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from backends.base import UpstreamRequest
from backends.errors import (
    BackendConnectTimeout,
    BackendError,
    BackendQueueFull,
    BackendQueueTimeout,
    BackendUnavailable,
)
from backends.limits import LimitedBackend
from backends.replicas import ReplicaSet
from backends.stall import EngineStalled
from backends.turns import FairTurns, Limit, Place, Turns
from proxy.parts import OwnParts
from proxy.settings import Settings, Upstream
from proxy.upstreams import build_upstreams
from proxy.workers.channel import Channel, frame, receive_first
from proxy.workers.commons import Attendant, Commons
from proxy.workers.link import Link
from proxy.workers.messages import End, Entered, Fault, FromWorker
from proxy.workers.tally import OWNER, Tallies
from tests.backends.processes import until
from tests.backends.test_limits import FakeBackend

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is one worker only")


WORKERS = 3


class Worker:
    """A link to an owner, without the process around it."""

    def __init__(self, link: Link, sock: socket.socket, attendant: Attendant) -> None:
        self.link = link
        self.attendant = attendant
        self._sock = sock

    def die(self) -> None:
        """Close its end of the channel, as the kernel does."""
        self._sock.shutdown(socket.SHUT_RDWR)


class Owner:
    """An owner with one limited server, and its workers."""

    def __init__(self, limit: Limit) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        tallies = Tallies(self._file.fileno(), 1 + WORKERS, OWNER)
        self.parts = OwnParts(tallies.count)
        self.parts.turns("a", "a", limit)
        self._tally = Tallies(self._file.fileno(), 1 + WORKERS, OWNER).count(limit)
        self._commons = Commons(self.parts, tallies)
        self._limit = limit
        self._workers: list[Worker] = []

    @property
    def waiting(self) -> int:
        """How many wait in its queue."""
        return self._tally.waiting

    def take(self) -> bool:
        """Take a place as the owner does for others."""
        return self._tally.take()

    async def worker(self, lost: Callable[[], None] = lambda: None) -> tuple[Turns, Worker]:
        """A worker more, and its access to the places."""
        number = len(self._workers)
        link = Link(Tallies(self._file.fileno(), 1 + WORKERS, 1 + number))
        turns = link.turns("a", "a", self._limit)
        worker = await connected(number, link, self._commons, lost)
        self._workers.append(worker)
        return turns, worker

    def close(self) -> None:
        for worker in self._workers:
            worker.attendant.close()
        self._file.close()


async def connected(number: int, link: Link, commons: Commons, lost: Callable[[], None]) -> Worker:
    ours, theirs = socket.socketpair()
    attendant = await commons.attend(number, ours, Settings())
    first = await asyncio.to_thread(receive_first, theirs)
    assert msgspec.msgpack.decode(first, type=Settings) == Settings()
    await link.open(theirs, lost)
    return Worker(link, theirs, attendant)


@pytest.fixture
async def owner_of() -> AsyncIterator[Callable[[Limit], Owner]]:
    owners: list[Owner] = []

    def make(limit: Limit) -> Owner:
        owners.append(Owner(limit))
        return owners[-1]

    yield make
    for owner in owners:
        owner.close()
    await asyncio.sleep(0)


class Asker:
    """Asks for places and notes in which order they came."""

    def __init__(self, owner: Owner) -> None:
        self.names: list[str] = []
        self.places: list[Place] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._owner = owner

    async def ask(self, turns: Turns, name: str, caller: str = "", session: str = "") -> None:
        """Ask, until the owner has the question."""

        async def enter() -> None:
            place = await turns.enter(caller, session)
            self.names.append(name)
            self.places.append(place)

        waiting = self._owner.waiting
        self.tasks.append(asyncio.create_task(enter()))
        await until(lambda: self._owner.waiting > waiting or self.tasks[-1].done())

    async def serve(self) -> list[str]:
        """Leave place after place; the names whose turns came by it."""
        before = len(self.names)
        while self.places:
            self.places.pop(0).leave()
            if self._owner.waiting:
                await until(lambda: len(self.places) > 0)
        return self.names[before:]


OwnerOf = Callable[[Limit], Owner]


async def test_places_are_counted_over_all_workers(owner_of: OwnerOf) -> None:
    """One may have them all; the next comes from the other."""
    owner = owner_of(Limit(2))
    one, _ = await owner.worker()
    other, _ = await owner.worker()
    first, second = await one.enter("", ""), await one.enter("", "")
    assert (first.queued_s, second.queued_s) == (0.0, 0.0)
    waiting = asyncio.create_task(other.enter("", ""))
    await until(lambda: owner.waiting == 1)
    assert not waiting.done()
    second.leave()
    assert (await waiting).queued_s > 0


async def test_turns_go_round_the_callers_of_all_workers(owner_of: OwnerOf) -> None:
    owner = owner_of(Limit(1))
    one, _ = await owner.worker()
    other, _ = await owner.worker()
    asker = Asker(owner)
    await asker.ask(one, "first", "many")
    for number in range(5):
        await asker.ask(one, f"many {number}", "many", f"session {number}")
    await asker.ask(other, "single", "one")
    await asker.ask(other, "many too", "many", "session 0")
    assert await asker.serve() == [
        *["many 0", "single", "many 1", "many 2", "many 3", "many 4", "many too"]
    ]


@pytest.mark.parametrize("is_waiting", [True, False])
async def test_what_a_worker_had_is_free_when_it_is_gone(
    is_waiting: bool, owner_of: OwnerOf
) -> None:
    """Its places, and its places in the queue."""
    owner = owner_of(Limit(1, waiting=1))
    one, worker = await owner.worker()
    other, _ = await owner.worker()
    asker = Asker(owner)
    await asker.ask(other if is_waiting else one, "first")
    if is_waiting:
        await asker.ask(one, "lost")
        await until(lambda: other.is_full)
        worker.die()
        await until(lambda: not other.is_full)
        asker.places.pop().leave()
    else:
        worker.die()
    assert (await other.enter("", "")) is not None
    for task in asker.tasks[1:]:
        with pytest.raises(BackendUnavailable, match="shutting down"):
            await task


async def test_only_what_a_dead_worker_had_is_free(owner_of: OwnerOf) -> None:
    """Whether it took its place by itself or in turn."""
    owner = owner_of(Limit(3))
    one, worker = await owner.worker()
    other, _ = await owner.worker()
    lasting = await other.enter("", "")
    first = await other.enter("", "")
    await one.enter("", "")
    in_turn = asyncio.create_task(one.enter("", ""))
    await until(lambda: owner.waiting == 1)
    first.leave()
    await in_turn
    waiting = [asyncio.create_task(other.enter("", "")) for _ in range(3)]
    await until(lambda: owner.waiting == 3)
    worker.die()
    await asyncio.gather(*waiting[:2])
    assert owner.waiting == 1
    lasting.leave()
    await waiting[2]


async def test_who_stops_waiting_takes_no_turn(owner_of: OwnerOf) -> None:
    owner = owner_of(Limit(1))
    turns, _ = await owner.worker()
    asker = Asker(owner)
    for name in ("first", "leaves", "stays"):
        await asker.ask(turns, name)
    asker.tasks[1].cancel()
    await until(lambda: owner.waiting == 1)
    assert await asker.serve() == ["stays"]


async def test_place_that_comes_too_late_is_left(owner_of: OwnerOf) -> None:
    """Its word is on its way when the caller goes."""
    owner = owner_of(Limit(1))
    turns, _ = await owner.worker()
    asker = Asker(owner)
    await asker.ask(turns, "first")
    await asker.ask(turns, "leaves")
    asker.places.pop().leave()
    while owner.waiting:  # noqa: ASYNC110 - not a moment longer
        await asyncio.sleep(0)
    asker.tasks[1].cancel()
    assert (await turns.enter("", "")) is not None
    assert asker.names == ["first"]


async def test_call_that_ends_before_it_is_heard(owner_of: OwnerOf) -> None:
    """Both words come to the owner at once."""
    owner = owner_of(Limit(1))
    turns, _ = await owner.worker()
    first = await turns.enter("", "")
    brief = asyncio.create_task(turns.enter("", ""))
    await asyncio.sleep(0)
    brief.cancel()
    last = asyncio.create_task(turns.enter("", ""))
    await until(lambda: owner.waiting == 1)
    first.leave()
    assert (await last).queued_s > 0


async def test_full_queue_refuses_and_all_workers_know(owner_of: OwnerOf) -> None:
    owner = owner_of(Limit(1, waiting=0))
    one, _ = await owner.worker()
    other, _ = await owner.worker()
    place = await one.enter("", "")
    await until(lambda: other.is_full and one.is_full)
    late, _ = await owner.worker()
    await until(lambda: late.is_full)
    with pytest.raises(BackendQueueFull, match="1 requests are open and 0 wait") as caught:
        await other.enter("", "")
    assert (caught.value.backend, caught.value.retry_after_s) == ("a", 5)
    place.leave()
    await until(lambda: not (one.is_full or other.is_full or late.is_full))


async def test_waiting_has_an_end(owner_of: OwnerOf) -> None:
    owner = owner_of(Limit(1, wait_s=0.01))
    turns, _ = await owner.worker()
    first = await turns.enter("", "")
    with pytest.raises(BackendQueueTimeout, match=r"0\.01 s went by"):
        await turns.enter("", "")
    first.leave()
    assert (await turns.enter("", "")) is not None


async def test_who_finds_a_replica_full_too_late_goes_to_the_next(owner_of: OwnerOf) -> None:
    """Word of it may be on its way; nothing was sent."""

    class Stale:
        is_full = False

        def __init__(self, turns: Turns) -> None:
            self.enter = turns.enter

    owner = owner_of(Limit(1, waiting=0))
    turns, _ = await owner.worker()
    backends = [FakeBackend(), FakeBackend()]
    limited = [
        LimitedBackend(backends[0], Stale(turns)),
        LimitedBackend(backends[1], FairTurns("main", Limit(9))),
    ]
    replicas = ReplicaSet("main", {"one": limited[0], "other": limited[1]})
    await turns.enter("", "")
    for _ in range(4):
        await replicas.send(UpstreamRequest("POST", "/x"))
    assert (len(backends[0].asked), len(backends[1].asked)) == (0, 4)


async def test_without_its_owner_a_worker_gives_up(owner_of: OwnerOf) -> None:
    """Who waits is told, and who comes then."""
    owner = owner_of(Limit(1))
    orphaned = asyncio.Event()
    turns, worker = await owner.worker(orphaned.set)
    await turns.enter("", "")
    waiting = asyncio.create_task(turns.enter("", ""))
    await until(lambda: owner.waiting == 1)
    worker.attendant.close()
    await orphaned.wait()
    assert owner.take()
    for call in (waiting, turns.enter("", "")):
        with pytest.raises(BackendUnavailable, match="shutting down") as caught:
            await call
        assert caught.value.backend == "a"
    assert owner.waiting == 0


def test_workers_have_the_owners_keys() -> None:
    """Each replica has a limit of its own, and so have upstreams with the same server."""
    urls = ["http://a/v1/", "http://b/v1"]
    settings = Settings(
        upstreams={
            "many": Upstream(urls=urls, max_concurrent=1),
            "one": Upstream(url="http://a/v1", max_concurrent=1),
            "free": Upstream(url="http://a/v1"),
        }
    )
    parts = OwnParts()
    build_upstreams(settings, parts)
    assert list(parts.places) == ["many http://a/v1", "many http://b/v1", "one"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BackendQueueFull("full", backend="b", retry_after_s=5), BackendQueueFull),
        (BackendConnectTimeout("late", backend="b"), BackendConnectTimeout),
        (EngineStalled("stalled", backend="b"), BackendUnavailable),
        (BackendError("?", backend="b"), BackendError),
    ],
)
def test_errors_pass_a_channel(error: BackendError, kind: type[BackendError]) -> None:
    again = Fault.of(error).error()
    assert type(again) is kind
    assert (str(again), again.backend, again.retry_after_s) == (
        *(str(error), error.backend, error.retry_after_s),
    )


@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_messages_pass_a_channel_however_they_are_cut(size: int) -> None:
    received: list[FromWorker] = []
    read = msgspec.msgpack.Decoder(FromWorker).decode
    channel = Channel(read, received.append, lambda: None)
    sent = [End(number) for number in (1, 70_000, 3)]
    data = b"".join(map(frame, sent))
    for at in range(0, len(data), size):
        channel.data_received(data[at : at + size])
    assert received == sent


def test_first_message_is_read_and_not_a_byte_more() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(frame(Entered(1, 0.5)) + b"rest")
        assert msgspec.msgpack.decode(receive_first(theirs), type=Entered) == Entered(1, 0.5)
        assert theirs.recv(10) == b"rest"
        ours.sendall(b"\0\0")
        ours.close()
        with pytest.raises(EOFError):
            receive_first(theirs)
