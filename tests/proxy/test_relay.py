"""The same dialect on both sides: bytes pass as they are, but for what the route must change."""

import asyncio
import gzip

import msgspec
import pytest
from structlog.typing import EventDict

from proxy.settings import Model, Settings, Upstream
from tests.proxy.caller import BrokenOff, Call, ask, read_frames
from tests.proxy.conftest import RunProxy
from tests.proxy.dialects import (
    CHAT,
    RESPONSES,
    chat_reply,
    chat_stream,
    responses_reply,
    responses_request,
)
from tests.proxy.test_streams import using
from tests.upstream import Abort, Reply, ScriptedUpstream, StreamReply
from translators.wire import JSON

pytestmark = pytest.mark.server

same = pytest.mark.parametrize(("path", "speaks"), [(CHAT, "chat"), (RESPONSES, "responses")])

ODD = [
    b'{ "model" :"m",\n\t"temperature": 1e400 }',
    b'{"model":"m","n":1,"n":2}',
    b'{"model":"m","text":"\\ud800 alone"}',
    b'{"model":"m","text":"\\u00e9 \xc3\xa9 \xe2\x80\xa8"}',
    b'{"model":"m","x":12345678901234567890123456789.0000000000001}',
    b'{"model":"m","x":-0.0,"y":1.0,"z":1E5}',
    b'{"model":5,"stream":"maybe"}',
    b"{}",
]
"""Objects that a round trip through a decoder would change."""


@same
@pytest.mark.parametrize("body", ODD)
async def test_bytes_pass_both_ways(
    path: str, speaks: str, body: bytes, running_proxy: RunProxy
) -> None:
    reply = Reply(200, {"content-type": "application/json"}, b" " + body[::-1])
    async with ScriptedUpstream(reply) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        answer = await ask(proxy.port, path, body)
    assert upstream.requests[0].body == body
    assert upstream.requests[0].path == path
    assert answer.body == reply.body


@same
async def test_reply_of_any_kind_passes(path: str, speaks: str, running_proxy: RunProxy) -> None:
    """Compressed unasked, with another type, with an odd status: all of it is the caller's."""
    body = gzip.compress(b"not even JSON")
    headers = {
        "content-type": "text/plain; charset=x",
        "content-encoding": "gzip",
        "cache-control": "private",
        "x-ratelimit-remaining-requests": "3",
        "openai-processing-ms": "5",
        "x-request-id": "theirs",
    }
    dropped = {"set-cookie": "a=b", "server": "theirs", "keep-alive": "timeout=5"}
    async with ScriptedUpstream(Reply(203, {**headers, **dropped}, body)) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        answer = await ask(proxy.port, path, b'{"model":"m"}')
    assert (answer.status, answer.body) == (203, body)
    assert headers.items() <= answer.headers.items()
    assert not {"set-cookie", "keep-alive"} & answer.headers.keys()
    assert answer.headers["server"] == "dragoman"


@same
@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
async def test_errors_pass(path: str, speaks: str, status: int, running_proxy: RunProxy) -> None:
    reply = Reply(status, {"content-type": "text/html", "retry-after": "3"}, b"<b>any</b> \xff")
    async with ScriptedUpstream(reply) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        answer = await ask(proxy.port, path, b'{"model":"m","stream":true}')
    assert (answer.status, answer.body) == (status, reply.body)
    assert answer.headers["retry-after"] == "3"
    assert answer.headers["content-type"] == "text/html"


@same
async def test_stream_passes_with_comments_and_odd_line_ends(
    path: str, speaks: str, running_proxy: RunProxy
) -> None:
    pieces = [b": hello\r\n\r\n", b"id: 7\rdata:x\r\r", b"data: {", b"}\n", b"\nevent: e", b""]
    async with ScriptedUpstream(StreamReply(pieces)) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        answer = await ask(proxy.port, path, b'{"model":"m","stream":true}')
    assert answer.is_whole
    assert answer.body == b"".join(pieces)


async def broken_after(
    first: bytes, path: str, speaks: str, running_proxy: RunProxy, abort: Abort, **headers: str
) -> tuple[list[bytes], bool]:
    """What comes after these bytes of a stream, and whether it ends as HTTP wants it."""
    seen = asyncio.Event()
    kind = {"content-type": "text/event-stream", **headers}
    rest: list[bytes] = []
    async with ScriptedUpstream(StreamReply([first, seen, abort], kind)) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        async with Call(proxy.port, path, b'{"model":"m","stream":true}') as call:
            assert await call.chunk() == first
            seen.set()
            try:
                rest = [chunk async for chunk in call.chunks()]
            except BrokenOff:
                return rest, False
    return rest, True


