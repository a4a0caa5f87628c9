"""Endpoints that are relayed by a list: where they go, what passes, and what is refused."""

import asyncio
from pathlib import Path

import httpx
import msgspec
import pytest
from structlog.typing import EventDict

from proxy.loading import load
from proxy.settings import Model, Server, Settings, Upstream, public
from proxy.surface import USUAL, read_endpoints, served_paths
from proxy.tables import SettingsError
from tests.proxy.caller import Call, ask
from tests.proxy.conftest import RunProxy
from tests.proxy.test_departures import closing, ended
from tests.proxy.test_streams import using
from tests.upstream import Abort, Piece, Reply, ScriptedUpstream, StreamReply
from translators.wire import JSON

server = pytest.mark.server


def aliased(upstream: ScriptedUpstream, **members: JSON) -> Settings:
    """Two upstreams, of which the second serves ``public`` as ``real``."""
    return Settings(
        upstreams={
            "default": Upstream(url="http://127.0.0.1:9/v1"),
            "main": Upstream(url=upstream.url),
        },
        models=[
            Model(name="public", upstream="main", upstream_model="real", sets={"seed": 1}),
            Model(name="same", upstream="main"),
        ],
        **members,
    )


def form(**fields: str) -> tuple[bytes, dict[str, str]]:
    """A form with a file, and its headers."""
    files = {"file": ("a.wav", b"\x00\xff\r\n--" * 100, "audio/wav")}
    request = httpx.Request("POST", "http://x", data=fields, files=files)
    return request.read(), {"content-type": request.headers["content-type"]}


@server
@pytest.mark.parametrize("path", USUAL)
async def test_usual_endpoints_pass_both_ways(path: str, running_proxy: RunProxy) -> None:
    """Each at its own place, beside the API root if it is there."""
    body = b'{ "model" : "m", "x": 1e400 }'
    reply = Reply(200, {"content-type": "application/json", "metadata": "{}"}, b'{ "y": 1E5 }')
    async with ScriptedUpstream(reply) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        answer = await ask(proxy.port, path, body)
    (request,) = upstream.requests
    assert (request.method, request.path, request.body) == ("POST", path, body)
    assert request.headers["content-type"] == "application/json"
    assert (answer.status, answer.body) == (200, reply.body)
    assert answer.headers["metadata"] == "{}"


@server
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/embeddings", "/v1/embeddings"),
        ("/audio/speech", "/v1/audio/speech"),
        ("/score", "/score"),
        ("/v1/score", "/v1/score"),
        ("/rerank", "/rerank"),
    ],
)
async def test_api_root_may_be_left_out(path: str, expected: str, running_proxy: RunProxy) -> None:
    async with ScriptedUpstream(Reply(200)) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        await ask(proxy.port, path, {"model": "m"})
    assert upstream.requests[0].path == expected


@server
async def test_what_is_not_listed_is_not_relayed(running_proxy: RunProxy) -> None:
    async with ScriptedUpstream() as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        for path in ("/v1/load_lora_adapter", "/pause", "/metrics", "/invocations", "/v1/tokenize"):
            answer = await ask(proxy.port, path, {"model": "m"})
            assert (answer.status, answer.error["code"]) == (404, "unsupported_endpoint")
    assert upstream.requests == []


@server
@pytest.mark.parametrize(("headers", "status"), [({}, 405), ({"upgrade": "websocket"}, 426)])
async def test_other_methods_are_refused(
    headers: dict[str, str], status: int, running_proxy: RunProxy
) -> None:
    async with ScriptedUpstream() as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        answer = await ask(proxy.port, "/v1/embeddings", headers=headers, method="GET")
    assert (answer.status, answer.headers["allow"]) == (status, "POST")
    assert "POST requests only" in answer.error["message"]


