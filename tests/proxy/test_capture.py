"""Calls of rollouts, recorded as they pass."""

import asyncio
import fcntl
import gzip
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.typing import EventDict

from proxy.capture.reader import find_rollouts
from proxy.settings import Model, Settings, Upstream
from tests.proxy.caller import Call, ask
from tests.proxy.captured import capturing, names, read_records
from tests.proxy.conftest import RunProxy
from tests.proxy.dialects import (
    CHAT,
    DONE,
    RESPONSES,
    chat_chunk,
    chat_reply,
    chat_request,
    chat_stream,
    responses_reply,
    responses_request,
    responses_stream,
    sse,
    streaming,
    texts_of,
)
from tests.upstream import (
    Abort,
    Answer,
    Piece,
    ReceivedRequest,
    Reply,
    ScriptedUpstream,
    StreamReply,
)
from translators.wire import JSON

pytestmark = pytest.mark.server

WAYS = {
    "responses-chat": (RESPONSES, responses_request, "chat", chat_reply, chat_stream),
    "chat-responses": (CHAT, chat_request, "responses", responses_reply, responses_stream),
    "chat-chat": (CHAT, chat_request, "chat", chat_reply, chat_stream),
    "responses-responses": (
        *(RESPONSES, responses_request, "responses", responses_reply, responses_stream),
    ),
}
"""Caller-upstream -> the caller's path and request, what the upstream speaks, replies, frames."""

way = pytest.mark.parametrize("way", WAYS)
MEMBERS = {
    *("model_call_id", "rollout_id", "request_id", "dialect", "model_ref"),
    *("started_at", "completed_at", "latency_ms", "latency_ttft_ms"),
    *("status_code", "error_category", "request", "response"),
}


def text_of(response: JSON) -> str:
    """The text of a recorded reply of either dialect."""
    if "choices" in response:
        return response["choices"][0]["message"]["content"] or ""
    parts = [part for item in response["output"] for part in item.get("content") or ()]
    return "".join(part.get("text", "") for part in parts)


@way
async def test_whole_call(way: str, tmp_path: Path) -> None:
    path, request, speaks, reply, _ = WAYS[way]
    asked = request("Grüße", temperature=0.10)
    before = time.time()
    async with capturing(tmp_path, Reply.json(reply("Hi")), speaks=speaks) as proxy:
        headers = {"authorization": "Bearer sk-secret", "x-request-id": "r-1"}
        answer = await ask(proxy.port, f"/ng-rollout/task-0.1{path}", asked, headers)
    [record] = read_records(tmp_path, "task-0.1")
    assert set(record) == MEMBERS
    assert record["response"] == answer.json
    assert record["request"] == asked
    assert re.fullmatch("[0-9a-f]{32}", record["model_call_id"])
    assert (record["rollout_id"], record["request_id"]) == ("task-0.1", "r-1")
    assert record["dialect"] == way.partition("-")[0]
    assert record["model_ref"] == {"type": "responses_api_models", "name": "default"}
    assert (record["status_code"], record["error_category"]) == (200, None)
    assert before <= record["started_at"] <= record["completed_at"] <= time.time()
    assert 0 < record["latency_ttft_ms"] <= record["latency_ms"]
    assert b"secret" not in (tmp_path / "task-0.1.capture.jsonl").read_bytes()
    assert names(tmp_path) == {"task-0.1.capture.jsonl"}


@way
async def test_streamed_call(way: str, tmp_path: Path) -> None:
    """The record holds the whole reply, in the caller's dialect."""
    path, request, speaks, _, stream = WAYS[way]
    async with capturing(tmp_path, streaming(*stream(["one ", "two"])), speaks=speaks) as proxy:
        asked = request(stream=True, stream_options={"include_usage": True})
        answer = await ask(proxy.port, f"/ng-rollout/a{path}", asked)
    [record] = read_records(tmp_path, "a")
    assert set(record) == MEMBERS
    assert record["error_category"] is None
    assert texts_of(answer.frames) == ["one ", "two"]
    response = record["response"]
    if path == RESPONSES:
        assert response == answer.events[-1]["response"]
    else:
        [choice] = response["choices"]
        assert (choice["index"], choice["finish_reason"]) == (0, "stop")
        assert choice["message"]["role"] == "assistant"
        assert response["object"] == "chat.completion"
        assert response["usage"]["total_tokens"] == 5
    assert text_of(response) == "one two"


