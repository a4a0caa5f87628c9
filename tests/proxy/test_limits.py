"""Limits behind a running proxy: callers wait, have their turn, or are told that they cannot."""

import asyncio
from pathlib import Path

import pytest
from structlog.typing import EventDict

from backends.limits import LimitedBackend
from backends.openai_compatible import OpenAICompatibleBackend
from proxy.loading import load
from proxy.settings import Settings, Upstream
from proxy.tables import SettingsError
from proxy.upstreams import build_upstreams
from tests.backends.processes import until
from tests.proxy.caller import Call, ask
from tests.proxy.conftest import RunProxy
from tests.proxy.dialects import (
    CHAT,
    RESPONSES,
    chat_reply,
    chat_request,
    chat_stream,
    responses_request,
)
from tests.upstream import Abort, Answer, ReceivedRequest, Reply, ScriptedUpstream, StreamReply
from translators.wire import JSON

ways = pytest.mark.parametrize(
    ("path", "request_of"), [(CHAT, chat_request), (RESPONSES, responses_request)]
)


def limited(upstream: ScriptedUpstream, **members: JSON) -> Settings:
    members = {"max_concurrent": 1, **members}
    return Settings(upstreams={"default": Upstream(url=upstream.url, speaks="chat", **members)})


class Gate:
    """An upstream's handler that answers when it is told; the order of the requests' texts."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._opened = asyncio.Semaphore(0)

    async def __call__(self, request: ReceivedRequest) -> Answer:
        self.texts.append(request.json["messages"][-1]["content"])
        await self._opened.acquire()
        return Reply.json(chat_reply())

    def open(self, count: int = 1) -> None:
        for _ in range(count):
            self._opened.release()


@pytest.mark.server
@ways
async def test_full_queue_is_an_error_in_the_callers_dialect(
    path: str, request_of: JSON, running_proxy: RunProxy, log_lines: list[EventDict]
) -> None:
    gate = Gate()
    async with ScriptedUpstream(handler=gate) as upstream:
        proxy = await running_proxy(limited(upstream, queue_limit=0))
        async with Call(proxy.port, path, request_of("first")) as first:
            await upstream.request()
            refused = await ask(proxy.port, path, request_of("second", stream=True))
            gate.open()
            assert (await first.answer()).status == 200
    assert (refused.status, refused.headers["retry-after"]) == (503, "5")
    assert refused.error["code"] == "queue_full"
    assert gate.texts == ["first"]
    assert log_lines[0]["error"] == "queue_full"


@pytest.mark.server
@ways
async def test_waiting_too_long_is_an_error_in_the_callers_dialect(
    path: str, request_of: JSON, running_proxy: RunProxy
) -> None:
    """A stream's caller hears nothing while it waits, so that it can be told by a status."""
    gate = Gate()
    async with ScriptedUpstream(handler=gate) as upstream:
        proxy = await running_proxy(limited(upstream, queue_timeout_s=0.05))
        async with Call(proxy.port, path, request_of("first")) as first:
            await upstream.request()
            late = await ask(proxy.port, path, request_of("second", stream=True))
            gate.open()
            assert (await first.answer()).status == 200
    assert (late.status, late.headers["retry-after"]) == (503, "5")
    assert late.error["code"] == "queue_timeout"


@pytest.mark.server
async def test_one_callers_many_do_not_starve_anothers_single_request(
    running_proxy: RunProxy,
) -> None:
    gate = Gate()
    async with ScriptedUpstream(handler=gate) as upstream:
        proxy = await running_proxy(limited(upstream))
        many = {"authorization": "Bearer many"}
        texts = [f"rollout {n}" for n in range(20)]
        calls = [
            asyncio.create_task(ask(proxy.port, CHAT, chat_request(text), many)) for text in texts
        ]
        await until(lambda: len(proxy.server.server_state.tasks) == 20)
        one = {"authorization": "Bearer one"}
        single = asyncio.create_task(ask(proxy.port, CHAT, chat_request("single"), one))
        await until(lambda: len(proxy.server.server_state.tasks) == 21)
        gate.open(3)
        assert (await single).status == 200
        assert gate.texts.index("single") <= 2
        gate.open(20)
        assert {(await call).status for call in calls} == {200}
    assert sorted(gate.texts) == sorted([*texts, "single"])


@pytest.mark.server
async def test_who_leaves_the_queue_is_not_sent(running_proxy: RunProxy) -> None:
    gate = Gate()
    async with ScriptedUpstream(handler=gate) as upstream:
        proxy = await running_proxy(limited(upstream, queue_limit=1))
        async with Call(proxy.port, CHAT, chat_request("first")) as first:
            await upstream.request()
            async with Call(proxy.port, CHAT, chat_request("leaves")):
                await until(lambda: len(proxy.server.server_state.tasks) == 2)
                full = await ask(proxy.port, CHAT, chat_request("refused"))
            await until(lambda: len(proxy.server.server_state.tasks) == 1)
            last = asyncio.create_task(ask(proxy.port, CHAT, chat_request("last")))
            await until(lambda: len(proxy.server.server_state.tasks) == 2)
            gate.open(2)
            assert (await first.answer()).status == 200
            assert (await last).status == 200
    assert full.error["code"] == "queue_full"
    assert gate.texts == ["first", "last"]


