"""What a caller sees of an upstream that fails, breaks off, or answers otherwise than asked."""

import asyncio
import gzip
import zlib
from collections.abc import Callable

import pytest
import zstandard
from structlog.typing import EventDict

from tests.backends.processes import until
from tests.proxy.caller import Answer, Call, ask
from tests.proxy.conftest import RunProxy
from tests.proxy.dialects import (
    CHAT,
    DONE,
    RESPONSES,
    chat_chunk,
    chat_reply,
    chat_stream,
    responses_reply,
    responses_stream,
    sse,
    streaming,
    texts_of,
)
from tests.proxy.test_streams import WAYS, translated, using
from tests.upstream import Abort, Piece, Reply, ScriptedUpstream, StreamReply
from tests.upstream import Answer as Scripted
from translators.wire import JSON

pytestmark = pytest.mark.server

WHOLE = {"responses-chat": chat_reply, "chat-responses": responses_reply}
HTML = Reply(200, {"content-type": "text/html"}, b"<html><body>Log in</body></html>")


async def through(
    way: str, running_proxy: RunProxy, reply: Scripted, *, stream: bool = True
) -> Answer:
    """Send one request over an upstream that gives this reply."""
    path, request, speaks, _ = WAYS[way]
    async with ScriptedUpstream(reply) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        return await ask(proxy.port, path, request(stream=stream))


async def through_in_two(
    way: str, running_proxy: RunProxy, first: list[bytes], then: list[Piece]
) -> Answer:
    """The same with a stream that goes on when the caller has seen its beginning."""
    path, request, speaks, _ = WAYS[way]
    seen = asyncio.Event()
    async with ScriptedUpstream(StreamReply([*first, seen, *then])) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        async with Call(proxy.port, path, request(stream=True)) as call:
            begun = b""
            while first[-1].count(b'"two "') > begun.count(b'"two "') or not begun:
                begun += await call.chunk()
            seen.set()
            rest = [chunk async for chunk in call.chunks()]
    return Answer(call.status, call.headers, [begun, *rest])


def up_to_two(way: str) -> list[bytes]:
    """A stream's beginning, of two words."""
    frames = WAYS[way][3](["one ", "two "])
    return frames[: next(n for n, frame in enumerate(frames) if b'"two "' in frame) + 1]