async def test_rollout_may_be_named_by_a_header(tmp_path: Path) -> None:
    """The path goes first; a call without either is not recorded."""
    replies = [Reply.json(chat_reply()) for _ in range(4)]
    async with capturing(tmp_path, *replies) as proxy:
        header = {"x-dragoman-rollout": "b"}
        await ask(proxy.port, CHAT, chat_request("one"), header)
        await ask(proxy.port, f"/ng-rollout/a{CHAT}", chat_request("two"), header)
        await ask(proxy.port, CHAT, chat_request("three"))
        await ask(proxy.port, CHAT, chat_request("four"), {"x-dragoman-rollout": ""})
    assert names(tmp_path) == {"a.capture.jsonl", "b.capture.jsonl"}
    for rollout, text in (("a", "two"), ("b", "one")):
        [record] = read_records(tmp_path, rollout)
        assert record["request"] == chat_request(text)
    assert "x-dragoman-rollout" not in proxy.upstream.requests[0].headers


@pytest.mark.parametrize("prefix", ["/ng-rollout/a", "/ng-rollout/a/training-token-capture"])
async def test_prefix_without_capture(prefix: str, running_proxy: RunProxy) -> None:
    """It is taken off on every route, by whatever name."""
    models = Reply.json({"data": [{"id": "m"}]})
    script = [Reply.json(chat_reply())] * 4 + [models] * 2
    async with ScriptedUpstream(*script) as upstream:
        using = Upstream(url=upstream.url, speaks="chat")
        proxy = await running_proxy(Settings(upstreams={"default": using}))
        for path in (CHAT, CHAT.removeprefix("/v1")):
            assert (await ask(proxy.port, prefix + path, chat_request())).status == 200
        for path in (RESPONSES, f"{RESPONSES}/compact"):
            assert (await ask(proxy.port, prefix + path, responses_request())).status == 200
        for path in ("/v1/models", "/v1/models/m", "/health", "/"):
            assert (await ask(proxy.port, prefix + path, method="GET")).status == 200
        for path in ("", "/v1", "/v1/x"):
            answer = await ask(proxy.port, prefix + path, method="GET")
            assert answer.error["code"] == "unsupported_endpoint"
        assert (await ask(proxy.port, "/ng-rollout//health", method="GET")).status == 404
    assert {request.path for request in upstream.requests[:4]} == {CHAT}


@pytest.mark.parametrize("rollout", ["a%20b", "..", "%7e", "x" * 201, "%c3%a9", "a%0a"])
async def test_id_that_cannot_name_a_file(
    rollout: str, tmp_path: Path, log_lines: list[EventDict]
) -> None:
    """Nothing fails, nothing is lost: the record goes to a file that is named in the log."""
    async with capturing(tmp_path / "deep" / "er", Reply.json(chat_reply())) as proxy:
        answer = await ask(proxy.port, f"/ng-rollout/{rollout}{CHAT}", chat_request())
    assert answer.status == 200
    [warning] = [line for line in log_lines if "cannot name a file" in line["event"]]
    assert re.fullmatch("~[0-9a-f]{16}", warning["file"])
    [record] = read_records(tmp_path / "deep" / "er", warning["file"])
    assert record["rollout_id"] == warning["id"]
    assert names(tmp_path / "deep") == {"er"}


