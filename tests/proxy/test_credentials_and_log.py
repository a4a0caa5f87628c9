"""Whose key goes where, which headers pass, and what the log may tell."""

import asyncio
import io
from collections.abc import Iterator

import pytest
import structlog
from structlog.typing import EventDict

from proxy.log import redact
from proxy.settings import Settings, Upstream
from tests.proxy.caller import BrokenOff, Call, ask
from tests.proxy.conftest import RunProxy
from tests.proxy.dialects import (
    CHAT,
    RESPONSES,
    chat_reply,
    chat_request,
    chat_stream,
    responses_request,
)
from tests.proxy.test_streams import WAYS, using, way
from tests.upstream import Answer, ReceivedRequest, Reply, ScriptedUpstream, StreamReply

pytestmark = pytest.mark.server

CALLERS = "Bearer sk-callers-own"


def answering(request: ReceivedRequest) -> Reply:
    return Reply.json(chat_reply() if request.path == CHAT else {"data": []})


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
async def test_callers_key_passes_where_the_upstream_has_none(
    path: str, running_proxy: RunProxy
) -> None:
    async with ScriptedUpstream(handler=answering) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        body = {**chat_request(), **responses_request()}
        await ask(proxy.port, path, body, {"Authorization": CALLERS})
        await ask(proxy.port, "/v1/models", headers={"Authorization": CALLERS}, method="GET")
        await ask(proxy.port, path, body)
    seen = [request.headers.get("authorization") for request in upstream.requests]
    assert seen == [CALLERS, CALLERS, None]


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
async def test_upstreams_key_takes_the_place_of_the_callers(
    path: str, running_proxy: RunProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also that of a key from a file, with a line end."""
    monkeypatch.setenv("UPSTREAM_KEY", " sk-upstream\r\n")
    async with ScriptedUpstream(handler=answering) as upstream:
        server = Upstream(url=upstream.url, speaks="chat", key_env="UPSTREAM_KEY")
        proxy = await running_proxy(Settings(upstreams={"default": server}))
        body = {**chat_request(), **responses_request()}
        for given in ([("Authorization", CALLERS)], [("authorization", CALLERS)] * 2, []):
            await ask(proxy.port, path, body, given)
            await ask(proxy.port, "/v1/models", headers=given, method="GET")
        await ask(proxy.port, "/ready", method="GET")
    assert {r.headers["authorization"] for r in upstream.requests} == {"Bearer sk-upstream"}
    assert len(upstream.requests) == 7


@way
async def test_only_listed_headers_pass(way: str, running_proxy: RunProxy) -> None:
    path, request, speaks, _ = WAYS[way]
    passed = {
        "x-request-id": "r",
        "traceparent": "00-1-2-01",
        "session_id": "s",
        "openai-beta": "x=v1",
        "idempotency-key": "i",
    }
    dropped = {
        "cookie": "session=secret",
        "proxy-authorization": "Basic secret",
        "x-api-key": "secret",
        "api-key": "secret",
        "forwarded": "for=1.2.3.4",
        "x-forwarded-for": "1.2.3.4",
        "te": "trailers",
        "keep-alive": "timeout=5",
        "connection": "keep-alive, x-custom",
        "x-custom": "1",
        "origin": "https://x",
        "accept-encoding": "gzip, br",
        "user-agent": "SDK/1",
        "content-type": "application/json; charset=utf-8",
        "accept": "*/*",
    }
    async with ScriptedUpstream(Reply(500)) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        await ask(proxy.port, path, request(), {**passed, **dropped})
        host = f"127.0.0.1:{upstream.port}"
    sent = dict(upstream.requests[0].headers)
    assert sent == {
        **passed,
        "host": host,
        "accept": "application/json",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "content-length": str(len(upstream.requests[0].body)),
    }


# --- the log -------------------------------------------------------------------------------

SECRETS = ("sk-callers-own", "sk-upstream", "my secret prompt", "a secret answer", "cookie-value")


@pytest.fixture
def rendered() -> Iterator[io.StringIO]:
    """The log as text, down to debug level."""
    out = io.StringIO()
    before = structlog.get_config()
    structlog.configure(
        processors=[
            redact,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(0),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    yield out
    structlog.configure(**before)


@way
async def test_log_holds_neither_keys_nor_texts(
    way: str, running_proxy: RunProxy, rendered: io.StringIO, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether it went well or not, and whoever was at fault."""
    path, request, speaks, stream = WAYS[way]
    error = {"error": {"message": "cannot say: my secret prompt, key sk-upstream"}}
    replies: list[Answer] = [
        StreamReply(stream(["a secret answer"])),
        Reply.json(error, 400),
        Reply.json(error, 500),
        Reply(200, body=b"my secret prompt, but no JSON"),
        StreamReply([b"data: my secret prompt\n\n"]),
    ]
    async with ScriptedUpstream(*replies) as upstream:
        server = Upstream(url=upstream.url, speaks=speaks, key="sk-upstream")
        proxy = await running_proxy(Settings(upstreams={"default": server}))
        headers = {"authorization": CALLERS, "cookie": "cookie-value"}
        body = request("my secret prompt", stream=True)
        for _ in replies:
            await ask(proxy.port, path, body, headers)
        await ask(proxy.port, path, b"my secret prompt", headers)
        await ask(proxy.port, path, {**body, "tools": "my secret prompt"}, headers)
    text = rendered.getvalue() + caplog.text
    assert text.count('"event": "request"') == len(replies) + 2
    assert not any(secret in text for secret in SECRETS)


@pytest.mark.parametrize("stream", [True, False])
async def test_one_line_for_each_request(
    stream: bool, running_proxy: RunProxy, log_lines: list[EventDict]
) -> None:
    reply = StreamReply(chat_stream(["x"])) if stream else Reply.json(chat_reply())
    async with ScriptedUpstream(reply) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        body = responses_request(stream=stream, truncation="auto")
        await ask(proxy.port, RESPONSES, body, {"x-request-id": "r-1"})
    (line,) = log_lines
    assert (line["event"], line["log_level"], line["outcome"]) == ("request", "info", "ok")
    assert (line["request_id"], line["caller"], line["speaks"]) == ("r-1", "responses", "chat")
    assert (line["upstream"], line["model"], line["stream"]) == ("default", "m", stream)
    assert (line["status"], line["input_tokens"], line["output_tokens"]) == (200, 3, 2)
    assert 0 < line["upstream_ms"] <= line["first_byte_ms"] <= line["total_ms"]
    assert line["losses"] == ["truncation: the context is never cut"]


async def test_refusals_have_a_line_too(
    running_proxy: RunProxy, log_lines: list[EventDict]
) -> None:
    """A caller's fault is no warning, an upstream's is one."""
    async with ScriptedUpstream(Reply(429), Reply(500)) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        await ask(proxy.port, RESPONSES, b"{")
        for _ in range(2):
            await ask(proxy.port, RESPONSES, responses_request())
    assert [line["status"] for line in log_lines] == [400, 429, 500]
    assert [line["log_level"] for line in log_lines] == ["info", "info", "warning"]
    assert {line["outcome"] for line in log_lines} == {"error"}


async def test_relayed_error_is_logged_as_one(
    running_proxy: RunProxy, log_lines: list[EventDict]
) -> None:
    """An upstream's 500 looks the same in the log, translated or relayed."""
    async with ScriptedUpstream(Reply(500), Reply(429)) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        for _ in range(2):
            await ask(proxy.port, CHAT, chat_request())
    assert [line["outcome"] for line in log_lines] == ["error", "error"]
    assert [line["log_level"] for line in log_lines] == ["warning", "info"]


async def test_fault_of_ours_is_logged_as_one(
    running_proxy: RunProxy, log_lines: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody expected gets status 500, a traceback, and no 'ok' in its line."""

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("proxy.exchange.Translation.request", broken)
    async with ScriptedUpstream() as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        answer = await ask(proxy.port, RESPONSES, responses_request())
    assert (answer.status, answer.error["type"]) == (500, "server_error")
    outcomes = {line["event"]: line.get("outcome") for line in log_lines}
    assert outcomes == {"request": "error", "unexpected error": None}


async def test_request_that_the_shutdown_cuts_off_is_not_ok(
    running_proxy: RunProxy, log_lines: list[EventDict]
) -> None:
    silent = asyncio.Event()
    async with ScriptedUpstream(StreamReply([chat_stream(["x"])[0], silent])) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        async with Call(proxy.port, RESPONSES, responses_request(stream=True)) as call:
            await call.chunk()
            for task in list(proxy.server.server_state.tasks):
                task.cancel()  # as uvicorn does when its patience ends
            with pytest.raises(BrokenOff):
                await call.chunk()
        await upstream.requests[0].closed()
    (line,) = log_lines
    assert line["outcome"] == "cancelled"


def test_names_of_secrets_hide_their_values() -> None:
    event = {"api_key": "x", "Authorization": "x", "input_tokens": 3, "hf_token": "x", "model": "m"}
    assert redact(None, "info", dict(event)) == {
        "api_key": "(hidden)",
        "Authorization": "(hidden)",
        "input_tokens": 3,
        "hf_token": "(hidden)",
        "model": "m",
    }