def is_failed_stream(way: str, answer: Answer, code: str | None) -> None:
    """Check a stream that began well and ended in an error, told in the caller's dialect."""
    assert (answer.status, answer.is_whole) == (200, True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    frames = answer.events
    if way == "responses-chat":
        assert [frame["type"] for frame in frames[-2:]] == ["error", "response.failed"]
        assert [frame["sequence_number"] for frame in frames] == list(range(len(frames)))
        failed = frames[-1]["response"]
        assert failed["status"] == "failed"
        assert failed["error"]["code"]
        assert failed["error"]["message"]
    else:
        assert frames[-1].keys() == {"error"}
        assert frames[-1]["error"]["message"]
        assert frames[-1]["error"]["code"] == code
        assert not any(choice["finish_reason"] for f in frames[:-1] for choice in f["choices"])
        assert b"[DONE]" not in answer.body


BREAKS = [pytest.param(Abort(), id="closed"), pytest.param(Abort(reset=True), id="reset")]


@translated
@pytest.mark.parametrize("abort", BREAKS)
async def test_stream_that_breaks_off(
    way: str, abort: Abort, running_proxy: RunProxy, log_lines: list[EventDict]
) -> None:
    """What came before stands, and an error follows; nothing looks like success."""
    answer = await through_in_two(way, running_proxy, up_to_two(way), [abort])
    is_failed_stream(way, answer, "upstream_stream_truncated")
    assert texts_of(answer.frames) == ["one ", "two "]
    line = log_lines[-1]
    assert (line["outcome"], line["log_level"]) == ("error", "warning")
    assert line["error"] == "upstream_stream_truncated"


@translated
async def test_stream_that_ends_without_its_end(way: str, running_proxy: RunProxy) -> None:
    """HTTP ends as it should, the dialect does not."""
    answer = await through_in_two(way, running_proxy, up_to_two(way), [])
    is_failed_stream(way, answer, "upstream_stream_truncated")


@translated
@pytest.mark.parametrize(
    "reply",
    [
        Abort(),
        Abort(reset=True),
        StreamReply([Abort()]),
        StreamReply([0.05, Abort(reset=True)]),
        StreamReply([b": waiting\n\n", Abort()]),
        StreamReply([b"data: {", Abort()]),
        StreamReply([]),
        StreamReply([b": waiting\n\n"]),
    ],
    ids=["head", "head-reset", "body", "body-reset", "comment", "part", "empty", "nothing"],
)
async def test_upstream_that_breaks_off_before_its_first_frame(
    way: str, reply: Scripted, running_proxy: RunProxy, log_lines: list[EventDict]
) -> None:
    """Nothing is out yet, so the caller gets a status."""
    answer = await through(way, running_proxy, reply)
    assert answer.status == 502
    assert answer.error["code"] == "upstream_stream_truncated"
    assert log_lines[-1]["status"] == 502


@translated
@pytest.mark.parametrize(
    "reply",
    [
        Abort(),
        Abort(reset=True),
        StreamReply([b'{"id":', 0.05, Abort()], {"content-type": "application/json"}),
        Reply(200, {"content-type": "application/json", "content-length": "9"}, b"{}"),
    ],
    ids=["head", "reset", "chunked", "length"],
)
async def test_whole_reply_that_breaks_off(
    way: str, reply: Scripted, running_proxy: RunProxy
) -> None:
    path, request, speaks, _ = WAYS[way]
    async with ScriptedUpstream(reply) as upstream:
        proxy = await running_proxy(using(upstream, speaks))
        asking = asyncio.create_task(ask(proxy.port, path, request()))
        await upstream.request()
        if isinstance(reply, Reply):
            await until(lambda: upstream.requests[0].finished)
            await upstream.__aexit__(None, None, None)
        answer = await asking
    assert answer.status == 502
    assert answer.error["code"] == "upstream_stream_truncated"


@pytest.mark.parametrize(
    ("frame", "status", "code"),
    [
        ({"error": {"message": "too many", "code": 429}}, 429, "rate_limit_exceeded"),
        ({"error": {"message": "bad", "type": "BadRequestError", "code": 400}}, 400, None),
        ({"object": "error", "message": "bad", "code": 400}, 400, None),
        ({"error": "boom"}, 502, None),
        ({"detail": "boom"}, 502, None),
    ],
)
async def test_chat_stream_that_begins_with_an_error(
    frame: JSON, status: int, code: str | None, running_proxy: RunProxy
) -> None:
    """vLLM answers 200 before it finds out; our caller still gets a real status."""
    answer = await through("responses-chat", running_proxy, streaming(sse(frame), DONE))
    assert answer.status == status
    assert answer.error["code"] == code
    assert answer.error["message"] in ("too many", "bad", "boom")


async def test_responses_stream_that_begins_with_an_error(running_proxy: RunProxy) -> None:
    frame = {"type": "error", "message": "boom", "code": "server_error", "param": None}
    answer = await through("chat-responses", running_proxy, streaming(sse(frame)))
    assert answer.status == 502
    assert answer.error["message"] == "boom"


async def test_chat_stream_with_a_late_error(
    running_proxy: RunProxy, log_lines: list[EventDict]
) -> None:
    error = {"error": {"message": "out of memory", "type": "InternalServerError", "code": 500}}
    first = [chat_chunk("Hi", role="assistant")]
    answer = await through_in_two("responses-chat", running_proxy, first, [sse(error), DONE])
    is_failed_stream("responses-chat", answer, None)
    assert answer.events[-1]["response"]["error"]["message"] == "out of memory"
    assert texts_of(answer.frames) == ["Hi"]
    assert log_lines[-1]["outcome"] == "error"


async def test_responses_stream_with_a_late_error(running_proxy: RunProxy) -> None:
    frames = responses_stream(["Hi"])[:4]
    failed = responses_reply() | {
        "status": "failed",
        "error": {"code": "server_error", "message": "out of memory"},
    }
    end = sse({"type": "response.failed", "sequence_number": 4, "response": failed})
    answer = await through_in_two("chat-responses", running_proxy, frames, [end])
    is_failed_stream("chat-responses", answer, "server_error")
    assert answer.frames[-1]["error"]["message"] == "out of memory"


@translated
@pytest.mark.parametrize("bad", [b"data: {nonsense\n\n", b"data: 5\n\n", b"data: []\n\n"])
async def test_frame_that_is_no_event(way: str, bad: bytes, running_proxy: RunProxy) -> None:
    first = await through(way, running_proxy, streaming(bad))
    assert (first.status, first.error["code"]) == (502, "upstream_invalid_response")
    later = await through_in_two(way, running_proxy, up_to_two(way), [bad])
    is_failed_stream(way, later, "upstream_invalid_response")


@translated
async def test_stream_of_nothing_but_done(way: str, running_proxy: RunProxy) -> None:
    answer = await through(way, running_proxy, streaming(DONE))
    assert answer.status == 502
    assert answer.error["message"]


@translated
@pytest.mark.parametrize("stream", [True, False])
async def test_html_is_no_reply(way: str, stream: bool, running_proxy: RunProxy) -> None:
    """A captive portal's page is not relayed as an answer."""
    answer = await through(way, running_proxy, HTML, stream=stream)
    assert answer.status == 502
    assert answer.error["code"] == "upstream_invalid_response"
    assert "Log in" not in answer.error["message"]


@translated
@pytest.mark.parametrize("document", [[], None, 5, {"choices": 5, "output": 5}])
@pytest.mark.parametrize("stream", [True, False])
async def test_json_that_is_no_reply(
    way: str, document: JSON, stream: bool, running_proxy: RunProxy
) -> None:
    answer = await through(way, running_proxy, Reply.json(document), stream=stream)
    assert answer.status == 502
    assert answer.error["code"] == "upstream_invalid_response"


@pytest.mark.parametrize(
    "way",
    [
        "responses-chat",
        "chat-responses",
    ],
)
@pytest.mark.parametrize("document", [{}, {"message": "hello"}])
async def test_object_that_is_no_reply(way: str, document: JSON, running_proxy: RunProxy) -> None:
    """An object of something else is no success with nothing in it."""
    answer = await through(way, running_proxy, Reply.json(document), stream=False)
    assert answer.status == 502
    assert answer.error["code"] == "upstream_invalid_response"


@translated
@pytest.mark.parametrize("stream", [True, False])
async def test_error_that_says_200(way: str, stream: bool, running_proxy: RunProxy) -> None:
    """The body is believed where the status lies."""
    document = {"error": {"message": "no quota", "type": "x", "code": 429}}
    answer = await through(way, running_proxy, Reply.json(document), stream=stream)
    assert answer.status == 429
    assert answer.error["message"] == "no quota"


@translated
async def test_json_although_a_stream_was_asked_for(way: str, running_proxy: RunProxy) -> None:
    answer = await through(way, running_proxy, Reply.json(WHOLE[way]("Hi there")))
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "".join(texts_of(answer.frames)) == "Hi there"
    if way == "responses-chat":
        assert answer.events[-1]["type"] == "response.completed"
    else:
        assert answer.frames[-1] == "[DONE]"


@translated
@pytest.mark.parametrize("kind", ["text/event-stream", "Text/Event-Stream; charset=utf-8"])
async def test_stream_although_none_was_asked_for(
    way: str, kind: str, running_proxy: RunProxy
) -> None:
    frames = WAYS[way][3](["Hi ", "there"])
    reply = StreamReply(frames, {"content-type": kind})
    answer = await through(way, running_proxy, reply, stream=False)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    document = answer.json
    if way == "responses-chat":
        assert document["output"][0]["content"][0]["text"] == "Hi there"
        assert document["usage"]["total_tokens"] == 5
    else:
        assert document["choices"][0]["message"]["content"] == "Hi there"


@translated
async def test_unasked_stream_that_breaks_off(way: str, running_proxy: RunProxy) -> None:
    answer = await through(way, running_proxy, StreamReply(up_to_two(way)), stream=False)
    assert (answer.status, answer.error["code"]) == (502, "upstream_stream_truncated")


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@translated
@pytest.mark.parametrize("encoding", COMPRESSIONS)
async def test_compressed_reply_although_identity_was_asked_for(
    way: str, encoding: str, running_proxy: RunProxy
) -> None:
    plain = Reply.json(WHOLE[way]("Hi"), headers={"content-encoding": encoding})
    reply = Reply(200, plain.headers, COMPRESSIONS[encoding](plain.body))
    answer = await through(way, running_proxy, reply, stream=False)
    assert answer.status == 200
    assert "content-encoding" not in answer.headers
    assert b'"Hi"' in answer.body


@translated
@pytest.mark.parametrize("encoding", COMPRESSIONS)
async def test_compressed_stream_although_identity_was_asked_for(
    way: str, encoding: str, running_proxy: RunProxy
) -> None:
    body = COMPRESSIONS[encoding](b"".join(WAYS[way][3](["Hi ", "there"])))
    headers = {"content-type": "text/event-stream", "content-encoding": encoding}
    pieces = [body[at : at + 50] for at in range(0, len(body), 50)]
    answer = await through(way, running_proxy, StreamReply(pieces, headers))
    assert answer.status == 200
    assert texts_of(answer.frames) == ["Hi ", "there"]
    assert "content-encoding" not in answer.headers


@translated
@pytest.mark.parametrize("stream", [True, False])
async def test_damaged_compression(way: str, stream: bool, running_proxy: RunProxy) -> None:
    """It is the upstream's fault, not the caller's."""
    kind = "text/event-stream" if stream else "application/json"
    headers = {"content-type": kind, "content-encoding": "gzip"}
    answer = await through(way, running_proxy, Reply(200, headers, b"no gzip"), stream=stream)
    assert answer.status == 502


@translated
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("status", "document", "message", "code"),
    [
        (500, {"error": {"message": "boom", "type": "InternalServerError"}}, "boom", None),
        (503, {"error": {"message": "loading", "code": 503}}, "loading", None),
        (429, {"error": {"message": "slow down"}}, "slow down", "rate_limit_exceeded"),
        (401, {"error": "Unauthorized"}, "Unauthorized", "invalid_api_key"),
        (404, {"detail": "Not Found"}, "Not Found", None),
        (404, {"error": {"message": "The model `x` does not exist."}}, "model", "model_not_found"),
        (422, {"detail": [{"loc": ["body", "top_p"], "msg": "too big"}]}, "too big", None),
        (
            400,
            {"object": "error", "message": "maximum context length is 9 tokens", "code": 400},
            "maximum context length",
            "context_length_exceeded",
        ),
        (502, b"<html>Bad Gateway</html>", "Bad Gateway", None),
        (500, b"", "500", None),
        (418, b"\xff\xfe", "", None),
    ],
)
async def test_status_and_message_are_kept(
    way: str,
    stream: bool,
    status: int,
    document: JSON,
    message: str,
    code: str | None,
    running_proxy: RunProxy,
) -> None:
    reply = (
        Reply(status, body=document)
        if isinstance(document, bytes)
        else Reply.json(document, status)
    )
    answer = await through(way, running_proxy, reply, stream=stream)
    assert answer.status == status
    assert message in answer.error["message"]
    assert answer.error["code"] == code


