"""Limits: who waits, whose turn it is, and that no place is lost."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import httpx
import pytest

from backends.base import BackendReply, UpstreamReply, UpstreamRequest
from backends.errors import BackendQueueFull, BackendQueueTimeout, BackendUnavailable
from backends.held import Holder
from backends.limits import LimitedBackend
from backends.openai_compatible import HTTPReply
from backends.replicas import ReplicaSet
from backends.turns import FairQueue, FairTurns, Limit, Ticket
from tests.backends.test_held import BrokenStream


class FakeReply(Holder):
    """A reply of nothing."""

    status = 200
    headers: Mapping[str, str] = {"x-from": "fake"}

    def __init__(self) -> None:
        self.closed = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        yield b"piece"

    async def aclose(self) -> None:
        self.let_go()
        self.closed += 1


class FakeBackend:
    """Answers at once, or when its gate opens; notes the sessions it was asked by."""

    name = "main"

    def __init__(self) -> None:
        self.asked: list[str | None] = []
        self.calls: list[str] = []
        self.gate: asyncio.Event | None = None
        self.trouble: Exception | None = None
        self.make_reply: Callable[[], BackendReply] = FakeReply

    async def start(self) -> None:
        self.calls.append("start")

    async def send(self, request: UpstreamRequest) -> BackendReply:
        self.asked.append(request.session)
        if self.gate is not None:
            await self.gate.wait()
        if self.trouble is not None:
            raise self.trouble
        return self.make_reply()

    async def probe(self) -> None:
        self.calls.append("probe")

    async def aclose(self) -> None:
        self.calls.append("aclose")


class Bench:
    """A limited fake, and requests to it."""

    def __init__(self, limit: Limit) -> None:
        self.fake = FakeBackend()
        self.limited = LimitedBackend(self.fake, FairTurns("main", limit))
        self.open: list[UpstreamReply] = []
        self.tasks: list[asyncio.Task[None]] = []

    def is_full(self) -> bool:
        return self.limited.is_full

    async def send(self, session: str | None = None, caller: str | None = None) -> None:
        headers = [("accept", "*/*")]
        if caller is not None:
            headers.append(("authorization", caller))
        request = UpstreamRequest("POST", "/x", headers, session=session)
        self.open.append(await self.limited.send(request))

    async def begin(self, session: str | None = None, caller: str | None = None) -> None:
        """Send, as far as it goes without waiting."""
        self.tasks.append(asyncio.create_task(self.send(session, caller)))
        await settle()

    async def serve(self) -> list[str | None]:
        """Close reply after reply until none is open; the sessions that had their turn by it."""
        before = len(self.fake.asked)
        while self.open:
            await self.open.pop(0).aclose()
            await settle()
        return self.fake.asked[before:]


async def settle() -> None:
    """Let everybody do what can be done now."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_no_more_are_open_than_may_be() -> None:
    bench = Bench(Limit(2))
    for n in range(5):
        await bench.begin(f"s{n}")
    assert bench.fake.asked == ["s0", "s1"]
    await bench.open.pop(0).aclose()
    await settle()
    assert bench.fake.asked == ["s0", "s1", "s2"]
    assert await bench.serve() == ["s3", "s4"]
    assert all(task.done() for task in bench.tasks)


async def test_first_come_first_served_within_a_session() -> None:
    bench = Bench(Limit(1))
    await bench.send()
    for _ in range(3):
        await bench.begin("s", "a")
    for n in range(3):
        await bench.open.pop().aclose()
        await settle()
        assert [task.done() for task in bench.tasks] == [m <= n for m in range(3)]


async def test_one_callers_thousands_do_not_starve_anothers_single_request() -> None:
    bench = Bench(Limit(1))
    await bench.send("first")
    for n in range(5000):
        bench.tasks.append(asyncio.create_task(bench.send(f"rollout {n}", "Bearer many")))
    await settle()
    await bench.begin("single", "Bearer one")
    order = await bench.serve()
    assert order.index("single") == 1
    assert [name for name in order if name != "single"] == [f"rollout {n}" for n in range(5000)]


async def test_turns_go_round_callers_and_round_the_sessions_of_each() -> None:
    bench = Bench(Limit(1))
    await bench.send("first")
    for session, caller in [
        *[("a1", "a"), ("a1", "a"), ("a1", "a"), ("a2", "a")],
        *[("b1", "b"), ("b2", "b"), ("b1", "b")],
        *[("none", None), (None, None)],
    ]:
        await bench.begin(session, caller)
    assert await bench.serve() == [
        *["a1", "b1", "none"],
        *["a2", "b2", None],
        *["a1", "b1"],
        *["a1"],
    ]


async def test_caller_who_comes_again_is_last_in_the_round() -> None:
    bench = Bench(Limit(1))
    await bench.send("first")
    await bench.begin("a1", "a")
    await bench.begin("b1", "b")
    await bench.begin("b2", "b")
    await bench.open.pop().aclose()
    await settle()
    await bench.begin("a2", "a")
    assert await bench.serve() == ["b1", "a2", "b2"]