@way
async def test_caller_that_goes_away(way: str, tmp_path: Path) -> None:
    """What it had got until then is recorded."""
    path, request, speaks, _, stream = WAYS[way]
    frames = stream(["one ", "two ", "three"])
    at = next(i for i, frame in enumerate(frames) if b"two " in frame) + 1
    never = asyncio.Event()
    async with capturing(tmp_path, StreamReply([*frames[:at], never]), speaks=speaks) as proxy:
        url = f"/ng-rollout/a{path}"
        async with Call(proxy.port, url, request(stream=True)) as call:
            seen = b""
            while b"two " not in seen:
                seen += await call.chunk()
        await proxy.upstream.requests[0].closed()
    [record] = read_records(tmp_path, "a")
    assert (record["status_code"], record["error_category"]) == (200, "client_closed")
    assert text_of(record["response"]) == "one two "


async def test_caller_that_goes_away_before_the_reply(tmp_path: Path) -> None:
    is_asked = asyncio.Event()

    async def never(_: object) -> Reply:
        is_asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with capturing(tmp_path, handler=never) as proxy:
        async with Call(proxy.port, f"/ng-rollout/a{CHAT}", chat_request()):
            await is_asked.wait()
        await proxy.upstream.requests[0].closed()
    [record] = read_records(tmp_path, "a")
    assert (record["status_code"], record["error_category"]) == (None, "client_closed")
    assert (record["request"], record["response"]) == (chat_request(), None)


@way
@pytest.mark.parametrize("reset", [True, False])
async def test_upstream_that_breaks_off(way: str, reset: bool, tmp_path: Path) -> None:
    """A stream that was cut is marked; what came of it is there."""
    path, request, speaks, _, stream = WAYS[way]
    frames = stream(["one ", "two ", "three"])
    at = next(i for i, frame in enumerate(frames) if b"two " in frame) + 1
    pieces: list[Piece] = [*frames[:at], 0.05, Abort(reset=reset)]
    async with capturing(tmp_path, StreamReply(pieces), speaks=speaks) as proxy:
        await ask(proxy.port, f"/ng-rollout/a{path}", request(stream=True))
    [record] = read_records(tmp_path, "a")
    assert (record["status_code"], record["error_category"]) == (200, "stream_truncated")
    assert text_of(record["response"]) == "one two "


@way
async def test_stream_that_just_ends(way: str, tmp_path: Path) -> None:
    path, request, speaks, _, stream = WAYS[way]
    frames = stream(["one ", "two "])
    at = next(i for i, frame in enumerate(frames) if b"two " in frame) + 1
    async with capturing(tmp_path, streaming(*frames[:at]), speaks=speaks) as proxy:
        await ask(proxy.port, f"/ng-rollout/a{path}", request(stream=True))
    [record] = read_records(tmp_path, "a")
    assert record["error_category"] == "stream_truncated"
    assert text_of(record["response"]) == "one two "


@way
@pytest.mark.parametrize(
    ("answer", "category"),
    [
        (Reply.json({"error": {"message": "No."}}, 401), "auth"),
        (Reply.json({"error": "No."}, 403), "auth"),
        (Reply.json({"error": {"message": "No."}}, 404), "not_found"),
        (Reply.json({"error": {"message": "No."}}, 408), "timeout"),
        (Reply.json({"error": {"message": "No."}}, 429), "rate_limit"),
        (Reply.json({"detail": "No."}, 422), "client_error"),
        (Reply.json({"error": {"message": "No."}}, 500), "upstream_error"),
        (Reply.json({"error": {"message": "No."}}, 504), "timeout"),
        (Abort(), "stream_truncated"),
    ],
)
async def test_upstream_error(way: str, answer: Answer, category: str, tmp_path: Path) -> None:
    path, request, speaks, _, _ = WAYS[way]
    async with capturing(tmp_path, answer, speaks=speaks) as proxy:
        got = await ask(proxy.port, f"/ng-rollout/a{path}", request(stream=True))
    [record] = read_records(tmp_path, "a")
    assert (record["status_code"], record["error_category"]) == (got.status, category)
    assert record["response"] == got.json
    assert record["request"] == request(stream=True)


async def test_upstream_that_is_not_there(tmp_path: Path) -> None:
    async with capturing(tmp_path) as proxy:
        await proxy.upstream.__aexit__(None, None, None)
        await ask(proxy.port, f"/ng-rollout/a{CHAT}", chat_request())
    [record] = read_records(tmp_path, "a")
    assert (record["status_code"], record["error_category"]) == (503, "connection")
    assert record["model_ref"]["name"] == "default"


