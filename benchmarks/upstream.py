"""A fast upstream with canned replies, so that the proxy is what a measurement measures.

It speaks just enough HTTP/1.1 (keep-alive, ``Content-Length`` requests) to be cheap, and both
dialects. What it does is chosen by the request's ``model``, which survives any proxy:

==================== ==============================================================
``whole``            one reply of about 1 KB
``tokens-N``         one reply of N tokens with their ids and log-probs; Chat only
``stream-N``         N deltas of about 200 bytes, each in a write of its own
``burst-N``          N deltas, ten to a write
``stream-N-Gms``     the same with G milliseconds between writes; also ``burst-N-Gms``
==================== ==============================================================

A request whose ``stream`` member does not suit its model is answered with 400: a proxy that
loses it must not look fast.

Run ``python -m benchmarks.upstream [--port P]``; the first line of output names the port.
"""

import argparse
import asyncio
import functools
import json
import re
import socket
import sys
from typing import Any, Final, cast

BURST: Final = 10
"""Deltas in one write of a ``burst`` model."""

HOSTS: Final = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
"""Where it listens, on one port: as many replicas of itself."""

PROMPT_TOKENS: Final = 900

WHOLE_TOKENS: Final = 120
"""Tokens of a ``whole`` reply; with its envelope about 1 KB."""

CREATED_UNIX_S: Final = 1_700_000_000

_MODEL: Final = re.compile(rb'"model"\s*:\s*"([^"]*)"')
_STREAM: Final = re.compile(rb'"stream"\s*:\s*true')
_INCLUDE_USAGE: Final = re.compile(rb'"include_usage"\s*:\s*true')
_SHAPE: Final = re.compile(r"whole|tokens-\d+|(stream|burst)-(\d+)(?:-(\d+)ms)?")
_CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)


def has_token_ids(model: str) -> bool:
    """Whether a model's replies have token ids and log-probs."""
    return model.startswith("tokens")


def streams(model: str) -> bool:
    """Whether a model's replies are streams."""
    return model.startswith(("stream", "burst"))