async def test_full_queue_refuses() -> None:
    bench = Bench(Limit(1, waiting=2))
    await bench.send()
    for _ in range(2):
        await bench.begin()
    assert bench.is_full()
    with pytest.raises(BackendQueueFull, match="1 requests are open and 2 wait") as caught:
        await bench.send()
    error = caught.value
    assert (error.status, error.code, error.retry_after_s) == (503, "queue_full", 5)
    await bench.serve()
    assert all(task.done() for task in bench.tasks)
    assert not bench.is_full()
    await bench.send()


async def test_without_a_queue_nobody_waits() -> None:
    bench = Bench(Limit(1, waiting=0))
    assert not bench.is_full()
    await bench.send()
    assert bench.is_full()
    with pytest.raises(BackendQueueFull):
        await bench.send()


async def test_waiting_has_an_end() -> None:
    bench = Bench(Limit(1, waiting=1, wait_s=0.01))
    await bench.send("first")
    with pytest.raises(BackendQueueTimeout, match=r"0\.01 s went by") as caught:
        await bench.send("late")
    error = caught.value
    assert (error.status, error.code, error.retry_after_s) == (503, "queue_timeout", 5)
    assert not bench.is_full(), "it does not count any more"
    assert await bench.serve() == []
    await bench.send("next")
    assert bench.fake.asked == ["first", "next"]


async def test_reply_knows_how_long_its_request_waited() -> None:
    """Also behind replicas, which hold it too."""
    now_s = [100.0]
    limited = LimitedBackend(FakeBackend(), FairTurns("main", Limit(1), clock=lambda: now_s[0]))
    replicas = ReplicaSet("main", {"one": limited})
    first = await replicas.send(UpstreamRequest("POST", "/x"))
    waiting = asyncio.create_task(replicas.send(UpstreamRequest("POST", "/x")))
    await settle()
    now_s[0] += 2.5
    await first.aclose()
    assert getattr(first, "queued_s", None) == 0.0
    assert getattr(await waiting, "queued_s", None) == 2.5


async def test_who_leaves_the_queue_takes_no_turn() -> None:
    bench = Bench(Limit(1))
    await bench.send("first")
    for name in ("a", "b", "c"):
        await bench.begin(name)
    bench.tasks[1].cancel()
    await settle()
    assert await bench.serve() == ["a", "c"]


async def test_who_leaves_as_its_turn_comes_passes_it_on() -> None:
    bench = Bench(Limit(1))
    await bench.send("first")
    for name in ("a", "b"):
        await bench.begin(name)
    await bench.open.pop().aclose()  # calls a, which has not run yet
    bench.tasks[0].cancel()
    await settle()
    assert bench.fake.asked == ["first", "b"]
    assert await bench.serve() == []
    await bench.send("next")


async def test_who_leaves_while_the_server_works_frees_its_place() -> None:
    bench = Bench(Limit(1))
    bench.fake.gate = asyncio.Event()
    await bench.begin("first")
    await bench.begin("second")
    bench.tasks[0].cancel()
    await settle()
    assert bench.fake.asked == ["first", "second"]


async def test_failure_frees_the_place() -> None:
    bench = Bench(Limit(1))
    bench.fake.trouble = BackendUnavailable("no", backend="main")
    for _ in range(3):
        with pytest.raises(BackendUnavailable):
            await bench.send()


async def test_reply_frees_its_place_once_however_often_it_is_closed() -> None:
    bench = Bench(Limit(1))
    await bench.send("first")
    reply = bench.open.pop()
    assert (reply.status, reply.headers) == (200, {"x-from": "fake"})
    assert [chunk async for chunk in reply.chunks()] == [b"piece"]
    for name in ("a", "b"):
        await bench.begin(name)
    await reply.aclose()
    await reply.aclose()
    await settle()
    assert bench.fake.asked == ["first", "a"]


async def test_reply_that_cannot_be_closed_frees_its_place_all_the_same() -> None:
    bench = Bench(Limit(1))
    bench.fake.make_reply = lambda: HTTPReply(httpx.Response(200, stream=BrokenStream()), "main")
    await bench.send("first")
    with pytest.raises(httpx.CloseError):
        await bench.open.pop().aclose()
    await bench.send("second")


async def test_only_posts_are_limited() -> None:
    """Health and models can be asked for while all places are taken."""
    bench = Bench(Limit(1, waiting=0))
    await bench.send()
    await (await bench.limited.send(UpstreamRequest("GET", "/models"))).aclose()
    await bench.limited.probe()
    await bench.limited.start()
    await bench.limited.aclose()
    assert bench.fake.calls == ["probe", "start", "aclose"]
    assert bench.limited.name == "main"
    with pytest.raises(BackendQueueFull):
        await bench.send()


def test_queue_counts_and_forgets() -> None:
    """Nothing stays of callers and sessions that have left."""
    queue = FairQueue()
    tickets = [Ticket(f"c{n % 3}", f"s{n % 5}") for n in range(30)]
    for ticket in tickets:
        queue.add(ticket)
    for ticket in tickets[::2]:
        queue.remove(ticket)
    with pytest.raises(KeyError):
        queue.remove(tickets[0])
    assert len(queue) == 15
    assert {queue.take() for _ in range(15)} == set(tickets[1::2])
    assert len(queue) == 0
    assert not queue._callers
