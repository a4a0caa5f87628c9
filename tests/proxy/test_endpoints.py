"""Health, readiness, and the list of models."""

import asyncio

import pytest

from proxy.routing import Router
from proxy.settings import Model, Settings, Upstream
from proxy.upstreams import build_upstreams
from tests.proxy.caller import ask
from tests.proxy.conftest import RunProxy
from tests.proxy.dialects import CHAT, RESPONSES, chat_reply
from tests.proxy.test_streams import using
from tests.upstream import Abort, Answer, Reply, ScriptedUpstream
from translators.wire import JSON

pytestmark = pytest.mark.server

MODELS = {
    "object": "list",
    "data": [
        {"id": "org/name", "object": "model", "created": 7, "owned_by": "vllm", "max_model_len": 9},
        {"id": "tiny", "object": "model", "root": "/secret/path", "permission": [{}]},
    ],
}


@pytest.mark.parametrize("path", ["/health", "/"])
async def test_health_needs_no_upstream(path: str, running_proxy: RunProxy) -> None:
    async with ScriptedUpstream() as upstream:
        settings = using(upstream, "chat")
    proxy = await running_proxy(settings)
    answer = await ask(proxy.port, path, method="GET")
    assert (answer.status, answer.json) == (200, {"status": "ok"})


@pytest.mark.parametrize("status", [200, 401, 404])
async def test_ready_when_the_upstream_answers(status: int, running_proxy: RunProxy) -> None:
    """A server that wants a key, or knows no list of models, is there nevertheless."""
    async with ScriptedUpstream(Reply.json({}, status)) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        answer = await ask(proxy.port, "/ready", method="GET")
    assert answer.status == 200
    assert answer.json == {"status": "ready", "upstreams": {"default": "ready"}}


@pytest.mark.parametrize("fault", [Reply(503), Abort(), None])
async def test_not_ready_says_why(fault: Answer | None, running_proxy: RunProxy) -> None:
    async with ScriptedUpstream(*([] if fault is None else [fault])) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        if fault is None:
            await upstream.__aexit__(None, None, None)
        answer = await ask(proxy.port, "/ready", method="GET")
    assert answer.status == 503
    assert answer.json["status"] == "not ready"
    reason = answer.json["upstreams"]["default"]
    assert reason != "ready"
    assert "127.0.0.1" not in reason


async def test_one_upstream_of_two_suffices(running_proxy: RunProxy) -> None:
    async with ScriptedUpstream(Reply(200)) as good, ScriptedUpstream(Reply(500)) as bad:
        upstreams = {"good": Upstream(url=good.url), "bad": Upstream(url=bad.url)}
        proxy = await running_proxy(Settings(upstreams=upstreams))
        answer = await ask(proxy.port, "/ready", method="GET")
    assert answer.status == 200
    assert answer.json["upstreams"]["good"] == "ready"
    assert "500" in answer.json["upstreams"]["bad"]