@server
async def test_setting_names_the_endpoints(running_proxy: RunProxy) -> None:
    """With both methods where both are listed; queries pass."""
    relay = ("GET /version", "GET /v1/things", "/v1/things")
    async with ScriptedUpstream(handler=lambda _: Reply.json({})) as upstream:
        settings = msgspec.structs.replace(using(upstream, "chat"), server=Server(relay=relay))
        proxy = await running_proxy(settings)
        get = await ask(proxy.port, "/version?a=%20b&c=%C3%A9", method="GET")
        assert get.status == 200
        await ask(proxy.port, "/v1/things", b"")
        await ask(proxy.port, "/v1/things", method="GET")
        refused = await ask(proxy.port, "/v1/things", method="DELETE")
        assert refused.headers["allow"] == "GET, POST"
        assert (await ask(proxy.port, "/tokenize", {})).status == 404
    got = [(request.method, request.path) for request in upstream.requests]
    assert got == [
        ("GET", "/version?a=%20b&c=%C3%A9"),
        ("POST", "/v1/things"),
        ("GET", "/v1/things"),
    ]
    assert "content-type" not in upstream.requests[0].headers
    assert "content-type" not in upstream.requests[1].headers


@server
async def test_alias_changes_the_model_and_nothing_else(running_proxy: RunProxy) -> None:
    """Members that settings add belong to generation."""
    async with ScriptedUpstream(handler=lambda _: Reply.json({})) as upstream:
        proxy = await running_proxy(aliased(upstream))
        for name in ("public", "same"):
            await ask(proxy.port, "/tokenize", f'{{"model": "{name}", "x": 1e400}}'.encode())
    sent, kept = upstream.requests
    assert msgspec.json.decode(sent.body, type=dict[str, msgspec.Raw]) == {
        "model": msgspec.Raw(b'"real"'),
        "x": msgspec.Raw(b"1e400"),
    }
    assert kept.body == b'{"model": "same", "x": 1e400}'


@server
async def test_sound_of_an_alias_passes_piece_by_piece(running_proxy: RunProxy) -> None:
    """There is no name in it to put back."""
    go_on = asyncio.Event()
    reply = StreamReply([b"RIFF", go_on, b'"model"'], {"content-type": "audio/wav"})
    async with ScriptedUpstream(reply) as upstream:
        proxy = await running_proxy(aliased(upstream))
        async with Call(proxy.port, "/v1/audio/speech", {"model": "public"}) as call:
            assert await call.chunk() == b"RIFF"
            go_on.set()
            assert await call.chunk() == b'"model"'
            assert await call.chunk() == b""


@server
async def test_forms_are_routed_by_their_model(running_proxy: RunProxy) -> None:
    async with ScriptedUpstream(handler=lambda _: Reply.json({"text": "hi"})) as upstream:
        proxy = await running_proxy(aliased(upstream))
        for name in ("public", "same"):
            body, headers = form(model=name, language="en")
            answer = await ask(proxy.port, "/v1/audio/transcriptions", body, headers)
            assert answer.json == {"text": "hi"}
            request = upstream.requests[-1]
            assert request.headers["content-type"] == headers["content-type"]
            expected = body.replace(b"\r\n\r\npublic\r\n", b"\r\n\r\nreal\r\n")
            assert request.body == expected


@server
async def test_form_with_two_models_is_refused(running_proxy: RunProxy) -> None:
    """Servers take the last one, which nobody would have looked at."""
    request = httpx.Request("POST", "http://x", files=[("model", (None, m)) for m in ("same", "b")])
    headers = {"content-type": request.headers["content-type"]}
    async with ScriptedUpstream() as upstream:
        proxy = await running_proxy(aliased(upstream))
        answer = await ask(proxy.port, "/v1/audio/transcriptions", request.read(), headers)
    assert (answer.status, answer.error["param"]) == (400, "model")
    assert upstream.requests == []


@server
async def test_form_without_a_model_goes_to_the_only_upstream(running_proxy: RunProxy) -> None:
    async with ScriptedUpstream(Reply.json({})) as upstream:
        proxy = await running_proxy(
            msgspec.structs.replace(using(upstream, "chat"), models=[Model(name="other")])
        )
        body, headers = form(language="en")
        assert (await ask(proxy.port, "/v1/audio/translations", body, headers)).status == 200
    assert upstream.requests[0].body == body


