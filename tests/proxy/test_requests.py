"""Requests that are wrong, oversized, compressed, or at the wrong place."""

import asyncio
import gzip
import random
import zlib
from collections.abc import AsyncIterator

import msgspec
import pytest
import zstandard

from proxy.settings import Server, Settings, Upstream
from tests.proxy.caller import Answer, Call, ask
from tests.proxy.conftest import RunningProxy, RunProxy
from tests.proxy.dialects import (
    CHAT,
    RESPONSES,
    chat_reply,
    chat_request,
    responses_reply,
    responses_request,
)
from tests.proxy.test_streams import using
from tests.upstream import ReceivedRequest, Reply, ScriptedUpstream
from translators.profiles import HostedTools, Policy
from translators.wire import JSON

pytestmark = pytest.mark.server

LIMIT = 100_000


def answering(request: ReceivedRequest) -> Reply:
    return Reply.json(chat_reply() if request.path.endswith("completions") else responses_reply())


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream(handler=answering) as upstream:
        yield upstream


@pytest.fixture
async def proxy(upstream: ScriptedUpstream, running_proxy: RunProxy) -> RunningProxy:
    """A proxy before a Chat upstream; bodies may have 100 kB."""
    return await running_proxy(
        Settings(
            server=Server(max_body_bytes=LIMIT),
            upstreams={"default": Upstream(url=upstream.url, speaks="chat")},
        )
    )


both = pytest.mark.parametrize("path", [RESPONSES, CHAT])


@both
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "JSON"),
        (b"hello", "JSON"),
        (b"{", "JSON"),
        (b'{"model":"m"} x', "JSON"),
        (b'{"model":"m",}', "JSON"),
        (b'{"model":"\xff"}', "JSON"),
        (b"\xef\xbb\xbf{}", "JSON"),
        (b"[]", "an array"),
        (b"null", "null"),
        (b'"x"', "a string"),
        (b"5", "a number"),
        (b"true", "a boolean"),
    ],
)
async def test_body_that_is_no_object(
    path: str, body: bytes, words: str, proxy: RunningProxy, upstream: ScriptedUpstream
) -> None:
    answer = await ask(proxy.port, path, body)
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"
    assert words in answer.error["message"]
    assert upstream.requests == []


@both
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"x":' * 20_000,
        b'{"model":"m","x":' + b"[" * 40_000 + b"]" * 40_000 + b"}",
        b'{"model":"\\ud800","x":' + b"[" * 40_000 + b"]" * 40_000 + b"}",
    ],
    ids=["brackets", "objects", "closed", "surrogate"],
)
async def test_deep_nesting(path: str, body: bytes, proxy: RunningProxy) -> None:
    answer = await ask(proxy.port, path, body)
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "model"),
        ({"model": 5, "input": "x"}, "model"),
        ({"model": "m", "input": 5}, "input"),
        ({"model": "m", "input": ["x"]}, "input[0]"),
        (
            {"model": "m", "input": [{"role": "user", "content": [{"type": "input_text"}]}]},
            "input[0].content[0].text",
        ),
        ({"model": "m", "input": "x", "tools": {}}, "tools"),
        ({"model": "m", "input": "x", "tools": [{"type": "function"}]}, "tools[0].name"),
        ({"model": "m", "input": "x", "stream": "yes"}, "stream"),
        ({"model": "m", "input": "x", "previous_response_id": "r"}, "previous_response_id"),
    ],
)
async def test_wrong_member_is_named(body: JSON, param: str, proxy: RunningProxy) -> None:
    """``param`` is the path in the caller's own schema."""
    answer = await ask(proxy.port, RESPONSES, body)
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["param"] == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "m"}, "messages"),
        ({"model": "m", "messages": "x"}, "messages"),
        ({"model": "m", "messages": ["x"]}, "messages[0]"),
        ({"model": "m", "messages": [{"content": "x"}]}, "messages[0].role"),
    ],
)
async def test_wrong_member_of_a_chat_request_is_named(
    body: JSON, param: str, upstream: ScriptedUpstream, running_proxy: RunProxy
) -> None:
    proxy = await running_proxy(using(upstream, "responses"))
    answer = await ask(proxy.port, CHAT, body)
    assert (answer.status, answer.error["param"]) == (400, param)
    assert upstream.requests == []


@both
async def test_lone_surrogates_are_no_reason_to_refuse(path: str, proxy: RunningProxy) -> None:
    text = b'"\\ud83d half"'
    body = (
        b'{"model":"m","input":' + text + b',"messages":[{"role":"user","content":' + text + b"}]}"
    )
    assert (await ask(proxy.port, path, body)).status == 200