async def test_silent_upstream_does_not_hold_readiness_back(
    running_proxy: RunProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orchestrators ask with limits of seconds; generation's limit is ten minutes."""
    monkeypatch.setattr("proxy.routing._PROBE_LIMIT_S", 0.1)

    async def never(_: object) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    async with ScriptedUpstream(handler=never) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        answer = await asyncio.wait_for(ask(proxy.port, "/ready", method="GET"), 5)
    assert answer.status == 503
    assert "does not answer within" in answer.json["upstreams"]["default"]


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/v1/models?client_version=1"])
async def test_models_of_the_upstream(path: str, running_proxy: RunProxy) -> None:
    """Its own members stay, but for those that tell of its disk."""
    async with ScriptedUpstream(Reply.json(MODELS)) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        answer = await ask(proxy.port, path, method="GET")
    first, second = answer.json["data"]
    assert answer.json["object"] == "list"
    assert first == MODELS["data"][0]
    assert second == {"id": "tiny", "object": "model"}
    assert upstream.requests[0].path == "/v1/models"


@pytest.mark.parametrize("name", ["org/name", "org%2Fname", "tiny"])
async def test_one_model(name: str, running_proxy: RunProxy) -> None:
    async with ScriptedUpstream(Reply.json(MODELS)) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        answer = await ask(proxy.port, f"/v1/models/{name}", method="GET")
    assert (answer.status, answer.json["id"]) == (200, name.replace("%2F", "/"))


@pytest.mark.parametrize("name", ["gone", "org", "org/name/x", "%00", "a%0d%0ab", "%FF"])
async def test_unknown_model(name: str, running_proxy: RunProxy) -> None:
    async with ScriptedUpstream(Reply.json(MODELS)) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        answer = await ask(proxy.port, f"/v1/models/{name}", method="GET")
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/tiny"])
@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Reply.json({"error": {"message": "no"}}, 401), 401),
        (Reply.json({"error": {"message": "no"}}, 429, {"retry-after": "5"}), 429),
        (Reply(500), 500),
        (Reply(200, body=b"<html>"), 502),
        (Reply.json([]), 502),
        (Reply.json({"data": 5}), 502),
        (Reply.json({}), 502),
        (Reply(200, {"content-encoding": "gzip"}, b"{}"), 502),
    ],
)
async def test_list_that_cannot_be_had(
    path: str, fault: Answer, status: int, running_proxy: RunProxy
) -> None:
    async with ScriptedUpstream(fault) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        answer = await ask(proxy.port, path, method="GET")
    assert answer.status == status
    assert answer.error["message"]


async def test_list_that_breaks_off(running_proxy: RunProxy) -> None:
    """The transport repeats a GET once, which does no harm."""
    async with ScriptedUpstream(Abort(), Abort()) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        answer = await ask(proxy.port, "/v1/models", method="GET")
    assert (answer.status, answer.error["code"]) == (502, "upstream_stream_truncated")


async def test_list_when_nothing_listens(running_proxy: RunProxy) -> None:
    async with ScriptedUpstream() as upstream:
        settings = using(upstream, "chat")
    proxy = await running_proxy(settings)
    answer = await ask(proxy.port, "/v1/models", method="GET")
    assert (answer.status, answer.error["code"]) == (503, "upstream_unavailable")


async def test_entries_that_are_no_objects_are_left_out(running_proxy: RunProxy) -> None:
    async with ScriptedUpstream(Reply.json({"data": [5, None, {"id": "x"}]})) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        answer = await ask(proxy.port, "/v1/models", method="GET")
    assert answer.json["data"] == [{"id": "x"}]


def two(one: ScriptedUpstream, other: ScriptedUpstream) -> Settings:
    return Settings(
        upstreams={
            "one": Upstream(url=one.url, speaks="chat"),
            "other": Upstream(url=other.url, speaks="chat"),
        },
        models=[
            Model(name="a/b", upstream="one"),
            Model(name="c", upstream="other", upstream_model="real"),
        ],
    )


async def test_configured_models_are_the_list(running_proxy: RunProxy) -> None:
    """No upstream is asked for it."""
    async with ScriptedUpstream() as one, ScriptedUpstream() as other:
        proxy = await running_proxy(two(one, other))
        answer = await ask(proxy.port, "/v1/models", method="GET")
        single = await ask(proxy.port, "/v1/models/a/b", method="GET")
    assert [entry["id"] for entry in answer.json["data"]] == ["a/b", "c"]
    for entry in answer.json["data"]:
        assert entry["object"] == "model"
        assert isinstance(entry["created"], int)
        assert isinstance(entry["owned_by"], str)
    assert single.json == answer.json["data"][0]
    assert one.requests == other.requests == []


async def test_requests_go_where_their_model_is(running_proxy: RunProxy) -> None:
    async with (
        ScriptedUpstream(Reply.json(chat_reply())) as one,
        ScriptedUpstream(Reply.json(chat_reply())) as other,
    ):
        proxy = await running_proxy(two(one, other))
        await ask(proxy.port, RESPONSES, {"model": "a/b", "input": "x"})
        await ask(proxy.port, CHAT, {"model": "c", "messages": []})
    assert [request.json["model"] for request in one.requests] == ["a/b"]
    assert [request.json["model"] for request in other.requests] == ["real"]