@same
@pytest.mark.parametrize("abort", [Abort(), Abort(reset=True)])
async def test_stream_that_breaks_off_ends_in_an_error_frame(
    path: str, speaks: str, abort: Abort, running_proxy: RunProxy, log_lines: list[EventDict]
) -> None:
    first = b'data: {"sequence_number": 6}\n\n'
    rest, is_whole = await broken_after(first, path, speaks, running_proxy, abort)
    (frame,) = read_frames(b"".join(rest))
    assert is_whole
    assert frame["error"]["code"] == "upstream_stream_truncated"
    if speaks == "responses":
        assert rest[0].startswith(b"event: error\n")
        assert (frame["type"], frame["sequence_number"]) == ("error", 7)
        assert frame["message"] == frame["error"]["message"]
    else:
        assert frame.keys() == {"error"}
    line = log_lines[-1]
    assert (line["outcome"], line["error"]) == ("error", "upstream_stream_truncated")


@same
@pytest.mark.parametrize(
    ("first", "headers"),
    [
        (b"data: {}\n", {}),
        (b"data: {}\n\n", {"content-encoding": "gzip"}),
        (b"{}\n\n", {"content-type": "application/json"}),
    ],
    ids=["within-a-frame", "encoded", "no-stream"],
)
async def test_where_no_frame_can_follow_the_connection_says_so(
    path: str,
    speaks: str,
    first: bytes,
    headers: dict[str, str],
    running_proxy: RunProxy,
    log_lines: list[EventDict],
) -> None:
    rest, is_whole = await broken_after(first, path, speaks, running_proxy, Abort(), **headers)
    assert (rest, is_whole) == ([], False)
    line = log_lines[-1]
    assert (line["outcome"], line["error"]) == ("error", "upstream_stream_truncated")


OPEN_CHAT = (
    b'data: {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": null}]}\n\n'
)
OPEN_RESPONSES = b'data: {"type": "response.output_text.delta", "sequence_number": 3}\n\n'


@pytest.mark.parametrize(
    ("path", "speaks", "frames"),
    [
        (CHAT, "chat", [OPEN_CHAT]),
        (CHAT, "chat", [OPEN_CHAT.replace(b"\n", b"\r\n")]),
        (CHAT, "chat", [b": hello\n\n", OPEN_CHAT]),
        (RESPONSES, "responses", [b"event: x\n" + OPEN_RESPONSES]),
        (RESPONSES, "responses", [OPEN_RESPONSES.replace(b"output_text.delta", b"created")]),
    ],
)
async def test_stream_that_stops_short_ends_in_an_error_frame(
    path: str,
    speaks: str,
    frames: list[bytes],
    running_proxy: RunProxy,
    log_lines: list[EventDict],
) -> None:
    """HTTP says that it is whole, and its dialect that it is not."""
    async with ScriptedUpstream(StreamReply(frames)) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        answer = await ask(proxy.port, path, b'{"model":"m","stream":true}')
    sent = b"".join(frames)
    assert answer.body.startswith(sent)
    (frame,) = read_frames(answer.body.removeprefix(sent))
    assert frame["error"]["code"] == "upstream_stream_truncated"
    assert log_lines[-1]["error"] == "upstream_stream_truncated"


@pytest.mark.parametrize(
    ("path", "speaks", "frames"),
    [
        (CHAT, "chat", [OPEN_CHAT, b"data: [DONE]\n\n"]),
        (CHAT, "chat", [OPEN_CHAT.replace(b"null", b'"stop"')]),
        (CHAT, "chat", [OPEN_CHAT.replace(b"null", b'"stop"'), OPEN_CHAT]),
        (CHAT, "chat", [OPEN_CHAT, b'data: {"choices": [], "usage": {}}\n\n']),
        (CHAT, "chat", [OPEN_CHAT, b'data: {"error": {"message": "No."}}\n\n']),
        (CHAT, "chat", [OPEN_CHAT, b"data: what?\n\n"]),
        (RESPONSES, "responses", [b'data: {"type": "response.completed"}\n\n']),
        (RESPONSES, "responses", [OPEN_RESPONSES, b'data: {"type": "error"}\n\n']),
        (RESPONSES, "responses", [b'data: {"type": "response.incomplete"}\n\n', b": end\n\n"]),
    ],
)
async def test_stream_that_may_be_over_is_left_alone(
    path: str, speaks: str, frames: list[bytes], running_proxy: RunProxy
) -> None:
    async with ScriptedUpstream(StreamReply(frames)) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        answer = await ask(proxy.port, path, b'{"model":"m","stream":true}')
    assert (answer.body, answer.is_whole) == (b"".join(frames), True)