@translated
@pytest.mark.parametrize("stream", [True, False])
async def test_hints_on_when_to_retry_are_kept(
    way: str, stream: bool, running_proxy: RunProxy
) -> None:
    kept = {
        "retry-after": "17",
        "retry-after-ms": "17000",
        "x-should-retry": "true",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-requests": "1s",
        "x-request-id": "their-id",
    }
    dropped = {"set-cookie": "a=b", "server": "theirs", "x-internal": "1", "connection": "close"}
    reply = Reply.json({"error": {"message": "slow down"}}, 429, {**kept, **dropped})
    answer = await through(way, running_proxy, reply, stream=stream)
    assert answer.status == 429
    assert kept.items() <= answer.headers.items()
    assert answer.headers["server"] == "dragoman"
    assert not {"set-cookie", "x-internal"} & answer.headers.keys()


@translated
@pytest.mark.parametrize(
    "reply",
    [
        Reply(503, {"retry-after": "9"}, b"x" * 3_000_000),
        Reply(503, {"retry-after": "9", "content-encoding": "gzip"}, b"no gzip"),
        StreamReply([b"half", Abort()], {"retry-after": "9"}, 503),
    ],
    ids=["huge", "damaged", "cut"],
)
async def test_error_whose_body_cannot_be_read_keeps_its_status(
    way: str, reply: Scripted, running_proxy: RunProxy
) -> None:
    answer = await through(way, running_proxy, reply)
    assert (answer.status, answer.headers["retry-after"]) == (503, "9")
    assert answer.error["message"]


