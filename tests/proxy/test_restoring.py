"""Relayed replies in the caller's own words: an alias, its metadata; all else byte for byte."""

import asyncio
import gzip

import pytest

from proxy.restoring import Restorer, restore_document
from proxy.settings import Model, Settings, Upstream
from tests.proxy.caller import Call, ask
from tests.proxy.conftest import RunProxy
from tests.proxy.dialects import (
    CHAT,
    RESPONSES,
    chat_reply,
    chat_stream,
    responses_reply,
    responses_stream,
    streaming,
    texts_of,
)
from tests.upstream import Abort, Reply, ScriptedUpstream, StreamReply
from translators.wire import JSON, decode, encode

ALIAS = {"model": "public"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"id": 1, "model":"real", "x": 1e400}', b'{"id":1,"model":"public","x":1e400}'),
        (b'{"model":null}', b'{"model":"public"}'),
        (
            b'{"type":"t","response":{"model":"real", "output":[ 1.0 ]}}',
            b'{"type":"t","response":{"model":"public","output":[ 1.0 ]}}',
        ),
    ],
)
def test_members_are_replaced(text: bytes, expected: bytes) -> None:
    assert Restorer(ALIAS).document(text) == expected


OPENINGS = (
    b'{"model":"real"',
    b'{"id": "c", "created": 1.5, "model": "real"',
    b' {"a":null,"b":true, "c":{},"d":[],"e":false,"model":"real"',
)


@pytest.mark.parametrize("opening", OPENINGS)
@pytest.mark.parametrize("rest", [b"}", b', "x": 1e400, "y": "\\"model\\"" }', b',"z":"\xff"} \n'])
def test_an_alias_among_the_first_members_is_all_that_changes(opening: bytes, rest: bytes) -> None:
    restored = opening.replace(b'"real"', b'"public"')
    assert restore_document(opening + rest, ALIAS) == restored + rest


@pytest.mark.parametrize(
    "text",
    [
        b'{"model":"real","choices":[{"model":"real"}]}',
        b'{"model":"real","response":{"model":"real","x": 1}}',
        b'{"a":1,"model":"real","model":"real"}',
        b'{"a":"\\"","model":"real"}',
        b'{"a":{"model":"x"},"model":"real"}',
        b'{"a":"{","b":{"c":"}","model":"x"},"model":"real"}',
        b'{"a":[{"model":"x"}],"model":"real"}',
        b'{"a":"\\"model\\":\\"x\\"","model":"real"}',
        b'{"model":"re\\"al"}',
        b'{"model":["real"]}',
        b'{"model":null}',
    ],
)
def test_any_other_document_is_read(text: bytes) -> None:
    assert restore_document(text, ALIAS) == Restorer(ALIAS).document(text)
    assert decode(restore_document(text, ALIAS))["model"] == "public"


@pytest.mark.parametrize(
    "text",
    [
        b'{ "error": {"message": "the \\"model\\" is busy"} }',
        b'{"choices":[{"model" : "real"}]}',
        b'{"response": "model", "a":"model"}',
        b'{"model": "cut',
        b'["model"]',
        b"\xff model",
        b"",
    ],
)
def test_what_has_none_of_them_stays(text: bytes) -> None:
    assert Restorer(ALIAS).document(text) == restore_document(text, ALIAS) == text


STREAM = (
    b'\xef\xbb\xbf: comment about "model"\r\n\r\n'
    b"event: response.created\n"
    b'data: {"type":"response.created","response":{"model":"real"}}\n\n'
    b'id: 7\rdata:{"model":"real"}\r\r'
    b'data: {"model":"real", "delta":"\xe2\x80\xa8"}  \r\n\r\n'
    b'data: [DONE]\n\ndata: "model"'
)
RESTORED = STREAM.replace(b'"model":"real", ', b'"model":"public",').replace(b'"real"', b'"public"')


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, len(STREAM)])
def test_lines_are_found_however_a_stream_is_cut(size: int) -> None:
    restorer = Restorer(ALIAS)
    pieces = [restorer.feed(STREAM[i : i + size]) for i in range(0, len(STREAM), size)]
    assert b"".join([*pieces, restorer.finish()]) == RESTORED


ALIKE = b'data: {"id":"c","created":1,"model":"real"'


@pytest.mark.parametrize(
    "rest",
    [
        b'%s,"choices":[]}\n\n' % ALIKE,
        b'%s}\n\n%s,"a":1}\r\n\r\n' % (ALIKE, ALIKE),
        b'%s,"choices":[{"model":"real"}]}\n\n' % ALIKE,
        b'%s,"response":{"model":"real", "x": 1}}\n\n' % ALIKE,
        b'%s,"a":"data: {\\"id\\":\\"c\\",\\"model\\":\\"real\\""}\n' % ALIKE,
        b'data: {"id":"c","created":2,"model":"real"}\n\n%s}\n\n' % ALIKE,
        b": %s}\n%s}\n" % (ALIKE, ALIKE),
        b'%s,"a":1}\n\n%s,' % (ALIKE, ALIKE),
        b"data: [DONE]\n\n",
    ],
)
def test_lines_that_begin_alike_change_as_if_alone(rest: bytes) -> None:
    """The beginning that a stream's lines share is known after the first of them."""
    knowing, fresh = Restorer(ALIAS), Restorer(ALIAS)
    assert knowing.feed(ALIKE + b"}\n\n") == (ALIKE + b"}\n\n").replace(b"real", b"public")
    found = [restorer.feed(rest) + restorer.finish() for restorer in (knowing, fresh)]
    assert found[0] == found[1]