@pytest.mark.parametrize("path", [RESPONSES, CHAT])
@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("gone", 404, "model_not_found"),
        (None, 400, None),
        (5, 404, "model_not_found"),
        (["a/b"], 404, "model_not_found"),
        ("\ud800", 404, "model_not_found"),
    ],
)
async def test_model_that_is_not_configured(
    path: str, model: JSON, status: int, code: str | None, running_proxy: RunProxy
) -> None:
    async with ScriptedUpstream() as one, ScriptedUpstream() as other:
        proxy = await running_proxy(two(one, other))
        body = {"model": model, "input": "x", "messages": []}
        sent = b'{"model":"\\ud800"}' if model == "\ud800" else body
        answer = await ask(proxy.port, path, sent)
    assert (answer.status, answer.error["code"]) == (status, code)
    assert answer.error["param"] == "model"


# --- what an upstream speaks ---------------------------------------------------------------


def auto(upstream: ScriptedUpstream) -> Settings:
    return Settings(upstreams={"default": Upstream(url=upstream.url, speaks="auto")})


def speaking(*paths: str, status: int = 400) -> ScriptedUpstream:
    """An upstream that has these endpoints; they complain about an empty body."""

    def answer(request: object) -> Reply:
        path, body = getattr(request, "path", ""), getattr(request, "body", b"")
        if path not in paths:
            return Reply.json({"detail": "Not Found"}, 404)
        return Reply.json({"error": {"message": "?"}}, status) if body == b"{}" else Reply(418)

    return ScriptedUpstream(handler=answer)


@pytest.mark.parametrize(
    ("paths", "spoken"),
    [((CHAT,), CHAT), ((RESPONSES,), RESPONSES), ((CHAT, RESPONSES), CHAT), ((), CHAT)],
)
async def test_auto_asks_once_and_prefers_chat(
    paths: tuple[str, ...], spoken: str, running_proxy: RunProxy
) -> None:
    async with speaking(*paths) as upstream:
        proxy = await running_proxy(auto(upstream))
        body = {"model": "m", "input": "x", "messages": [{"role": "user", "content": "x"}]}
        for _ in range(2):
            await asyncio.gather(*(ask(proxy.port, path, body) for path in (CHAT, RESPONSES)))
    asked = [request.path for request in upstream.requests if request.body == b"{}"]
    assert asked == ([CHAT] if CHAT in paths else [CHAT, RESPONSES])
    assert [request.path for request in upstream.requests if request.body != b"{}"] == [spoken] * 4


async def test_auto_asks_with_the_upstreams_key(running_proxy: RunProxy) -> None:
    async with speaking(RESPONSES, status=401) as upstream:
        settings = Settings(upstreams={"default": Upstream(url=upstream.url, key="sk-up")})
        proxy = await running_proxy(settings)
        await ask(proxy.port, RESPONSES, {"model": "m", "input": "x"})
    assert {request.headers["authorization"] for request in upstream.requests} == {"Bearer sk-up"}
    assert upstream.requests[-1].path == RESPONSES


@pytest.mark.parametrize("fault", [Reply(502), Reply(503), Reply(504), Abort()])
async def test_auto_learns_nothing_from_a_server_that_is_not_up(
    fault: Answer, running_proxy: RunProxy
) -> None:
    """A gateway's 503 while its server loads says nothing about dialects."""
    async with ScriptedUpstream(fault, fault) as upstream:
        proxy = await running_proxy(auto(upstream))
        body = {"model": "m", "input": "x"}
        first = await ask(proxy.port, RESPONSES, body)
        assert first.status >= 502
        del upstream._script[:]
        upstream._handler = speaking(RESPONSES)._handler
        before = len(upstream.requests)
        await ask(proxy.port, RESPONSES, body)
    assert [request.path for request in upstream.requests[before:]] == [CHAT, RESPONSES, RESPONSES]


def test_router_takes_the_first_upstream_without_models() -> None:
    demo = Upstream(demo=True)
    first, second = build_upstreams(Settings(upstreams={"a": demo, "b": demo}))
    router = Router([first, second], [], 0)
    for name in ("anything", None):
        assert router.find(name).upstream is first
        assert router.find(name).public_model is None
