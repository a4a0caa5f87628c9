"""Replicas: who gets which request, who is left out, and how it comes back."""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from itertools import pairwise
from pathlib import Path

import pytest
import structlog

from backends import replicas as replicas_module
from backends.base import BackendReply, UpstreamReply, UpstreamRequest
from backends.drains import DrainFile
from backends.errors import (
    BackendBrokeOff,
    BackendConnectTimeout,
    BackendError,
    BackendExited,
    BackendTimeout,
    BackendUnavailable,
)
from backends.health import Ejection, Health, Standing
from backends.held import Holder
from backends.replicas import ReplicaSet
from tests.backends.processes import until

NAMES = ("http://a:8000/v1", "http://b:8000/v1", "http://c:8000/v1")


class FakeReply(Holder):
    """A reply of one piece."""

    def __init__(self, replica: str, status: int = 200) -> None:
        self.status = status
        self.headers: Mapping[str, str] = {"x-from": replica}
        self.closed = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        yield b"piece"

    async def aclose(self) -> None:
        self.let_go()
        self.closed += 1


class FakeBackend:
    """Answers, or fails with ``trouble``; counts what was asked of it."""

    name = "main"

    def __init__(self, replica: str) -> None:
        self.replica = replica
        self.trouble: Callable[[], BackendError] | None = None
        self.gate: asyncio.Event | None = None
        self.status = 200
        self.health = 200
        self.is_full = False
        self.sessions: list[str | None] = []
        self.calls: list[str] = []

    async def start(self) -> None:
        self.calls.append("start")

    async def send(self, request: UpstreamRequest) -> BackendReply:
        if request.path == "/health":
            assert (request.method, request.is_at_root) == ("GET", True)
            return await self.answer_health()
        self.sessions.append(request.session)
        if self.gate is not None:
            await self.gate.wait()
        if self.trouble is not None:
            raise self.trouble()
        return FakeReply(self.replica, self.status)

    async def answer_health(self) -> BackendReply:
        self.calls.append("health")
        if self.gate is not None:
            await self.gate.wait()
        if self.health == 0:
            raise refused()
        return FakeReply(self.replica, self.health)

    async def probe(self) -> None:
        self.calls.append("probe")
        if self.gate is not None:
            await self.gate.wait()
        if self.trouble is not None:
            raise self.trouble()

    async def aclose(self) -> None:
        self.calls.append("aclose")