@functools.cache
def reply_text(model: str) -> str:
    """The text of a model's replies."""
    if streams(model):
        return stream_text(int(model.split("-")[1]))
    return " ".join(f"word{i:04d}" for i in range(_tokens(model) // 2))


def _tokens(model: str) -> int:
    """How many tokens a whole reply has."""
    return int(model.split("-")[1]) if has_token_ids(model) else WHOLE_TOKENS


def delta_text(index: int) -> str:
    """The text of a stream's delta number ``index``."""
    return f" tok{index:05d}"


def stream_text(count: int) -> str:
    """The whole text of a stream of ``count`` deltas."""
    return "".join(map(delta_text, range(count)))


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _plain(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


# Chat Completions


def _chat_whole(model: str) -> bytes:
    generated = _tokens(model)
    usage = {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": generated,
        "total_tokens": PROMPT_TOKENS + generated,
    }
    message: dict[str, Any] = {
        "role": "assistant",
        "content": reply_text(model),
        "refusal": None,
        "tool_calls": [],
    }
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    reply = {
        "id": "chatcmpl-0123456789abcdef0123456789abcdef",
        "object": "chat.completion",
        "created": CREATED_UNIX_S,
        "model": model,
        "choices": [choice],
        "usage": usage,
    }
    if has_token_ids(model):
        ids = _token_ids(generated)
        choice |= {"logprobs": {"content": [*map(_logprob, ids)]}, "token_ids": ids}
        reply["prompt_token_ids"] = _token_ids(PROMPT_TOKENS)
    return _dump(reply)


def _token_ids(count: int) -> list[int]:
    """As many different ids, as large as those of a vocabulary of 150 000."""
    return [i * 7919 % 150_000 for i in range(count)]


def _logprob(token_id: int) -> dict[str, Any]:
    """A token as vLLM names it where it is asked for ids in place of texts."""
    return {
        "token": f"token_id:{token_id}",
        "logprob": -(token_id + 1) / 150_000,
        "bytes": [*f"token_id:{token_id}".encode()],
        "top_logprobs": [],
    }


def _chat_frames(model: str, count: int, *, include_usage: bool) -> list[bytes]:
    """Frames of a chat stream: opening, ``count`` deltas, and the end as a single item."""

    def frame(choices: list[Any], **members: object) -> bytes:
        chunk = {
            "id": "chatcmpl-0123456789abcdef0123456789abcdef",
            "object": "chat.completion.chunk",
            "created": CREATED_UNIX_S,
            "model": model,
            "choices": choices,
            **members,
        }
        return b"data: %b\n\n" % _dump(chunk)

    def choice(delta: dict[str, str], finish_reason: str | None) -> list[dict[str, object]]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]

    end = frame(choice({}, "stop"))
    if include_usage:
        tokens = {
            "prompt_tokens": PROMPT_TOKENS,
            "completion_tokens": count,
            "total_tokens": PROMPT_TOKENS + count,
        }
        end += frame([], usage=tokens)
    return [
        frame(choice({"role": "assistant", "content": ""}, None)),
        *(frame(choice({"content": delta_text(i)}, None)) for i in range(count)),
        end + b"data: [DONE]\n\n",
    ]


# Responses


def _response_object(model: str, status: str, output: list[Any], tokens: int) -> dict[str, Any]:
    usage = {
        "input_tokens": PROMPT_TOKENS,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": PROMPT_TOKENS + tokens,
    }
    return {
        "id": "resp_0123456789abcdef0123456789abcdef",
        "object": "response",
        "created_at": CREATED_UNIX_S,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": model,
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": usage if status == "completed" else None,
    }


def _message(status: str, content: list[Any]) -> dict[str, Any]:
    return {
        "type": "message",
        "id": "msg_0123456789abcdef0123456789abcdef",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def _output_text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _responses_whole(model: str) -> bytes:
    message = _message("completed", [_output_text(reply_text(model))])
    return _dump(_response_object(model, "completed", [message], WHOLE_TOKENS))


def _responses_frames(model: str, count: int) -> list[bytes]:
    """Frames of a Responses stream: opening, ``count`` deltas, and the end as a single item."""
    sequence = 0

    def frame(kind: str, **members: object) -> bytes:
        nonlocal sequence
        event = {"type": kind, "sequence_number": sequence, **members}
        sequence += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), _dump(event))

    text = stream_text(count)
    place = {"item_id": "msg_0123456789abcdef0123456789abcdef", "output_index": 0}
    part_place = {**place, "content_index": 0}
    started = _response_object(model, "in_progress", [], 0)
    done = _message("completed", [_output_text(text)])
    opening = b"".join(
        [
            frame("response.created", response=started),
            frame("response.in_progress", response=started),
            frame("response.output_item.added", output_index=0, item=_message("in_progress", [])),
            frame("response.content_part.added", **part_place, part=_output_text("")),
        ]
    )
    deltas = [
        frame("response.output_text.delta", **part_place, delta=delta_text(i), logprobs=[])
        for i in range(count)
    ]
    end = b"".join(
        [
            frame("response.output_text.done", **part_place, text=text, logprobs=[]),
            frame("response.content_part.done", **part_place, part=_output_text(text)),
            frame("response.output_item.done", output_index=0, item=done),
            frame(
                "response.completed", response=_response_object(model, "completed", [done], count)
            ),
        ]
    )
    return [opening, *deltas, end]


# Replies, made once for each model


def whole_body(dialect: str, model: str) -> bytes:
    """The body of a reply that is not streamed."""
    return _chat_whole(model) if dialect == "chat" else _responses_whole(model)


def stream_frames(dialect: str, model: str, count: int) -> list[bytes]:
    """The frames of a stream: opening, ``count`` deltas, and the end as a single item."""
    if dialect == "chat":
        return _chat_frames(model, count, include_usage=True)
    return _responses_frames(model, count)


@functools.cache
def whole_reply(dialect: str, model: str) -> bytes:
    """The bytes of a reply that is not streamed, head included."""
    return _plain("200 OK", whole_body(dialect, model))


@functools.cache
def stream_writes(dialect: str, model: str, include_usage: bool) -> tuple[list[bytes], float]:
    """The body writes of a streamed reply, already chunk-encoded, and the seconds between them.

    The opening and the end are writes of their own; deltas lie between them.
    """
    match = _SHAPE.fullmatch(model)
    assert match is not None
    count, gap_ms = int(match[2]), int(match[3] or 0)
    if dialect == "chat":
        opening, *deltas, end = _chat_frames(model, count, include_usage=include_usage)
    else:
        opening, *deltas, end = _responses_frames(model, count)
    # A chunk of its own for each frame, also in a burst: that is how servers write.
    encoded = [_chunk(delta) for delta in deltas]
    step = BURST if match[1] == "burst" else 1
    grouped = [b"".join(encoded[i : i + step]) for i in range(0, len(encoded), step)]
    return [_chunk(opening), *grouped, _chunk(end) + b"0\r\n\r\n"], gap_ms / 1000


_ERROR: Final = {"type": "invalid_request_error", "param": None, "code": None}
_NOT_FOUND: Final = _plain("404 Not Found", _dump({"error": {"message": "no such path", **_ERROR}}))
_UNSUITED: Final = _plain(
    "400 Bad Request", _dump({"error": {"message": "model and stream do not agree", **_ERROR}})
)
_MODELS: Final = _plain(
    "200 OK",
    _dump(
        {
            "object": "list",
            "data": [
                {"id": name, "object": "model", "created": CREATED_UNIX_S, "owned_by": "benchmark"}
                for name in ("whole", "stream-200", "burst-200")
            ],
        }
    ),
)
_HEALTH: Final = _plain("200 OK", b"{}")


class UpstreamProtocol(asyncio.Protocol):
    """One connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._needed = 0  # length of the request being received, once its head is known

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the connection."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop a stream that is under way."""
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Answer when a request is complete."""
        received = self._received
        received += data
        if not self._needed:
            end = received.find(b"\r\n\r\n")
            if end < 0:
                return
            length = _CONTENT_LENGTH.search(received, 0, end)
            self._needed = end + 4 + (int(length[1]) if length else 0)
        if len(received) >= self._needed:
            request = bytes(received[: self._needed])
            del received[: self._needed]
            self._needed = 0
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        assert self._transport is not None
        path = request[: request.index(b"\r\n")].split(b" ")[1]
        if path == b"/v1/chat/completions":
            dialect = "chat"
        elif path == b"/v1/responses":
            dialect = "responses"
        else:
            fixed = {b"/v1/models": _MODELS, b"/health": _HEALTH}
            self._transport.write(fixed.get(path, _NOT_FOUND))
            return
        named = _MODEL.search(request)
        model = named[1].decode() if named else ""
        shape = _SHAPE.fullmatch(model)
        if shape is None or streams(model) != bool(_STREAM.search(request)):
            self._transport.write(_UNSUITED)
        elif not streams(model):
            self._transport.write(whole_reply(dialect, model))
        else:
            include_usage = bool(_INCLUDE_USAGE.search(request))
            writes, gap_s = stream_writes(dialect, model, include_usage)
            self._transport.write(STREAM_HEAD)
            self._write_next(writes, 0, gap_s)

    def _write_next(self, writes: list[bytes], index: int, gap_s: float) -> None:
        if self._transport is None:
            return
        self._transport.write(writes[index])
        index += 1
        if index == len(writes):
            return
        if gap_s:
            self._loop.call_later(gap_s, self._write_next, writes, index, gap_s)
        else:
            self._loop.call_soon(self._write_next, writes, index, gap_s)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """An uvloop event loop, or asyncio's own where uvloop is not installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    for host in HOSTS:
        server = await loop.create_server(lambda: UpstreamProtocol(loop), host, port, backlog=4096)
        port = server.sockets[0].getsockname()[1]
        await server.start_serving()
    print(port)
    sys.stdout.flush()
    await asyncio.get_running_loop().create_future()  # for ever


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="benchmarks.upstream", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
