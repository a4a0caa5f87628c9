"""Replicas behind a running proxy: sessions stay put, and a dead replica costs no request."""

import asyncio
import socket
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import httpx
import msgspec
import pytest
from structlog.typing import EventDict

from backends.openai_compatible import OpenAICompatibleBackend
from backends.replicas import ReplicaSet
from backends.transport import AsyncioTransport
from proxy.loading import load
from proxy.settings import Settings, Upstream, public
from proxy.tables import SettingsError
from proxy.upstreams import build_upstreams
from tests.backends.processes import until
from tests.proxy.caller import ask
from tests.proxy.conftest import RunProxy
from tests.proxy.dialects import CHAT, RESPONSES, chat_reply, chat_request
from tests.upstream import Abort, Answer, Handler, ReceivedRequest, Reply, ScriptedUpstream
from translators.wire import JSON

_SESSIONS = 300
_TURNS = 10
_AT_ONCE = 32


class Fleet:
    """Three upstreams that note which conversations they see; the first text is its name."""

    def __init__(self) -> None:
        self.seen: dict[str, list[int]] = defaultdict(list)
        self.health = [200] * 3
        self.upstreams = [ScriptedUpstream(handler=self._handler(i)) for i in range(3)]
        self._stacks = [AsyncExitStack() for _ in self.upstreams]

    async def __aenter__(self) -> "Fleet":
        for stack, upstream in zip(self._stacks, self.upstreams, strict=True):
            await stack.enter_async_context(upstream)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for stack in self._stacks:
            await stack.aclose()

    async def kill(self, index: int) -> None:
        """Close an upstream's port and its connections."""
        await self._stacks[index].aclose()

    def settings(self, **members: JSON) -> Settings:
        urls = [upstream.url for upstream in self.upstreams]
        return Settings(upstreams={"default": Upstream(urls=urls, speaks="chat", **members)})

    def _handler(self, index: int) -> Handler:
        def answer(request: ReceivedRequest) -> Answer:
            if request.path == "/health":
                return Reply(self.health[index])
            if request.method == "POST":
                self.seen[request.json["messages"][0]["content"]].append(index)
            return Reply.json(chat_reply())

        return answer


def turn(session: int, number: int) -> tuple[str, JSON, dict[str, str]]:
    """Path, body and headers of one turn; the sessions are told in five ways."""
    texts = [f"session {session}", *(f"turn {n}" for n in range(number))]
    messages = [{"role": "user", "content": text} for text in texts]
    chat = {"model": "m", "messages": messages}
    match session % 5:
        case 0:
            return CHAT, chat, {"x-session-id": f"s{session}"}
        case 1:
            return CHAT, chat, {}
        case 2:
            return CHAT, {**chat, "prompt_cache_key": f"s{session}"}, {}
        case 3:
            return RESPONSES, {"model": "m", "input": messages}, {}
        case _:
            return RESPONSES, {"model": "m", "input": messages}, {"session_id": f"s{session}"}


def last(lines: list[EventDict], event: str) -> EventDict:
    """The last line of an event, or an empty one."""
    return next((line for line in reversed(lines) if line["event"] == event), {})


async def play(port: int, session: int, turns: Sequence[int]) -> None:
    """Turns of one session, each of which has to succeed."""
    url = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(transport=AsyncioTransport(), base_url=url) as client:
        for number in turns:
            path, body, headers = turn(session, number)
            data = msgspec.json.encode(body)
            reply = await client.post(path, content=data, headers=headers)
            assert reply.status_code == 200