class Clock:
    """A clock that stands still until it is told."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Bench:
    """A set of fakes, and short ways to use it."""

    def __init__(
        self,
        *names: str,
        ejection: Ejection | None = None,
        list_drained: Callable[[], Collection[str]] | None = None,
    ) -> None:
        self.fakes = {name: FakeBackend(name) for name in names or NAMES}
        self.clock = Clock()
        self.set = ReplicaSet(
            "main",
            self.fakes,
            ejection=ejection,
            list_drained=list_drained,
            clock=self.clock,
        )

    async def send(self, session: str | None = None) -> str:
        """Send and close; the name of the replica that answered."""
        reply, name = await self.open(session)
        await reply.aclose()
        return name

    async def open(self, session: str | None = None) -> tuple[UpstreamReply, str]:
        """Send and leave the reply open."""
        reply = await self.set.send(UpstreamRequest("POST", "/x", session=session))
        return reply, reply.headers["x-from"]

    def counts(self) -> dict[str, int]:
        return {name: len(fake.sessions) for name, fake in self.fakes.items()}

    def asked(self, before: Mapping[str, int]) -> list[str]:
        """Who was asked since."""
        return [name for name, count in self.counts().items() if count > before[name]]

    async def home(self, session: str) -> str:
        """Where a session is at home while all is well."""
        name = await self.send(session)
        self.fakes[name].sessions.clear()
        return name


def refused() -> BackendUnavailable:
    return BackendUnavailable("The upstream accepts no connections.", backend="main")


def silent() -> BackendTimeout:
    return BackendTimeout("The upstream was silent for too long.", backend="main")


def connect_timeout() -> BackendConnectTimeout:
    return BackendConnectTimeout("The upstream accepts no connection in time.", backend="main")


def broke_off() -> BackendBrokeOff:
    return BackendBrokeOff("The connection to the upstream broke.", backend="main")


def exited() -> BackendExited:
    return BackendExited("The process ended.", backend="main")


def sessions(count: int) -> list[str]:
    return [f"x-session-id:{n}" for n in range(count)]


async def test_assignment_is_fixed() -> None:
    """Every version and every process agrees: a change moves all sessions of all users."""
    bench = Bench()
    found = "".join([(await bench.send(session))[7] for session in sessions(24)])
    assert found == "ccacbcaaccbbabbcaabcbccc"


async def test_order_of_the_replicas_does_not_matter() -> None:
    one, other = Bench(), Bench(*reversed(NAMES))
    for session in sessions(50):
        assert await one.send(session) == await other.send(session)


async def test_sessions_stay_and_spread() -> None:
    bench = Bench()
    homes = {session: await bench.send(session) for session in sessions(300)}
    for _ in range(3):
        for session, home in homes.items():
            assert await bench.send(session) == home
    assert all(80 <= count <= 120 for count in Counter(homes.values()).values())


async def test_keys_that_begin_alike_are_different() -> None:
    bench = Bench()
    assert len({await bench.send(f"x-session-id:session-1{n}") for n in range(20)}) == 3


async def test_a_replica_that_joins_takes_only_its_share() -> None:
    """Of 1000 sessions about a fourth moves to the fourth replica, none between the others."""
    before, after = Bench(), Bench(*NAMES, "http://d:8000/v1")
    moved = Counter[str]()
    for session in sessions(1000):
        home = await before.send(session)
        if (new := await after.send(session)) != home:
            moved[new] += 1
    assert moved.keys() == {"http://d:8000/v1"}
    assert 210 <= moved.total() <= 290


async def test_without_a_session_the_least_busy_is_taken() -> None:
    bench = Bench()
    opened = [await bench.open() for _ in range(6)]
    assert Counter(name for _, name in opened) == dict.fromkeys(NAMES, 2)
    for reply, name in opened:
        if name == NAMES[1]:
            await reply.aclose()
    assert [(await bench.open())[1] for _ in range(2)] == [NAMES[1], NAMES[1]]


async def test_equally_busy_replicas_take_turns() -> None:
    bench = Bench()
    taken = [await bench.send() for _ in range(9)]
    assert Counter(taken) == dict.fromkeys(NAMES, 3)
    assert all(one != next_one for one, next_one in pairwise(taken))


async def test_reply_counts_until_it_is_closed_once() -> None:
    bench = Bench(*NAMES[:2])
    reply, name = await bench.open()
    assert (reply.status, reply.headers["x-from"]) == (200, name)
    assert [chunk async for chunk in reply.chunks()] == [b"piece"]
    assert await bench.send() != name
    assert await bench.send() != name
    await reply.aclose()
    await reply.aclose()
    assert {await bench.send() for _ in range(2)} == set(NAMES[:2])


async def test_cancelled_request_counts_no_longer() -> None:
    bench = Bench(*NAMES[:2])
    gate = asyncio.Event()
    for fake in bench.fakes.values():
        fake.gate = gate
    waiting = [asyncio.create_task(bench.send()) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    gate.set()
    await waiting[1]
    assert {await bench.send() for _ in range(2)} == set(NAMES[:2])


@pytest.mark.parametrize("trouble", [refused, connect_timeout])
async def test_request_that_was_not_sent_is_tried_on_the_next(
    trouble: Callable[[], BackendError],
) -> None:
    bench = Bench()
    home = await bench.home("s")
    bench.fakes[home].trouble = trouble
    elsewhere = {await bench.send("s") for _ in range(10)}
    assert len(elsewhere) == 1
    assert elsewhere != {home}


async def test_refused_request_is_tried_only_once_more() -> None:
    bench = Bench()
    for fake in bench.fakes.values():
        fake.trouble = refused
    for session in (None, "s"):
        before = bench.counts()
        with pytest.raises(BackendUnavailable, match="accepts no connections"):
            await bench.send(session)
        assert len(bench.asked(before)) == 2


@pytest.mark.parametrize("trouble", [silent, broke_off, exited])
async def test_what_may_have_been_sent_is_not_sent_again(
    trouble: Callable[[], BackendError],
) -> None:
    bench = Bench()
    home = await bench.home("s")
    bench.fakes[home].trouble = trouble
    before = bench.counts()
    with pytest.raises(type(trouble())):
        await bench.send("s")
    assert bench.asked(before) == [home]


@pytest.mark.parametrize("trouble", [refused, silent, exited])
async def test_ejection_moves_only_the_replicas_sessions(
    trouble: Callable[[], BackendError],
) -> None:
    bench = Bench()
    homes = {session: await bench.send(session) for session in sessions(60)}
    lost = NAMES[1]
    bench.fakes[lost].trouble = trouble
    for session in [session for session, home in homes.items() if home == lost][:3]:
        before = bench.counts()
        try:
            await bench.send(session)
        except BackendError:
            assert bench.asked(before) == [lost]
    before = bench.counts()
    after = {session: await bench.send(session) for session in homes}
    assert lost not in bench.asked(before)
    assert {s for s in homes if homes[s] != after[s]} == {s for s in homes if homes[s] == lost}
    assert len({after[s] for s in homes if homes[s] == lost}) == 2, "not all to one other"


async def test_only_failures_in_a_row_eject() -> None:
    bench = Bench(ejection=Ejection(after=2))
    home = await bench.home("s")
    for _ in range(3):
        bench.fakes[home].trouble = refused
        await bench.send("s")
        bench.fakes[home].trouble = None
        assert await bench.send("s") == home


async def test_broken_connections_do_not_eject() -> None:
    """A request that makes any server break off must not take all of them away."""
    bench = Bench(ejection=Ejection(after=1))
    home = await bench.home("s")
    bench.fakes[home].trouble = broke_off
    for _ in range(5):
        with pytest.raises(BackendBrokeOff):
            await bench.send("s")
    assert len(bench.fakes[home].sessions) == 5


async def test_return_after_the_back_off() -> None:
    """One request at first, one more with each reply, then all."""
    bench = Bench(ejection=Ejection(after=1, backoff_s=2.0, returns_after=3))
    home = await bench.home("s")
    fake = bench.fakes[home]
    fake.trouble = refused
    other = await bench.send("s")
    fake.trouble = None
    bench.clock.now_s += 1.9
    assert await bench.send("s") == other
    bench.clock.now_s += 0.1
    fake.gate = gate = asyncio.Event()
    first = asyncio.create_task(bench.open("s"))
    await asyncio.sleep(0)
    assert len(fake.sessions) == 2
    fake.gate = None
    assert await bench.send("s") == other, "one at a time"
    with structlog.testing.capture_logs() as lines:
        gate.set()
        opened = [(await first)[0]]
        second, name = await bench.open("s")
        assert name == home
        opened.append(second)
        third, name = await bench.open("s")
        assert name == home
        opened.append(third)
    assert [line["event"] for line in lines] == ["replica has returned"]
    assert [(await bench.open("s"))[1] for _ in range(5)] == [home] * 5


async def test_failing_return_doubles_the_back_off_up_to_its_cap() -> None:
    bench = Bench(ejection=Ejection(after=1, backoff_s=1.0, longest_s=4.0, returns_after=2))
    home = await bench.home("s")
    bench.fakes[home].trouble = refused
    with structlog.testing.capture_logs() as lines:
        await bench.send("s")
        for backoff_s in (1, 2, 4, 4):
            asked = len(bench.fakes[home].sessions)
            bench.clock.now_s += backoff_s - 0.1
            await bench.send("s")
            assert len(bench.fakes[home].sessions) == asked
            bench.clock.now_s += 0.1
            await bench.send("s")
            assert len(bench.fakes[home].sessions) == asked + 1
    assert [line["backoff_s"] for line in lines] == [1.0, 2.0, 4.0, 4.0, 4.0]
    assert lines[0] == {
        "event": "replica ejected",
        "log_level": "warning",
        "upstream": "main",
        "replica": home,
        "backoff_s": 1.0,
        "reason": "The upstream accepts no connections.",
    }
    bench.fakes[home].trouble = None
    bench.clock.now_s += 4
    for _ in range(2):
        assert await bench.send("s") == home
    bench.fakes[home].trouble = refused
    with structlog.testing.capture_logs() as lines:
        await bench.send("s")
    assert [line["backoff_s"] for line in lines] == [1.0], "forgotten once it has returned"


async def test_all_ejected_are_tried_all_the_same() -> None:
    """The caller hears the real trouble, and an end of the trouble is noticed at once."""
    bench = Bench(ejection=Ejection(after=1))
    homes = {await bench.send(session): session for session in [*sessions(30), "s"]}
    assert homes.keys() == set(NAMES)
    home = next(name for name, session in homes.items() if session == "s")
    for name, session in homes.items():
        bench.fakes[name].trouble = silent
        with pytest.raises(BackendTimeout):
            await bench.send(session)
    before = bench.counts()
    with pytest.raises(BackendTimeout):
        await bench.send("s")
    assert bench.asked(before) == [home]
    bench.fakes[home].trouble = None
    assert await bench.send("s") == home
    assert await bench.send("s") == home


async def test_draining_replica_keeps_its_sessions_and_takes_no_new_ones() -> None:
    bench = Bench()
    old = {session: await bench.send(session) for session in sessions(30)}
    for home in NAMES[:2]:
        bench.fakes[home].health = 503
    with structlog.testing.capture_logs() as lines:
        await bench.set.check()
        await bench.set.check()
    assert [(line["event"], line["replica"]) for line in lines] == [
        ("replica drains", NAMES[0]),
        ("replica drains", NAMES[1]),
    ]
    assert {session: await bench.send(session) for session in old} == old
    assert {await bench.send(f"new {n}") for n in range(30)} == {NAMES[2]}
    assert {await bench.send() for _ in range(5)} == {NAMES[2]}
    bench.fakes[NAMES[2]].health = 503
    await bench.set.check()
    assert {await bench.send(f"newer {n}") for n in range(30)} == set(NAMES), "better than none"
    for fake in bench.fakes.values():
        fake.health = 200
    with structlog.testing.capture_logs() as lines:
        await bench.set.check()
    assert [line["event"] for line in lines] == ["replica drains no longer"] * 3
    assert {await bench.send(f"newest {n}") for n in range(30)} == set(NAMES)


async def test_session_leaves_a_draining_replica_whose_answer_is_a_server_error() -> None:
    """A dead engine behind a live server says 503 for its health too."""
    bench = Bench()
    home = await bench.home("s")
    bench.fakes[home].health = bench.fakes[home].status = 503
    await bench.set.check()
    assert await bench.send("s") == home
    assert await bench.send("s") != home


async def test_all_sessions_leave_a_draining_replica_whose_answer_is_a_server_error() -> None:
    """One of them has to learn that the engine is dead, and not each."""
    bench = Bench()
    homes = {session: await bench.send(session) for session in sessions(30)}
    home = homes["x-session-id:0"]
    bench.fakes[home].health = bench.fakes[home].status = 503
    await bench.set.check()
    assert await bench.send("x-session-id:0") == home
    assert home not in {await bench.send(session) for session in homes}


async def test_draining_replica_keeps_its_most_recent_sessions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So many at least, twice as many at most."""
    monkeypatch.setattr(replicas_module, "_REMEMBERED_SESSIONS", 3)
    told: set[str] = set()
    bench = Bench(*NAMES[:2], list_drained=lambda: told)
    here = [name for name in sessions(60) if await bench.home(name) == NAMES[0]]
    for name in here:
        await bench.send(name)
    told.add(NAMES[0])
    await bench.set.check()
    assert len(here) > 9
    assert {await bench.send(name) for name in here[:-6]} == {NAMES[1]}
    assert {await bench.send(name) for name in here[-3:]} == {NAMES[0]}