@pytest.mark.parametrize("way", ["chat-chat", "responses-chat"])
async def test_failure_in_mid_stream(way: str, tmp_path: Path) -> None:
    path, request, speaks, _, stream = WAYS[way]
    error = sse({"error": {"message": "out of memory", "code": "oom"}})
    go = asyncio.Event()
    reply = StreamReply([*stream(["one"])[:2], go, error])
    async with (
        capturing(tmp_path, reply, speaks=speaks) as proxy,
        Call(proxy.port, f"/ng-rollout/a{path}", request(stream=True)) as call,
    ):
        while b"one" not in await call.chunk():
            pass
        go.set()
        assert [chunk async for chunk in call.chunks()]
    [record] = read_records(tmp_path, "a")
    assert (record["status_code"], record["error_category"]) == (200, "upstream_error")
    assert record["response"]["error"]["message"] == "out of memory"
    assert text_of(record["response"]) == "one"


@pytest.mark.parametrize("stream", [True, False])
async def test_incomplete_response(stream: bool, tmp_path: Path) -> None:
    reply = chat_reply()
    reply["choices"][0]["finish_reason"] = "length"
    answer = streaming(chat_chunk("Hi", finish="length"), DONE) if stream else Reply.json(reply)
    async with capturing(tmp_path, answer) as proxy:
        await ask(proxy.port, f"/ng-rollout/a{RESPONSES}", responses_request(stream=stream))
    [record] = read_records(tmp_path, "a")
    assert record["error_category"] == "incomplete"
    assert record["response"]["status"] == "incomplete"


@pytest.mark.parametrize("body", [b'{"model": ', b"[1]", b"\xff\x00", b'{"a": NaN}'])
async def test_request_that_cannot_be_read(body: bytes, tmp_path: Path) -> None:
    async with capturing(tmp_path) as proxy:
        answer = await ask(proxy.port, f"/ng-rollout/a{RESPONSES}", body)
    [record] = read_records(tmp_path, "a")
    assert (record["status_code"], record["error_category"]) == (400, "client_error")
    assert record["request"] is None
    assert record["request_raw"] == body.decode("utf-8", "replace")
    assert record["response"] == answer.json
    assert record["model_ref"] is None


async def test_request_is_kept_as_it_was_written_on_one_line(tmp_path: Path) -> None:
    body = b'{"model": "m",\n\n "messages": [{"role": "user", "content": "a\\nb"}], "x": 1.50}'
    async with capturing(tmp_path, *[Reply.json(chat_reply())] * 2) as proxy:
        await ask(proxy.port, f"/ng-rollout/a{CHAT}", body)
        packed = gzip.compress(body)
        headers = {"content-encoding": "gzip"}
        await ask(proxy.port, f"/ng-rollout/a{CHAT}", packed, headers)
    one, other = (tmp_path / "a.capture.jsonl").read_bytes().splitlines()
    kept = b'"request":{"model":"m","messages":[{"role":"user","content":"a\\nb"}],"x":1.50}'
    assert kept in one
    assert kept in other


@pytest.mark.parametrize(
    ("answer", "category"),
    [
        (Reply(200, {"content-type": "application/json"}, b"<html>"), "capture_parse_error"),
        (streaming(b"data: <html>\n\n"), "capture_parse_error"),
        (streaming(b'data: {"choices": {"a": 1}}\n\n'), "capture_parse_error"),
        (streaming(b": nothing\n\n"), "capture_parse_error"),
        (Reply(200, {"content-encoding": "gzip"}, b"no gzip"), "capture_parse_error"),
        (Reply(204), None),
    ],
)
async def test_relayed_reply_that_cannot_be_read(
    answer: Answer, category: str, tmp_path: Path
) -> None:
    async with capturing(tmp_path, answer) as proxy:
        got = await ask(proxy.port, f"/ng-rollout/a{CHAT}", chat_request(stream=True))
    [record] = read_records(tmp_path, "a")
    assert (record["response"], record["error_category"]) == (None, category)
    assert record.get("response_raw", "") == got.body.decode()