ENDS: dict[str, Answer] = {
    "stream": StreamReply(chat_stream(["x"])),
    "broken stream": StreamReply([chat_stream(["x"])[0], Abort()]),
    "no reply": Abort(),
    "error": Reply.json({"error": {"message": "no"}}, 500),
    "nonsense": Reply(200, {}, b"nonsense"),
}


@pytest.mark.server
@ways
@pytest.mark.parametrize("end", ENDS)
async def test_place_is_free_after_any_end(
    end: str, path: str, request_of: JSON, running_proxy: RunProxy
) -> None:
    async with ScriptedUpstream(ENDS[end], Reply.json(chat_reply())) as upstream:
        proxy = await running_proxy(limited(upstream, queue_limit=0))
        await ask(proxy.port, path, request_of(stream=True))
        await until(lambda: not proxy.server.server_state.tasks)
        assert (await ask(proxy.port, path, request_of())).status == 200


@pytest.mark.server
@ways
async def test_place_is_free_after_the_caller_left(
    path: str, request_of: JSON, running_proxy: RunProxy, log_lines: list[EventDict]
) -> None:
    """In mid-stream, as one who waits finds out."""
    begun = StreamReply([chat_stream(["x"])[0], asyncio.Event()])
    async with ScriptedUpstream(begun, Reply.json(chat_reply())) as upstream:
        proxy = await running_proxy(limited(upstream))
        async with Call(proxy.port, path, request_of(stream=True)) as call:
            assert await call.chunk()
            waiting = asyncio.create_task(ask(proxy.port, path, request_of()))
            await until(lambda: len(proxy.server.server_state.tasks) == 2)
        assert (await waiting).status == 200
        await until(lambda: not proxy.server.server_state.tasks)
    left, waited = log_lines
    assert "queued_ms" not in left
    assert 0 < waited["queued_ms"] <= waited["upstream_ms"]


@pytest.mark.server
async def test_models_and_readiness_do_not_wait(running_proxy: RunProxy) -> None:
    gate = Gate()

    async def answer(request: ReceivedRequest) -> Answer:
        return Reply.json({"data": []}) if request.method == "GET" else await gate(request)

    async with ScriptedUpstream(handler=answer) as upstream:
        proxy = await running_proxy(limited(upstream, queue_limit=0))
        async with Call(proxy.port, CHAT, chat_request()) as call:
            await upstream.request()
            for path in ("/v1/models", "/ready"):
                assert (await ask(proxy.port, path, method="GET")).status == 200
            gate.open()
            await call.answer()


@pytest.mark.server
async def test_session_goes_elsewhere_while_its_replica_has_no_room(
    running_proxy: RunProxy,
) -> None:
    """Each replica has its own limit; with no queue, sessions move rather than wait."""
    gates = [Gate(), Gate()]
    async with (
        ScriptedUpstream(handler=gates[0]) as one,
        ScriptedUpstream(handler=gates[1]) as other,
    ):
        urls = [one.url, other.url]
        default = Upstream(urls=urls, speaks="chat", max_concurrent=1, queue_limit=0)
        proxy = await running_proxy(Settings(upstreams={"default": default}))
        session = {"x-session-id": "s"}
        async with Call(proxy.port, CHAT, chat_request(), session) as first:
            await until(lambda: len(gates[0].texts + gates[1].texts) == 1)
            async with Call(proxy.port, CHAT, chat_request(), session) as second:
                await until(lambda: len(gates[0].texts + gates[1].texts) == 2)
                assert len(gates[0].texts) == len(gates[1].texts)
                refused = await ask(proxy.port, CHAT, chat_request(), session)
                assert (refused.status, refused.error["code"]) == (503, "queue_full")
                for gate in gates:
                    gate.open()
                assert (await second.answer()).status == 200
            assert (await first.answer()).status == 200


def test_only_a_limit_makes_a_limited_backend() -> None:
    def backend(**members: JSON) -> object:
        upstream = Upstream(url="http://x/v1", **members)
        return build_upstreams(Settings(upstreams={"a": upstream}))[0].backend

    assert isinstance(backend(), OpenAICompatibleBackend)
    found = backend(max_concurrent=2)
    assert isinstance(found, LimitedBackend)
    assert (found.name, found.wants_session) == ("a", True)
    assert isinstance(found.inner, OpenAICompatibleBackend)


def test_one_replica_with_a_limit_wants_sessions() -> None:
    upstream = Upstream(urls=["http://x/v1"], max_concurrent=2)
    (built,) = build_upstreams(Settings(upstreams={"a": upstream}))
    assert getattr(built.backend, "wants_session", None) is True


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("max_concurrent = 0", "1"),
        ("queue_limit = -1", "0"),
        ("queue_timeout_s = 0", "> 0"),
        ("health_interval_s = -1", "0"),
    ],
)
def test_wrong_setting(text: str, right: str, tmp_path: Path) -> None:
    path = tmp_path / "dragoman.toml"
    path.write_text(f'[upstreams.a]\n{text}\nurls = ["http://x/v1"]\n')
    with pytest.raises(SettingsError) as caught:
        load(path, {}, {})
    message = str(caught.value)
    assert message.startswith(f"{path}:2: upstreams.a.{text.split(' ')[0]}: ")
    assert right in message
