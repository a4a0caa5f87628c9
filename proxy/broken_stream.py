"""The end of a relayed stream that is not over: an error in the caller's dialect."""

import re

from backends.base import UpstreamReply
from translators.codec import Codec
from translators.dialect import Dialect
from translators.errors import ErrorInfo, MalformedRequest
from translators.sse import encode_frame
from translators.wire import decode, encode

_FRAME_ENDS = (b"\n\n", b"\r\r", b"\r\n\r\n")
_DATA = b"data:"
_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')
_GOES_ON = (".created", ".queued", ".in_progress", ".added", ".delta", ".done")
_NUMBER = re.compile(rb'"sequence_number"\s*:\s*(\d+)')


def last_frame(caller: Codec, reply: UpstreamReply, tail: bytes, error: ErrorInfo) -> bytes | None:
    """The frame that tells the caller of an error, ``None`` if none can follow what went out.

    That is so where the reply is no stream or is encoded, and within a frame. Then only the
    connection can say so, by ending too early.

    Args:
        caller: The caller's dialect, which is the upstream's too.
        reply: The reply that broke off.
        tail: The last bytes that went out, empty if none did.
        error: What happened.
    """
    if not _can_follow(reply, tail):
        return None
    document = caller.write_error(error)
    if caller.dialect is not Dialect.RESPONSES:
        return encode_frame(None, encode(document))
    numbers = _NUMBER.findall(tail)
    flat = {name: document["error"][name] for name in ("message", "code", "param")}
    number = int(numbers[-1]) + 1 if numbers else 0
    members = {"type": "error", "sequence_number": number, **document, **flat}
    return encode_frame("error", encode(members))


def stops_short(caller: Codec, reply: UpstreamReply, tail: bytes) -> bool:
    """Whether a stream that ended in order was not over: as when a vLLM ends with its engine.

    Only what is certain counts: the last frame is one after which its dialect has others.
    """
    if reply.status != 200 or not _can_follow(reply, tail):
        return False
    if not tail:
        return True
    text = tail.rstrip(b"\r\n")
    line = text[max(text.rfind(b"\n"), text.rfind(b"\r")) + 1 :]
    if not line.startswith(_DATA):
        return False
    try:
        last = decode(line[len(_DATA) :])
    except MalformedRequest:
        return False
    match last:
        case {"type": str(kind)} if caller.dialect is Dialect.RESPONSES:
            return kind.endswith(_GOES_ON)
        case {"choices": [_, *_] as choices} if caller.dialect is Dialect.CHAT:
            is_open = all(isinstance(c, dict) and not c.get("finish_reason") for c in choices)
            return is_open and not _FINISHED.search(tail)
    return False


def _can_follow(reply: UpstreamReply, tail: bytes) -> bool:
    """Whether a frame can be sent after these bytes."""
    headers = reply.headers
    is_stream = headers.get("content-type", "").lower().startswith("text/event-stream")
    if not is_stream or "content-encoding" in headers or "content-length" in headers:
        return False
    return not tail or tail.endswith(_FRAME_ENDS)
