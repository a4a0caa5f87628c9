"""Small requests, replies and streams of both dialects, for tests that are about their way."""

from collections.abc import Sequence

import msgspec

from tests.upstream import StreamReply
from translators.wire import JSON

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def chat_request(text: str = "Hello", **members: JSON) -> JSON:
    """A Chat request with one user message."""
    return {"model": "m", "messages": [{"role": "user", "content": text}], **members}


def responses_request(text: str = "Hello", **members: JSON) -> JSON:
    """A Responses request with a text as input."""
    return {"model": "m", "input": text, **members}


def chat_reply(text: str = "Hi", **members: JSON) -> JSON:
    """A whole Chat reply."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": USAGE,
        **members,
    }


def responses_reply(text: str = "Hi", **members: JSON) -> JSON:
    """A whole Responses reply."""
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": "m",
        "output": [_message(text, "completed")],
        "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
        **members,
    }


def sse(document: JSON) -> bytes:
    """One frame, named by its type where it has one."""
    name = f"event: {document['type']}\n".encode() if "type" in document else b""
    return name + b"data: " + msgspec.json.encode(document) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def chat_chunk(text: str | None = None, *, finish: str | None = None, **delta: JSON) -> bytes:
    """One frame of a Chat stream."""
    members = delta if text is None else {"content": text, **delta}
    choice = {"index": 0, "delta": members, "finish_reason": finish}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return sse({**chunk, "choices": [choice]})


def chat_stream(texts: Sequence[str]) -> list[bytes]:
    """The frames of a whole Chat stream, one for each text and three around them."""
    usage = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return [
        chat_chunk(role="assistant"),
        *(chat_chunk(text) for text in texts),
        chat_chunk(finish="stop"),
        sse({**usage, "choices": [], "usage": USAGE}),
        DONE,
    ]


def responses_stream(texts: Sequence[str]) -> list[bytes]:
    """The frames of a whole Responses stream, one for each text and more around them."""
    text = "".join(texts)
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": text, "annotations": []}
    begun = responses_reply() | {"status": "in_progress", "output": [], "usage": None}
    item = _message("", "in_progress") | {"content": []}
    events: list[JSON] = [
        {"type": "response.created", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", **at, "part": part | {"text": ""}},
        *({"type": "response.output_text.delta", **at, "delta": text} for text in texts),
        {"type": "response.output_text.done", **at, "text": text},
        {"type": "response.content_part.done", **at, "part": part},
        {
            "type": "response.output_item.done",
            "output_index": 0,
            "item": _message(text, "completed"),
        },
        {"type": "response.completed", "response": responses_reply(text)},
    ]
    return [sse({**event, "sequence_number": n}) for n, event in enumerate(events)]


def streaming(*pieces: bytes) -> StreamReply:
    """A reply that sends each piece as one chunk."""
    return StreamReply(list(pieces))


def texts_of(frames: Sequence[JSON]) -> list[str]:
    """The text deltas in frames of either dialect."""
    found = []
    for frame in frames:
        if frame == "[DONE]" or "error" in frame:
            continue
        if frame.get("type") == "response.output_text.delta":
            found.append(frame["delta"])
        for choice in frame.get("choices") or ():
            if choice["delta"].get("content"):
                found.append(choice["delta"]["content"])
    return found


def _message(text: str, status: str) -> JSON:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [part],
    }