async def test_compressed_reply_is_recorded_plain(tmp_path: Path) -> None:
    body = gzip.compress(b"".join(chat_stream(["one ", "two"])))
    headers = {"content-type": "text/event-stream", "content-encoding": "gzip"}
    async with capturing(tmp_path, StreamReply([body[:9], body[9:]], headers)) as proxy:
        got = await ask(proxy.port, f"/ng-rollout/a{CHAT}", chat_request(stream=True))
    assert got.body == body
    [record] = read_records(tmp_path, "a")
    assert text_of(record["response"]) == "one two"


async def test_signs_of_life_are_no_first_token(tmp_path: Path) -> None:
    go = asyncio.Event()
    async with capturing(
        tmp_path, StreamReply([go, *chat_stream(["Hi"])]), heartbeat_s=0.05
    ) as proxy:
        url = f"/ng-rollout/a{RESPONSES}"
        async with Call(proxy.port, url, responses_request(stream=True)) as call:
            seen = b""
            while seen.count(b"event: response.in_progress") < 3:
                seen += await call.chunk()
            go.set()
            async for chunk in call.chunks():
                seen += chunk
    [record] = read_records(tmp_path, "a")
    assert record["latency_ttft_ms"] >= 100  # two pauses between three signs of life
    assert text_of(record["response"]) == "Hi"


async def test_fifty_streams_of_ten_rollouts(tmp_path: Path) -> None:
    """Every record is right, though all streams take turns."""

    async def one_by_one(frames: list[bytes]) -> AsyncIterator[Piece]:
        for frame in frames:
            yield frame
            yield 0

    def words(name: str) -> list[str]:
        return [f"{name}.{n} " for n in range(40)]

    def handler(received: ReceivedRequest) -> StreamReply:
        found = re.search(rb"s\d+", received.body)
        assert found is not None
        return StreamReply(one_by_one(chat_stream(words(found[0].decode()))))

    async with capturing(tmp_path, handler=handler) as proxy:
        calls = [
            ask(proxy.port, f"/ng-rollout/r{n % 10}{path}", request(f"s{n}", stream=True))
            for n in range(50)
            for path, request in [WAYS["responses-chat" if n % 2 else "chat-chat"][:2]]
        ]
        answers = await asyncio.gather(*calls)
    assert all(answer.is_whole for answer in answers)
    assert len(names(tmp_path)) == 10
    seen = set()
    for rollout in range(10):
        for record in read_records(tmp_path, f"r{rollout}"):
            request = record["request"]
            name = request["input"] if "input" in request else request["messages"][0]["content"]
            assert int(name[1:]) % 10 == rollout
            assert record["error_category"] is None
            assert text_of(record["response"]) == "".join(words(name))
            seen.add(name)
    assert len(seen) == 50


async def test_full_buffer_costs_the_record_and_nothing_else(
    tmp_path: Path, log_lines: list[EventDict]
) -> None:
    """The rollout is marked, and what fits again is recorded again."""
    long, short = ["x" * 9000] * 20, ["Hi"]
    script = [streaming(*chat_stream(long)), streaming(*chat_stream(short))]
    async with capturing(tmp_path, *script, buffer_bytes=100_000) as proxy:
        for words in (long, short):
            answer = await ask(
                proxy.port, f"/ng-rollout/a{RESPONSES}", responses_request(stream=True)
            )
            assert texts_of(answer.frames) == words
    assert names(tmp_path) == {"a.capture.incomplete", "a.capture.jsonl"}
    [record] = read_records(tmp_path, "a")
    assert text_of(record["response"]) == "Hi"
    [loss] = [line for line in log_lines if line["event"] == "a capture is lost"]
    assert (loss["rollout"], loss["why"]) == ("a", "the buffer is full")