# --- size and compression ------------------------------------------------------------------


def big(size: int) -> bytes:
    """A valid request of about ``size`` bytes that does not compress well."""
    noise = random.Random(1).randbytes(size // 2).hex()
    return msgspec.json.encode(responses_request(noise))


@both
@pytest.mark.parametrize("declared", [True, False])
async def test_body_over_the_limit(
    path: str, declared: bool, proxy: RunningProxy, upstream: ScriptedUpstream
) -> None:
    body = big(2 * LIMIT)
    if declared:
        answer = await ask(proxy.port, path, body)
    else:
        chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        headers = {"transfer-encoding": "chunked", "content-length": ""}
        call = Call(proxy.port, path, chunked, headers)
        call._sent = call._sent.replace(b"content-length: \r\n", b"")
        async with call:
            answer = await call.answer()
    assert answer.status == 413
    assert str(LIMIT) in answer.error["message"]
    assert upstream.requests == []


@both
async def test_upload_need_not_be_over_to_be_refused(path: str, proxy: RunningProxy) -> None:
    """A caller that announces a gigabyte is told after the first hundred kilobytes."""
    headers = {"content-length": "1000000000"}
    async with Call(proxy.port, path, b"x" * 2 * LIMIT, headers) as call:
        assert await asyncio.wait_for(call.head(), 2) == 413


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def zstd_stream(data: bytes) -> bytes:
    """As a streaming compressor makes it: the frame does not tell the size."""
    compressor = zstandard.ZstdCompressor().compressobj()
    return compressor.compress(data) + compressor.flush()


@both
@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("zstd", zstd),
        ("zstd", zstd_stream),
        ("ZSTD", zstd),
        ("", zstd),
        ("", zstd_stream),
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("zstd", lambda data: zstd(data[:50]) + zstd(data[50:])),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("identity", bytes),
        ("gzip, zstd", lambda data: zstd(gzip.compress(data))),
        ("identity,gzip", gzip.compress),
    ],
)
async def test_compressed_bodies(
    path: str, encoding: str, compress: object, proxy: RunningProxy, upstream: ScriptedUpstream
) -> None:
    """Codex compresses with zstd; gateways on the way may lose the header."""
    assert callable(compress)
    request = {**responses_request("x" * 200), **chat_request("x" * 200)}
    plain = msgspec.json.encode(request)
    answer = await ask(proxy.port, path, compress(plain), {"content-encoding": encoding})
    assert answer.status == 200
    (received,) = upstream.requests
    assert received.json["messages"] == [{"role": "user", "content": "x" * 200}]
    assert "content-encoding" not in received.headers
    assert received.headers["content-length"] == str(len(received.body))


@both
@pytest.mark.parametrize("encoding", ["br", "compress", "gzip, br", "gzip,gzip,gzip,gzip,gzip"])
async def test_unknown_encoding(path: str, encoding: str, proxy: RunningProxy) -> None:
    answer = await ask(proxy.port, path, b"{}", {"content-encoding": encoding})
    assert answer.status == 415
    assert answer.error["type"] == "invalid_request_error"


@both
@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b"{}"),
        ("gzip", b""),
        ("gzip", gzip.compress(b'{"model":"m"}' * 99)[:-9]),
        ("zstd", b"{}"),
        ("zstd", b""),
        ("zstd", zstd(b'{"model":"m"}' * 99)[:-5]),
        ("deflate", b"{}"),
        ("deflate", b""),
        ("", b"\x28\xb5\x2f\xfd nonsense"),
    ],
)
async def test_corrupt_body(path: str, encoding: str, body: bytes, proxy: RunningProxy) -> None:
    answer = await ask(proxy.port, path, body, {"content-encoding": encoding})
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"


@both
@pytest.mark.parametrize(
    ("encoding", "bomb"),
    [
        ("gzip", gzip.compress(b" " * 50_000_000)),
        ("deflate", zlib.compress(b" " * 50_000_000)),
        ("zstd", zstd(b" " * 50_000_000)),
        ("zstd", zstd_stream(b" " * 50_000_000)),
        ("gzip, gzip", gzip.compress(gzip.compress(b" " * 50_000_000))),
    ],
    ids=["gzip", "deflate", "zstd", "zstd-stream", "nested"],
)
async def test_bomb(path: str, encoding: str, bomb: bytes, proxy: RunningProxy) -> None:
    """Fifty megabytes in a few kilobytes are not unpacked."""
    assert len(bomb) < LIMIT
    answer = await ask(proxy.port, path, bomb, {"content-encoding": encoding})
    assert answer.status == 413