async def test_replica_that_is_told_to_drain() -> None:
    """It keeps its sessions, whatever its health says, and whatever one request meets."""
    told: set[str] = {NAMES[0]}
    bench = Bench(list_drained=lambda: told)
    await bench.set.start()
    assert NAMES[0] not in {await bench.send(session) for session in sessions(30)}
    told.clear()
    await bench.set.check()
    old = {f"old {n}": await bench.send(f"old {n}") for n in range(30)}
    told.add(NAMES[0])
    bench.fakes[NAMES[0]].health = 500
    await bench.set.check()
    assert {session: await bench.send(session) for session in old} == old
    first, *others = [session for session, home in old.items() if home == NAMES[0]]
    bench.fakes[NAMES[0]].status = 500
    assert await bench.send(first) == NAMES[0]
    bench.fakes[NAMES[0]].status = 200
    assert await bench.send(first) != NAMES[0]
    assert {await bench.send(session) for session in others} == {NAMES[0]}


async def test_list_of_what_drains_that_is_not_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas are asked for their health all the same; what it says late counts later."""
    monkeypatch.setattr(replicas_module, "CHECK_LIMIT_S", 0.001)
    gate = threading.Event()

    def list_drained() -> set[str]:
        gate.wait()
        return {NAMES[0]}

    bench = Bench(list_drained=list_drained)
    bench.fakes[NAMES[1]].health = 503
    with structlog.testing.capture_logs() as lines:
        await bench.set.start()
        await bench.set.check()
    assert [state.state for state in bench.set.states()] == ["serving", "draining", "serving"]
    assert [line["event"] for line in lines].count("replicas to drain are unknown") == 1
    gate.set()
    monkeypatch.setattr(replicas_module, "CHECK_LIMIT_S", 10.0)
    await bench.set.check()
    assert [state.state for state in bench.set.states()] == ["draining", "draining", "serving"]


def test_a_drain_file(tmp_path: Path) -> None:
    file = tmp_path / "drain"
    drains = DrainFile(file, "main", ["http://a/v1", "http://b/v1"])
    with structlog.testing.capture_logs() as lines:
        assert drains.read() == set()
        file.write_text("# all of rack 3\n\n http://a/v1/  # until noon\nhttp://c/v1\n")
        assert drains.read() == drains.read() == {"http://a/v1"}
        assert [line["reason"].split(": ")[1] for line in lines] == ["http://c/v1"]
        file.write_bytes(b"\xff")
        assert drains.read() == drains.read() == {"http://a/v1"}
        assert len(lines) == 2
        file.unlink()
        assert drains.read() == set()
    assert {line["upstream"] for line in lines} == {"main"}


async def test_draining_replica_is_better_than_an_ejected_one() -> None:
    bench = Bench(*NAMES[:2], ejection=Ejection(after=1))
    bench.fakes[NAMES[0]].health = 503
    await bench.set.check()
    bench.fakes[NAMES[1]].trouble = silent
    with pytest.raises(BackendTimeout):
        await bench.send()
    assert await bench.send() == NAMES[0]


@pytest.mark.parametrize("health", [0, 500])
async def test_ill_replica_is_left_out_before_a_request_meets_it(health: int) -> None:
    """So often in a row as ejects, and for as long as it lasts."""
    bench = Bench(ejection=Ejection(after=2))
    home = await bench.home("s")
    fake = bench.fakes[home]
    for answer in (health, 200, health):
        fake.health = answer
        await bench.set.check()
    assert await bench.send("s") == home, "not twice in a row"
    with structlog.testing.capture_logs() as lines:
        await bench.set.check()
        await bench.set.check()
    assert [(line["event"], line["replica"]) for line in lines] == [("replica ejected", home)]
    bench.clock.now_s += 1000
    assert await bench.send("s") != home
    fake.health = 200
    await bench.set.check()
    assert await bench.send("s") == home


async def test_return_after_illness_is_slow() -> None:
    bench = Bench(ejection=Ejection(after=1))
    home = await bench.home("s")
    fake = bench.fakes[home]
    for answer in (500, 200):
        fake.health = answer
        await bench.set.check()
    fake.gate = gate = asyncio.Event()
    first = asyncio.create_task(bench.open("s"))
    await asyncio.sleep(0)
    assert await bench.send("s") != home
    gate.set()
    assert (await first)[1] == home


async def test_health_that_is_no_endpoint_is_well() -> None:
    bench = Bench(ejection=Ejection(after=1))
    for fake in bench.fakes.values():
        fake.health = 404
    with structlog.testing.capture_logs() as lines:
        await bench.set.check()
    assert lines == []


async def test_silence_is_ill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.health.CHECK_LIMIT_S", 0.01)
    bench = Bench(ejection=Ejection(after=1))
    home = await bench.home("s")
    bench.fakes[home].gate = asyncio.Event()
    await bench.set.check()
    assert await bench.send("s") != home


async def test_good_health_does_not_excuse_failing_requests() -> None:
    bench = Bench(ejection=Ejection(after=2, backoff_s=5.0))
    home = await bench.home("s")
    bench.fakes[home].trouble = silent
    for _ in range(2):
        with pytest.raises(BackendTimeout):
            await bench.send("s")
        await bench.set.check()
    assert await bench.send("s") != home, "and it is left out for its back-off"


async def test_replicas_are_asked_at_intervals_until_the_set_is_closed() -> None:
    fakes = {name: FakeBackend(name) for name in NAMES}
    backends = ReplicaSet("main", fakes, check_interval_s=0.001)
    await backends.start()
    await until(lambda: all(fake.calls.count("health") > 1 for fake in fakes.values()))
    await backends.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_full_replica_is_passed_over_while_another_has_room() -> None:
    bench = Bench()
    home = await bench.home("s")
    bench.fakes[home].is_full = True
    other = await bench.send("s")
    assert other != home
    assert home not in {await bench.send() for _ in range(5)}
    for fake in bench.fakes.values():
        fake.is_full = True
    assert await bench.send("s") == home, "who hears the refusal of its own"
    bench.fakes[home].is_full = False
    assert await bench.send("s") == home


async def test_request_that_waited_is_sent_to_a_replica_that_is_fit_now() -> None:
    """While it waited at a replica that died, the next in its order died too."""
    bench = Bench(ejection=Ejection(after=1))
    home = await bench.home("s")
    bench.fakes[home].trouble = refused
    second = await bench.send("s")
    bench = Bench(ejection=Ejection(after=1))
    dying = bench.fakes[home]
    dying.gate = gate = asyncio.Event()
    waiting = asyncio.create_task(bench.send("s"))
    await asyncio.sleep(0)
    bench.fakes[second].trouble = silent
    for _ in range(2):
        with contextlib.suppress(BackendTimeout):
            await bench.send()
    dying.trouble = refused
    gate.set()
    assert await waiting not in (home, second)


async def test_probe_needs_one_answer_and_names_the_others() -> None:
    bench = Bench()
    bench.fakes[NAMES[1]].trouble = refused
    with structlog.testing.capture_logs() as lines:
        await bench.set.probe()
        await bench.set.probe()
    assert lines == [
        {
            "event": "replica does not answer",
            "log_level": "warning",
            "upstream": "main",
            "replica": NAMES[1],
            "reason": "The upstream accepts no connections.",
        }
    ]
    bench.fakes[NAMES[0]].trouble = bench.fakes[NAMES[2]].trouble = silent
    with pytest.raises(BackendUnavailable) as caught:
        await bench.set.probe()
    assert str(caught.value) == (
        "replica 1: The upstream was silent for too long.; "
        "replica 2: The upstream accepts no connections.; "
        "replica 3: The upstream was silent for too long."
    )


async def test_probe_waits_for_a_silent_replica_only_so_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("backends.replicas._PROBE_LIMIT_S", 0.01)
    bench = Bench()
    bench.fakes[NAMES[0]].gate = asyncio.Event()
    await bench.set.probe()
    for fake in bench.fakes.values():
        fake.gate = asyncio.Event()
    with pytest.raises(BackendUnavailable, match="replica 3: It does not answer within"):
        await bench.set.probe()


async def test_all_are_started_and_closed() -> None:
    bench = Bench()
    await bench.set.start()
    await bench.set.aclose()
    assert all(fake.calls == ["start", "aclose"] for fake in bench.fakes.values())
    assert bench.set.name == "main"


def test_sessions_matter_only_where_there_is_a_choice() -> None:
    assert Bench().set.wants_session
    assert not Bench(NAMES[0]).set.wants_session


def test_outcomes_from_before_an_ejection_say_nothing() -> None:
    """Many requests that fail at once eject once; a late reply does not bring back."""
    health = Health(Ejection(after=1, backoff_s=1.0))
    old = health.epoch
    assert health.fail(old, 0.0) == 1.0
    assert health.fail(old, 0.0) is None
    assert not health.succeed(old, 1)
    assert health.standing(0, 0.9) is Standing.EJECTED
    assert health.standing(0, 1.0) is Standing.RETURNING
    assert health.fail(old, 1.0) is None
    assert health.standing(0, 1.0) is Standing.RETURNING


def test_outcomes_from_before_an_illness_say_nothing() -> None:
    """A reply to what was sent while it was well does not bring it back."""
    health = Health(Ejection())
    old = health.epoch
    assert health.hold()
    assert not health.hold()
    assert not health.succeed(old, 1)
    assert health.standing(0, 1e9) is Standing.EJECTED
    health.release(0)
    assert health.standing(0, 0.0) is Standing.RETURNING