def test_a_whole_line_does_not_wait() -> None:
    restorer = Restorer(ALIAS)
    assert restorer.feed(b'data: {"model":"real"}\n\ndata: {') == b'data: {"model":"public"}\n\n'
    assert restorer.feed(b'"model":"real"}') == b""
    assert restorer.feed(b"\n") == b'data: {"model":"public"}\n'


def renaming(upstream: ScriptedUpstream, speaks: str, **members: JSON) -> Settings:
    return Settings(
        upstreams={"main": Upstream(url=upstream.url, speaks=speaks)},
        models=[Model(name="public", upstream="main", upstream_model="real", **members)],
    )


WAYS = {
    "chat": (CHAT, chat_reply(model="real"), chat_stream(["Hi", ' "model"'])),
    "responses": (RESPONSES, responses_reply(model="real"), responses_stream(["Hi", ' "model"'])),
}

way = pytest.mark.parametrize("way", WAYS)


@pytest.mark.server
@way
@pytest.mark.parametrize("encoding", [None, "gzip"])
async def test_the_alias_shows_in_a_relayed_reply(
    way: str, encoding: str | None, running_proxy: RunProxy
) -> None:
    path, reply, _ = WAYS[way]
    body = encode(reply)
    headers = {"content-type": "application/json"}
    if encoding:
        body, headers = gzip.compress(body), {**headers, "content-encoding": encoding}
    async with ScriptedUpstream(Reply(200, headers, body)) as upstream:
        proxy = await running_proxy(renaming(upstream, way))
        answer = await ask(proxy.port, path, {"model": "public"})
    assert upstream.requests[0].json == {"model": "real"}
    assert answer.json == {**reply, "model": "public"}
    assert "content-encoding" not in answer.headers


@pytest.mark.server
@way
async def test_the_alias_shows_in_a_relayed_stream(way: str, running_proxy: RunProxy) -> None:
    """In all chunks of a chat stream, in the envelopes of the other; each piece at once."""
    path, _, frames = WAYS[way]
    seen = [asyncio.Event() for _ in frames]
    pieces = [piece for pair in zip(frames, seen, strict=True) for piece in pair]
    async with ScriptedUpstream(StreamReply(pieces)) as upstream:
        proxy = await running_proxy(renaming(upstream, way))
        async with Call(proxy.port, path, {"model": "public", "stream": True}) as call:
            chunks = []
            for event in seen:
                chunks.append(await call.chunk())
                event.set()
            assert await call.chunk() == b""
    original = b"".join(frames)
    assert b"".join(chunks) == original.replace(b'"model":"m"', b'"model":"public"')
    assert original.count(b'"model":"m"') >= 2


@pytest.mark.server
async def test_a_relayed_stream_that_breaks_off_ends_in_an_error(running_proxy: RunProxy) -> None:
    piece = b'data: {"model":"real"}\n\n'
    async with ScriptedUpstream(StreamReply([piece, Abort()])) as upstream:
        proxy = await running_proxy(renaming(upstream, "chat"))
        answer = await ask(proxy.port, CHAT, {"model": "public", "stream": True})
    assert answer.body.startswith(piece.replace(b"real", b"public"))
    assert answer.frames[-1]["error"]["code"] == "upstream_stream_truncated"


@pytest.mark.server
@pytest.mark.parametrize("reply", [Reply(500, {}, b"<b>busy</b>"), Reply(429, {}, b'{"error":1}')])
async def test_an_error_stays_as_it_is(reply: Reply, running_proxy: RunProxy) -> None:
    async with ScriptedUpstream(reply) as upstream:
        proxy = await running_proxy(renaming(upstream, "chat"))
        answer = await ask(proxy.port, CHAT, {"model": "public"})
    assert (answer.status, answer.body) == (reply.status, reply.body)


@pytest.mark.server
async def test_a_damaged_reply_is_an_error(running_proxy: RunProxy) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    async with ScriptedUpstream(Reply(200, headers, b"no gzip")) as upstream:
        proxy = await running_proxy(renaming(upstream, "chat"))
        answer = await ask(proxy.port, CHAT, {"model": "public"})
    assert (answer.status, answer.error["code"]) == (502, "upstream_invalid_response")


METADATA = {"extra_body": '{"seed":7}', "user": "u"}


@pytest.mark.server
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_relayed_response_echoes_all_of_the_metadata(
    streamed: bool, running_proxy: RunProxy
) -> None:
    """Although the upstream has seen a part of it only."""
    stripped = {"user": "u"}
    whole = responses_reply(metadata=stripped)
    frames = responses_stream(["Hi"])
    last = frames[-1].replace(b'"model":"m"', b'"model":"m","metadata":{"user":"u"}')
    reply = streaming(*frames[:-1], last) if streamed else Reply.json(whole)
    async with ScriptedUpstream(reply) as upstream:
        settings = Settings(upstreams={"a": Upstream(url=upstream.url, speaks="responses")})
        proxy = await running_proxy(settings)
        request = {"model": "m", "input": "x", "stream": streamed, "metadata": METADATA}
        answer = await ask(proxy.port, RESPONSES, request)
    sent = upstream.requests[0].json
    assert (sent["metadata"], sent["seed"]) == (stripped, 7)
    if streamed:
        assert answer.events[-1]["response"]["metadata"] == METADATA
        assert texts_of(answer.frames) == ["Hi"]
    else:
        assert answer.json == {**whole, "metadata": METADATA}