async def play_all(port: int, turns: Sequence[int]) -> None:
    """Turns of all sessions, many at once."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(session: int) -> None:
        async with gate:
            await play(port, session, turns)

    async with asyncio.TaskGroup() as tasks:
        for session in range(_SESSIONS):
            tasks.create_task(one(session))


@pytest.mark.server
async def test_sessions_stay_and_a_dead_replica_moves_only_its_own(
    running_proxy: RunProxy, log_lines: list[EventDict]
) -> None:
    async with Fleet() as fleet:
        proxy = await running_proxy(fleet.settings())
        dead = fleet.upstreams[1].url
        await play_all(proxy.port, range(_TURNS))
        homes = {name: places[0] for name, places in fleet.seen.items()}
        assert len(homes) == _SESSIONS
        assert all(places == [homes[name]] * _TURNS for name, places in fleet.seen.items())
        assert all(70 <= list(homes.values()).count(index) <= 130 for index in range(3))

        fleet.seen.clear()
        await fleet.kill(1)
        await play_all(proxy.port, range(_TURNS, _TURNS + 2))
        for name, places in fleet.seen.items():
            assert places == [places[0]] * 2
            assert places[0] != 1
            assert places[0] == homes[name] or homes[name] == 1
        assert len(fleet.seen) == _SESSIONS
    ejected = [line for line in log_lines if line["event"] == "replica ejected"]
    assert {line["replica"] for line in ejected} == {dead}


@pytest.mark.server
async def test_dead_replica_is_left_out_before_a_request_meets_it(
    running_proxy: RunProxy, log_lines: list[EventDict]
) -> None:
    async with Fleet() as fleet:
        dead = fleet.upstreams[1].url
        settings = fleet.settings(health_interval_s=0.01)
        await fleet.kill(1)
        proxy = await running_proxy(settings)
        await until(lambda: {"replica": dead}.items() <= last(log_lines, "replica ejected").items())
        for session in range(20):
            await play(proxy.port, session, [0])
        assert all(place != [1] for place in fleet.seen.values())
    assert len([line for line in log_lines if line["event"] == "replica ejected"]) == 1


@pytest.mark.server
async def test_draining_replica_keeps_its_sessions(
    running_proxy: RunProxy, log_lines: list[EventDict]
) -> None:
    async with Fleet() as fleet:
        proxy = await running_proxy(fleet.settings(health_interval_s=0.01))
        for session in range(40):
            await play(proxy.port, session, [0])
        fleet.health[1] = 503
        await until(lambda: bool(last(log_lines, "replica drains")))
        for session in range(80):
            await play(proxy.port, session, [1])
        places = [fleet.seen[f"session {session}"] for session in range(80)]
        assert all(one == other for one, other in places[:40])
        assert [1, 1] in places[:40]
        assert [1] not in places[40:]
        fleet.health[1] = 200
        await until(lambda: bool(last(log_lines, "replica drains no longer")))


@pytest.mark.server
async def test_replica_that_is_told_to_drain_keeps_its_sessions(
    running_proxy: RunProxy, log_lines: list[EventDict], tmp_path: Path
) -> None:
    drains = tmp_path / "drain"
    async with Fleet() as fleet:
        settings = fleet.settings(health_interval_s=0.01, drain_file=str(drains))
        proxy = await running_proxy(settings)
        for session in range(40):
            await play(proxy.port, session, [0])
        drains.write_text(f"# for an upgrade\n{fleet.upstreams[1].url}/\n")
        await until(lambda: bool(last(log_lines, "replica drains")))
        for session in range(80):
            await play(proxy.port, session, [1])
        places = [fleet.seen[f"session {session}"] for session in range(80)]
        assert all(one == other for one, other in places[:40])
        assert [1, 1] in places[:40]
        assert [1] not in places[40:]
        later = await running_proxy(settings)
        assert await states(later.port) == ["serving", "draining", "serving"]
        drains.unlink()
        await until(lambda: bool(last(log_lines, "replica drains no longer")))


@pytest.mark.server
async def test_ready_tells_of_each_replica(
    running_proxy: RunProxy, log_lines: list[EventDict]
) -> None:
    async with Fleet() as fleet:
        proxy = await running_proxy(fleet.settings(health_interval_s=0.01, eject_after=1))
        fleet.health[0] = 503
        fleet.health[2] = 500
        await until(lambda: bool(last(log_lines, "replica drains")))
        await until(lambda: bool(last(log_lines, "replica ejected")))
        assert await states(proxy.port) == ["draining", "serving", "ejected"]
        fleet.health[2] = 200
        async with asyncio.timeout(5):
            while await states(proxy.port) != ["draining", "serving", "returning"]:
                pass  # asked anew at once


async def states(port: int) -> list[str]:
    """What ``/ready`` says of the replicas, none of which has a request."""
    ready = await ask(port, "/ready", method="GET")
    (replicas,) = ready.json["replicas"].values()
    assert {replica["open"] for replica in replicas} == {0}
    return [replica["state"] for replica in replicas]


@pytest.mark.server
async def test_replica_that_accepts_no_connection_in_time_costs_no_request(
    running_proxy: RunProxy,
) -> None:
    """Its backlog is full, as if the machine were gone. Without a session replicas take turns."""
    async with Fleet() as fleet:
        with socket.socket() as listener, ExitStack() as stack:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            for _ in range(3):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(listener.getsockname())
            urls = [f"http://127.0.0.1:{listener.getsockname()[1]}/v1", fleet.upstreams[0].url]
            default = Upstream(urls=urls, speaks="chat", connect_timeout_s=0.1)
            proxy = await running_proxy(Settings(upstreams={"default": default}))
            body = {"model": "m", "messages": [{"role": "system", "content": "x"}]}
            for _ in range(2):
                assert (await ask(proxy.port, CHAT, body)).status == 200
        assert len(fleet.upstreams[0].requests) == 2


@pytest.mark.server
async def test_two_proxies_agree(running_proxy: RunProxy) -> None:
    async with Fleet() as fleet:
        settings = fleet.settings()
        upstream = settings.upstreams["default"]
        assert upstream.urls is not None
        mirrored = msgspec.structs.replace(upstream, urls=[f"{u}/" for u in upstream.urls[::-1]])
        one = await running_proxy(settings)
        other = await running_proxy(Settings(upstreams={"default": mirrored}))
        for session in range(20):
            await play(one.port, session, [0])
            await play(other.port, session, [1])
        assert all(one == other for one, other in fleet.seen.values())


@pytest.mark.server
@pytest.mark.parametrize(("answer", "status"), [(Reply(503), 503), (Abort(), 502)])
async def test_what_reached_a_replica_is_not_sent_to_another(
    answer: Answer, status: int, running_proxy: RunProxy
) -> None:
    async with Fleet() as fleet:
        proxy = await running_proxy(fleet.settings())
        for upstream in fleet.upstreams:
            upstream.queue(answer)
        reply = await ask(proxy.port, CHAT, chat_request())
        assert reply.status == status
        assert sum(len(upstream.requests) for upstream in fleet.upstreams) == 1


@pytest.mark.server
async def test_all_dead_is_an_error_that_says_so(running_proxy: RunProxy) -> None:
    async with Fleet() as fleet:
        proxy = await running_proxy(fleet.settings())
        for index in range(3):
            await fleet.kill(index)
        for _ in range(10):
            reply = await ask(proxy.port, CHAT, chat_request())
            assert (reply.status, reply.error["code"]) == (503, "upstream_unavailable")
            assert reply.error["message"] == "The upstream accepts no connections."
        ready = await ask(proxy.port, "/ready", method="GET")
        assert ready.status == 503
        assert ready.json["upstreams"]["default"].startswith("replica 1: ")


@pytest.mark.server
async def test_ready_with_one_replica(running_proxy: RunProxy) -> None:
    async with Fleet() as fleet:
        proxy = await running_proxy(fleet.settings())
        await fleet.kill(0)
        await fleet.kill(2)
        ready = await ask(proxy.port, "/ready", method="GET")
        assert (ready.status, ready.json["upstreams"]) == (200, {"default": "ready"})


@pytest.mark.server
async def test_replicas_get_the_key_but_not_the_session(running_proxy: RunProxy) -> None:
    """What the session was made of passes as ever, the key made of it stays here."""
    async with ScriptedUpstream(handler=lambda _: Reply.json(chat_reply())) as upstream:
        urls = [upstream.url, f"{upstream.url}/again"]
        default = Upstream(urls=urls, speaks="chat", key="sk-1")
        proxy = await running_proxy(Settings(upstreams={"default": default}))
        body = chat_request(prompt_cache_key="k")
        for path in (CHAT, CHAT):
            assert (await ask(proxy.port, path, body)).status == 200
    assert {request.json["prompt_cache_key"] for request in upstream.requests} == {"k"}
    assert {request.headers["authorization"] for request in upstream.requests} == {"Bearer sk-1"}
    assert not any("prompt_cache_key:" in str(request.headers) for request in upstream.requests)


def test_urls_make_a_set_and_one_url_none() -> None:
    def backend(upstream: Upstream) -> object:
        return build_upstreams(Settings(upstreams={"a": upstream}))[0].backend

    replicas = backend(Upstream(urls=["http://x/v1", "http://y/v1"]))
    assert isinstance(replicas, ReplicaSet)
    assert (replicas.name, replicas.wants_session) == ("a", True)
    assert isinstance(backend(Upstream(url="http://x/v1")), OpenAICompatibleBackend)


WRONG = {
    "empty": ("urls = []", "urls", "length >= 1"),
    "type": ('urls = "http://x/v1"', "urls", "array"),
    "type-in-array": ("urls = [5]", "urls[0]", "str"),
    "url": ('urls = ["http://x/v1", "y:80"]', "urls[1]", "http://"),
    "user": ('urls = ["http://user:sk-1@x/v1"]', "urls[0]", "without a query, a user"),
    "twice": ('urls = ["http://x/v1", "http://x/v1/"]', "urls[1]", "'http://x/v1/' comes twice"),
    "ours": ('urls = ["http://x/v1", "http://localhost:8080/v1"]', "urls[1]", "itself listens"),
    **{
        name: (f'drain_file = "{file}"\nurls = ["http://x/v1"]\n{more}', "drain_file", right)
        for name, file, more, right in (
            ("drain-file-without-a-folder", "/nowhere/drain", "", "a folder that is there"),
            ("drain-file-that-is-a-folder", "/", "", "expected a file"),
            ("drain-file-never-read", "drain", "health_interval_s = 0", "never read"),
        )
    },
    "eject": ('eject_after = 0\nurls = ["http://x/v1"]', "eject_after", "1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_setting(case: str, tmp_path: Path) -> None:
    text, setting, right = WRONG[case]
    path = tmp_path / "dragoman.toml"
    path.write_text(f"[upstreams.a]\n{text}\n")
    with pytest.raises(SettingsError) as caught:
        load(path, {}, {})
    message = str(caught.value)
    assert message.startswith(f"{path}:2: upstreams.a.{setting}: ")
    assert right in message
    assert "sk-" not in message


@pytest.mark.parametrize("other", ['url = "http://y/v1"', "demo = true", 'vllm.model = "m"'])
def test_urls_are_a_kind_of_their_own(other: str, tmp_path: Path) -> None:
    path = tmp_path / "dragoman.toml"
    path.write_text(f'[upstreams.default]\nurls = ["http://x/v1"]\n{other}\n')
    with pytest.raises(
        SettingsError, match="exactly one of preset, url, urls, azure, vllm and demo"
    ):
        load(path, {}, {})


def test_flag_takes_the_place_of_the_files_replicas(tmp_path: Path) -> None:
    path = tmp_path / "dragoman.toml"
    path.write_text('[upstreams.default]\nurls = ["http://x/v1"]\neject_after = 5\n')
    settings = load(path, {"upstreams.default.url": "http://y/v1"}, {})
    assert settings.upstreams["default"] == Upstream(url="http://y/v1")
    assert "urls" not in str(public(settings))
    shown = public(load(path, {}, {}))
    assert shown["upstreams"]["default"]["urls"] == ["http://x/v1"]


async def test_a_cookie_keeps_alike_conversations_apart(running_proxy: RunProxy) -> None:
    """Each goes where the fewest requests are open, and its later turns follow it."""
    async with Fleet() as fleet:
        proxy = await running_proxy(fleet.settings(session_cookie=True))
        url = f"http://127.0.0.1:{proxy.port}"
        for _ in range(30):
            async with httpx.AsyncClient(transport=AsyncioTransport(), base_url=url) as client:
                for number in range(3):
                    messages = [{"role": "user", "content": text} for text in ("same", "a", "b")]
                    body = {"model": "m", "messages": messages[: number + 1]}
                    reply = await client.post(CHAT, json=body)
                    assert reply.status_code == 200
                    assert ("set-cookie" in reply.headers) is (number == 0)
    seen = fleet.seen["same"]
    conversations = [seen[i : i + 3] for i in range(0, len(seen), 3)]
    assert all(len(set(replicas)) == 1 for replicas in conversations)
    assert {replicas[0] for replicas in conversations} == {0, 1, 2}


@pytest.mark.parametrize("headers", [{"x-session-id": "s"}, {"x-dragoman-rollout": "r"}])
async def test_a_caller_that_names_its_session_gets_no_cookie(
    headers: dict[str, str], running_proxy: RunProxy
) -> None:
    async with Fleet() as fleet:
        proxy = await running_proxy(fleet.settings(session_cookie=True))
        answer = await ask(proxy.port, CHAT, chat_request(), headers)
    assert "set-cookie" not in answer.headers


async def test_rollouts_in_the_path_are_sessions(running_proxy: RunProxy) -> None:
    async with Fleet() as fleet:
        proxy = await running_proxy(fleet.settings())
        for number in range(30):
            for _ in range(3):
                await ask(proxy.port, f"/ng-rollout/task-{number}{CHAT}", chat_request("same"))
    seen = fleet.seen["same"]
    rollouts = [set(seen[i : i + 3]) for i in range(0, len(seen), 3)]
    assert all(len(replicas) == 1 for replicas in rollouts)
    assert set.union(*rollouts) == {0, 1, 2}