@server
@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"model": "gone"}, 404, "model_not_found", "model"),
        ({"prompt": "x"}, 400, None, "model"),
        (b"", 400, None, "model"),
        (b"[1]", 400, None, None),
        (b"nonsense", 400, None, None),
    ],
)
async def test_refusals_are_in_openais_envelope(
    body: JSON, status: int, code: str | None, param: str | None, running_proxy: RunProxy
) -> None:
    async with ScriptedUpstream() as upstream:
        proxy = await running_proxy(aliased(upstream))
        answer = await ask(proxy.port, "/tokenize", body)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (status, code, param)
    assert upstream.requests == []


@server
async def test_get_that_could_go_anywhere_is_refused(running_proxy: RunProxy) -> None:
    async with ScriptedUpstream() as upstream:
        proxy = await running_proxy(aliased(upstream, server=Server(relay=("GET /version",))))
        answer = await ask(proxy.port, "/version", method="GET")
    assert (answer.status, upstream.requests) == (400, [])
    assert "there are several upstreams" in answer.error["message"]


@server
async def test_an_unreachable_upstream_is_an_error_in_openais_envelope(
    running_proxy: RunProxy, log_lines: list[EventDict]
) -> None:
    async with ScriptedUpstream() as upstream:
        settings = using(upstream, "chat")
    proxy = await running_proxy(settings)
    answer = await ask(proxy.port, "/v1/embeddings", {"model": "m", "input": "x"})
    assert (answer.status, answer.error["code"]) == (503, "upstream_unavailable")
    (line,) = log_lines
    assert line["caller"] == "/v1/embeddings"
    assert (line["model"], line["upstream"], line["status"]) == ("m", "default", 503)


@server
async def test_errors_of_the_upstream_pass_as_they_are(running_proxy: RunProxy) -> None:
    reply = Reply.json({"error": {"message": "no", "extra": 1}}, 404, {"retry-after": "3"})
    async with ScriptedUpstream(reply) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        answer = await ask(proxy.port, "/v1/embeddings", {"model": "m"})
    assert (answer.status, answer.body) == (404, reply.body)
    assert answer.headers["retry-after"] == "3"


@server
async def test_streams_pass_piece_by_piece(
    running_proxy: RunProxy, log_lines: list[EventDict]
) -> None:
    """With the token counts at their end in the log."""
    go_on = asyncio.Event()
    usage = b'data: {"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
    async with ScriptedUpstream(StreamReply([b"data: {}\n\n", go_on, usage])) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        async with Call(proxy.port, "/v1/completions", {"model": "m", "stream": True}) as call:
            assert await call.chunk() == b"data: {}\n\n"
            go_on.set()
            assert await call.chunk() == usage
            assert await call.chunk() == b""
        await ended(proxy)
    (line,) = log_lines
    assert line["stream"] is True
    assert (line["input_tokens"], line["output_tokens"]) == (3, 2)


@server
async def test_broken_stream_is_left_unfinished(running_proxy: RunProxy) -> None:
    async with ScriptedUpstream(StreamReply([b"data: {}\n\n", Abort()])) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        answer = await ask(proxy.port, "/v1/completions", {"model": "m", "stream": True})
    assert (answer.status, answer.is_whole) == (200, False)


@server
@pytest.mark.parametrize("is_begun", [False, True])
async def test_caller_who_leaves_closes_the_upstream(
    is_begun: bool, running_proxy: RunProxy
) -> None:
    never = asyncio.Event()
    pieces: list[Piece] = [b"RIFF", never] if is_begun else [never]
    async with ScriptedUpstream(StreamReply(pieces)) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        async with Call(proxy.port, "/v1/audio/speech", {"model": "m"}) as call:
            if is_begun:
                await call.chunk()
            await closing(call, upstream)