async def test_headers_beyond_ascii_do_no_harm(running_proxy: RunProxy) -> None:
    """Latin-1 in a header is old, but HTTP."""
    reply = Reply.json(chat_reply(), headers={"x-note": "grün", "x-request-id": "Ã¼"})
    for path in (RESPONSES, CHAT):
        async with ScriptedUpstream(reply) as upstream:
            proxy = await running_proxy(using(upstream, "chat"))
            body = {"model": "m", "input": "x", "messages": [{"role": "user", "content": "x"}]}
            answer = await ask(proxy.port, path, body, {"x-client-request-id": "ü"})
            assert (answer.status, answer.headers["x-request-id"]) == (200, "Ã¼")


@translated
@pytest.mark.parametrize("stream", [True, False])
async def test_nothing_listens(way: str, stream: bool, running_proxy: RunProxy) -> None:
    path, request, speaks, _ = WAYS[way]
    async with ScriptedUpstream() as upstream:
        settings = using(upstream, speaks)
    proxy = await running_proxy(settings)
    answer = await ask(proxy.port, path, request(stream=stream))
    assert (answer.status, answer.error["code"]) == (503, "upstream_unavailable")
    assert "127.0.0.1" not in answer.error["message"]


async def test_frames_after_the_end_are_not_waited_for(running_proxy: RunProxy) -> None:
    """An upstream that keeps its connection open after ``[DONE]`` does not delay the caller."""
    reply = StreamReply([*chat_stream(["Hi"]), asyncio.Event()])
    answer = await asyncio.wait_for(through("responses-chat", running_proxy, reply), 2)
    assert answer.events[-1]["type"] == "response.completed"