@same
async def test_upstream_that_breaks_off_before_its_head(
    path: str, speaks: str, running_proxy: RunProxy
) -> None:
    async with ScriptedUpstream(Abort()) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        answer = await ask(proxy.port, path, b'{"model":"m","stream":true}')
    assert (answer.status, answer.error["code"]) == (502, "upstream_stream_truncated")


def renaming(upstream: ScriptedUpstream, speaks: str, **members: JSON) -> Settings:
    return Settings(
        upstreams={"main": Upstream(url=upstream.url, speaks=speaks)},
        models=[Model(name="public/x", upstream="main", **members)],
    )


@same
async def test_alias_changes_the_model_and_nothing_else(
    path: str, speaks: str, running_proxy: RunProxy
) -> None:
    async with ScriptedUpstream(Reply(body=b"{}")) as upstream:
        proxy = await running_proxy(renaming(upstream, speaks, upstream_model="real"))
        body = b'{ "x": 1e400, "model": "public/x", "y": "\\u00e9",  "z": [1.0, -0] }'
        await ask(proxy.port, path, body)
    sent = upstream.requests[0].body
    assert msgspec.json.decode(sent, type=dict[str, msgspec.Raw]) == {
        "x": msgspec.Raw(b"1e400"),
        "model": msgspec.Raw(b'"real"'),
        "y": msgspec.Raw(b'"\\u00e9"'),
        "z": msgspec.Raw(b"[1.0, -0]"),
    }


@same
async def test_configured_model_without_another_name_passes_unchanged(
    path: str, speaks: str, running_proxy: RunProxy
) -> None:
    body = b'{ "model" : "public/x", "x": 1e400 }'
    async with ScriptedUpstream(Reply(body=b"{}")) as upstream:
        proxy = await running_proxy(renaming(upstream, speaks))
        await ask(proxy.port, path, body)
    assert upstream.requests[0].body == body


DEFAULTS = {"temperature": 0.5, "top_k": 3}
SETS = {"seed": 7, "chat_template_kwargs": {"enable_thinking": False}}


@same
async def test_defaults_fill_gaps_and_sets_win(
    path: str, speaks: str, running_proxy: RunProxy
) -> None:
    async with ScriptedUpstream(Reply(body=b"{}")) as upstream:
        proxy = await running_proxy(renaming(upstream, speaks, defaults=DEFAULTS, sets=SETS))
        body = {"model": "public/x", "temperature": 1.5, "seed": 1}
        await ask(proxy.port, path, body)
    assert upstream.requests[0].json == {**DEFAULTS, **body, **SETS}


@pytest.mark.parametrize("silent", [True, False])
async def test_defaults_and_sets_hold_in_translations_too(
    silent: bool, running_proxy: RunProxy
) -> None:
    async with ScriptedUpstream(Reply.json(chat_reply())) as upstream:
        settings = renaming(
            upstream, "chat", upstream_model="real", defaults=DEFAULTS, sets={"seed": 7}
        )
        proxy = await running_proxy(settings)
        body: JSON = responses_request(model="public/x")
        if not silent:
            body |= {"temperature": 1.5, "seed": 1, "top_k": 9}
        answer = await ask(proxy.port, RESPONSES, body)
    sent = upstream.requests[0].json
    assert sent["model"] == "real"
    assert sent["temperature"] == (0.5 if silent else 1.5)
    assert sent["top_k"] == (3 if silent else 9)
    assert sent["seed"] == 7
    assert answer.json["model"] == "public/x"


@pytest.mark.parametrize(
    ("path", "speaks", "reply"),
    [
        (CHAT, "chat", Reply.json(chat_reply())),
        (CHAT, "chat", StreamReply(chat_stream(["x"]))),
        (RESPONSES, "responses", Reply.json(responses_reply())),
    ],
)
async def test_tokens_of_relayed_replies_are_logged(
    path: str,
    speaks: str,
    reply: Reply | StreamReply,
    running_proxy: RunProxy,
    log_lines: list[EventDict],
) -> None:
    async with ScriptedUpstream(reply) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        await ask(proxy.port, path, {"model": "m", "stream": isinstance(reply, StreamReply)})
    (line,) = log_lines
    assert (line["input_tokens"], line["output_tokens"]) == (3, 2)


async def test_large_bodies_pass(running_proxy: RunProxy) -> None:
    """Images make bodies of megabytes."""
    body = b'{"model":"m","x":"' + b"A" * 5_000_000 + b'"}'
    async with ScriptedUpstream(Reply(body=body)) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        answer = await ask(proxy.port, CHAT, body)
    assert upstream.requests[0].body == body
    assert answer.body == body