@server
async def test_headers_pass_by_the_same_list(running_proxy: RunProxy) -> None:
    """And the caller's ``accept``, since replies are of many kinds."""
    passed = {"content-type": "audio/mpeg", "content-disposition": "attachment"}
    reply = Reply(200, {**passed, "set-cookie": "y"})
    async with ScriptedUpstream(reply, reply) as upstream:
        upstreams = {"default": Upstream(url=upstream.url, key="sk-ours")}
        proxy = await running_proxy(Settings(upstreams=upstreams))
        headers = {
            "authorization": "Bearer theirs",
            "accept": "audio/*",
            "x-request-id": "id-1",
            "cookie": "secret",
            "content-type": "application/x-www-form-urlencoded",
        }
        answer = await ask(proxy.port, "/v1/audio/speech", {"model": "m"}, headers)
        await ask(proxy.port, "/v1/audio/speech", {"model": "m"})
    sent, bare = (request.headers for request in upstream.requests)
    assert sent["authorization"] == "Bearer sk-ours"
    assert (sent["accept"], sent["x-request-id"]) == ("audio/*", "id-1")
    assert sent["content-type"] == "application/json"
    assert "cookie" not in sent
    assert bare["x-request-id"]
    assert passed.items() <= answer.headers.items()
    assert "set-cookie" not in answer.headers


@server
async def test_session_of_a_relayed_request_is_told_by_headers_only(
    running_proxy: RunProxy,
) -> None:
    """What is embedded is no conversation; those without a session spread."""
    async with ScriptedUpstream(handler=lambda _: Reply.json({})) as upstream:
        urls = [f"{upstream.url[:-3]}/{n}/v1" for n in range(2)]
        proxy = await running_proxy(Settings(upstreams={"default": Upstream(urls=urls)}))
        for session in ({}, {"x-session-id": "s"}):
            for _ in range(4):
                await ask(proxy.port, "/v1/embeddings", {"model": "m", "input": "x"}, session)
    paths = [request.path for request in upstream.requests]
    assert sorted(paths[:4]) == ["/0/v1/embeddings"] * 2 + ["/1/v1/embeddings"] * 2
    assert len(set(paths[4:])) == 1


def test_default_is_part_of_a_list() -> None:
    usual = read_endpoints(["default"])
    assert [endpoint.path for endpoint in usual] == list(USUAL)
    assert read_endpoints(["GET /version", "default", "/tokenize"])[1:] == usual
    assert read_endpoints([]) == []


def test_own_paths_are_not_taken() -> None:
    """A path whose short form is ours is served in its long form only."""
    assert set(served_paths(read_endpoints(["GET /v1/health", "/v1/x"]))) == {
        *("/v1/health", "/v1/x", "/x")
    }


def test_only_v1_itself_is_the_api_root() -> None:
    one, other = read_endpoints(["/v1/x", "/v1beta/x"])
    assert (one.upstream_path, one.is_at_root) == ("/x", False)
    assert (other.upstream_path, other.is_at_root) == ("/v1beta/x", True)


WRONG = {
    "word": ("all", "'all' is no endpoint; expected a path such as '/v1/embeddings'"),
    "method": ("PUT /x", "is no endpoint"),
    "slash": ("/v1/", "is no endpoint"),
    "dots": ("/v1/../pause", "is no endpoint"),
    "query": ("/x?y", "is no endpoint"),
    "parameter": ("/v1/files/{id}", "is no endpoint"),
    "ours": ("/v1/chat/completions", "the proxy itself answers '/v1/chat/completions'"),
    "ours, short": ("GET /models", "the proxy itself answers '/models'"),
    "compaction": ("/v1/responses/compact", "the proxy itself answers"),
    "health": ("GET /health", "the proxy itself answers '/health'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_setting(case: str, tmp_path: Path) -> None:
    entry, right = WRONG[case]
    path = tmp_path / "dragoman.toml"
    path.write_text(f'[server]\n\nrelay = ["default", "{entry}"]\n')
    with pytest.raises(SettingsError) as caught:
        load(path, {}, {})
    message = str(caught.value)
    assert message.startswith(f"{path}:3: server.relay[1]: ")
    assert right in message


def test_setting_is_shown() -> None:
    assert list(public(Settings())["server"]["relay"]) == ["default"]