async def test_expected_continue_is_given(proxy: RunningProxy) -> None:
    """curl asks before it sends large bodies."""
    body = msgspec.json.encode(responses_request())
    headers = {"expect": "100-continue", "content-length": str(len(body))}
    async with Call(proxy.port, RESPONSES, b"", headers) as call:
        assert await call.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        call.writer.write(body)
        assert (await call.answer()).status == 200


# --- paths and methods ---------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["/v1", ""])
@pytest.mark.parametrize("query", ["", "?api-version=1"])
async def test_paths_with_and_without_version(
    prefix: str, query: str, proxy: RunningProxy, upstream: ScriptedUpstream
) -> None:
    for path, request in (("/responses", responses_request), ("/chat/completions", chat_request)):
        answer = await ask(proxy.port, f"{prefix}{path}{query}", request())
        assert answer.status == 200
    assert {received.path for received in upstream.requests} == {CHAT}


def is_unsupported(answer: Answer, status: int) -> None:
    assert answer.status == status
    assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/v1/responses", "/v1/files", "/v1/responses/x", "/v2/responses"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_unknown_path(path: str, method: str, proxy: RunningProxy) -> None:
    answer = await ask(proxy.port, path, b"{}", method=method)
    is_unsupported(answer, 404)
    assert answer.error["code"] == "unsupported_endpoint"
    assert path in answer.error["message"]


@both
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_wrong_method(path: str, method: str, proxy: RunningProxy) -> None:
    answer = await ask(proxy.port, path, method=method)
    is_unsupported(answer, 405)
    assert answer.headers["allow"] == "POST"


@both
async def test_head_of_an_endpoint(path: str, proxy: RunningProxy) -> None:
    answer = await ask(proxy.port, path, method="HEAD")
    assert answer.status == 405


async def test_web_socket_is_declined_at_once(proxy: RunningProxy) -> None:
    """Codex takes 426 as the sign to use HTTP."""
    headers = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    answer = await ask(proxy.port, RESPONSES, headers=headers, method="GET")
    is_unsupported(answer, 426)


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/ready"])
async def test_posting_to_a_resource(path: str, proxy: RunningProxy) -> None:
    answer = await ask(proxy.port, path, b"{}")
    is_unsupported(answer, 405)
    assert "GET" in answer.headers["allow"]


async def test_request_id_is_the_callers_or_a_new_one(
    proxy: RunningProxy, upstream: ScriptedUpstream
) -> None:
    given = await ask(proxy.port, RESPONSES, responses_request(), {"x-request-id": "mine"})
    first = await ask(proxy.port, RESPONSES, responses_request())
    second = await ask(proxy.port, CHAT, b"[]")
    assert given.headers["x-request-id"] == "mine"
    assert len({given.headers["x-request-id"], first.headers["x-request-id"]}) == 2
    assert second.headers["x-request-id"]
    sent = [received.headers["x-request-id"] for received in upstream.requests]
    assert sent == ["mine", first.headers["x-request-id"]]


async def test_one_connection_serves_many_requests(proxy: RunningProxy) -> None:
    """Errors included: none of them costs the caller its connection."""
    bodies = [b"[]", msgspec.json.encode(responses_request()), b"x" * 2 * LIMIT]
    async with Call(proxy.port, RESPONSES, bodies[0]) as call:
        statuses = [(await call.answer()).status]
        for body in [*bodies[1:], bodies[1]]:
            following = Call(proxy.port, RESPONSES, body)
            following.reader, following.writer = call.reader, call.writer
            call.writer.write(following._sent)
            statuses.append((await following.answer()).status)
    assert statuses == [400, 200, 413, 200]


async def test_what_was_lost_is_told_in_a_header(proxy: RunningProxy) -> None:
    answer = await ask(proxy.port, RESPONSES, responses_request(truncation="auto"))
    assert answer.headers["x-dragoman-loss"].startswith("truncation: ")


async def test_a_name_from_the_body_cannot_break_a_header(
    upstream: ScriptedUpstream, running_proxy: RunProxy
) -> None:
    """What the loss header says may come from the caller's body."""
    proxy = await running_proxy(
        Settings(
            policy=Policy(hosted_tools=HostedTools.DROP),
            upstreams={"default": Upstream(url=upstream.url, speaks="chat")},
        )
    )
    body = responses_request(tools=[{"type": "web\r\nset-cookie: a=b\x00ü"}])
    answer = await ask(proxy.port, RESPONSES, body)
    assert answer.status == 200
    assert "set-cookie" not in answer.headers
    assert answer.headers["x-dragoman-loss"]
