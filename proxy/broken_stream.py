"""The end of a relayed stream whose upstream broke off: an error in the caller's dialect."""

import re

from backends.base import UpstreamReply
from translators.codec import Codec
from translators.dialect import Dialect
from translators.errors import ErrorInfo
from translators.sse import encode_frame
from translators.wire import encode

_FRAME_END = re.compile(rb"(?:\n\n|\r\r|\r\n\r\n)\Z")
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
    headers = reply.headers
    is_stream = headers.get("content-type", "").lower().startswith("text/event-stream")
    if not is_stream or "content-encoding" in headers or "content-length" in headers:
        return None
    if tail and not _FRAME_END.search(tail):
        return None
    document = caller.write_error(error)
    if caller.dialect is not Dialect.RESPONSES:
        return encode_frame(None, encode(document))
    numbers = _NUMBER.findall(tail)
    flat = {name: document["error"][name] for name in ("message", "code", "param")}
    number = int(numbers[-1]) + 1 if numbers else 0
    members = {"type": "error", "sequence_number": number, **document, **flat}
    return encode_frame("error", encode(members))