async def test_caller_never_waits_for_the_disk(tmp_path: Path) -> None:
    """While another process has the file locked, replies come to their end all the same."""
    file = tmp_path / "a.capture.jsonl"
    async with capturing(
        tmp_path, streaming(*chat_stream(["Hi"])), Reply.json(chat_reply())
    ) as proxy:
        with file.open("ab") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            streamed = await ask(proxy.port, f"/ng-rollout/a{CHAT}", chat_request(stream=True))
            whole = await ask(proxy.port, f"/ng-rollout/a{CHAT}", chat_request())
            assert streamed.is_whole
            assert whole.status == 200
            assert file.stat().st_size == 0
    assert len(read_records(tmp_path, "a")) == 2


async def test_records_are_there_while_the_proxy_runs(tmp_path: Path) -> None:
    def wait_for(count: int) -> None:
        while sum(len(list(r.calls())) for r in find_rollouts(tmp_path)) < count:
            time.sleep(0.01)

    async with capturing(tmp_path, *[Reply.json(chat_reply())] * 3) as proxy:
        for count in (1, 2, 3):
            await ask(proxy.port, f"/ng-rollout/a{CHAT}", chat_request())
            await asyncio.to_thread(wait_for, count)


async def test_fault_of_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("proxy.exchange.Translation.request", broken)
    async with capturing(tmp_path) as proxy:
        answer = await ask(proxy.port, f"/ng-rollout/a{RESPONSES}", responses_request())
    assert answer.status == 500
    [record] = read_records(tmp_path, "a")
    assert (record["status_code"], record["error_category"]) == (500, "exception")
    assert record["request"] == responses_request()


@way
@pytest.mark.parametrize("stream", [True, False])
async def test_upstreams_side_is_recorded_if_wanted(way: str, stream: bool, tmp_path: Path) -> None:
    path, request, speaks, reply, frames = WAYS[way]
    sent = b"".join(frames(["Hi"]))
    answer = streaming(sent) if stream else Reply.json(reply("Hi"))
    async with capturing(tmp_path, answer, speaks=speaks, upstream=True) as proxy:
        await ask(proxy.port, f"/ng-rollout/a{path}", request(stream=stream))
    [record] = read_records(tmp_path, "a")
    side = record["upstream"]
    assert (side["dialect"], side["status_code"]) == (speaks, 200)
    assert side["request"] == proxy.upstream.requests[0].json
    if stream:
        assert (side["response"], side["response_raw"]) == (None, sent.decode())
    else:
        assert (side["response"], "response_raw" in side) == (reply("Hi"), False)
    assert text_of(record["response"]) == "Hi"


@pytest.mark.parametrize("is_stream", [False, True])
async def test_upstream_side_is_what_was_on_the_wire(is_stream: bool, tmp_path: Path) -> None:
    """With what a model's settings ask for, and not the question aside."""
    choice: JSON = {"index": 0, "finish_reason": "stop", "token_ids": None}
    logprobs = {"content": [{"token": "token_id:4", "logprob": -0.5}]}
    said = {"role": "assistant", "content": "Hi"}
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    name = "delta" if is_stream else "message"
    choice |= {name: said, "logprobs": logprobs}
    document = {"id": "c", "choices": [choice], "usage": usage}
    frames = [sse(document), DONE]
    reply = StreamReply(frames) if is_stream else Reply.json(document)
    script: list[Answer] = [reply, Reply.json({"tokens": [1, 2, 3]})]
    models = [Model(name="m", token_ids=True)]
    async with capturing(tmp_path, *script, models=models, upstream=True) as proxy:
        asked = chat_request(stream=is_stream)
        answer = await ask(proxy.port, f"/ng-rollout/a{CHAT}", asked)
    assert b"generation_token_ids" in answer.body
    generation, tokenize = proxy.upstream.requests
    assert tokenize.path == "/tokenize"
    [record] = read_records(tmp_path, "a")
    assert record["request"] == asked
    side = record["upstream"]
    assert side["request"] == generation.json
    assert side["request"]["return_token_ids"] is True
    if is_stream:
        assert side["response_raw"].encode() == b"".join(frames)
    else:
        assert side["response"] == document
