"""A call as the line of JSON that is kept of it.

The members are those of NeMo Gym's captures, whose readers take these lines, and a few more.
"""

import msgspec

from proxy.bodies import BodyError, decompress
from proxy.capture.call import Body, Call
from proxy.capture.json_lines import compact
from proxy.capture.streams import assemble
from translators.errors import TranslationError
from translators.wire import JSON, encode

_REPLY_LIMIT_BYTES = 256 * 1024 * 1024
_MODEL_SERVERS = "responses_api_models"
"""The only type of ``model_ref`` that NeMo Gym's readers take."""

_BY_STATUS = {
    401: "auth",
    403: "auth",
    404: "not_found",
    408: "timeout",
    429: "rate_limit",
    504: "timeout",
}
_BY_CODE = {
    "upstream_unavailable": "connection",
    "upstream_exited": "connection",
    "upstream_timeout": "timeout",
    "upstream_stream_truncated": "stream_truncated",
}
_BY_ENDING = {"error": "upstream_error", "incomplete": "incomplete"}
_BY_RESPONSE_STATUS = {"failed": "error", "incomplete": "incomplete"}


class _Whole(msgspec.Struct):
    """What tells how a whole reply ended."""

    status: JSON = None
    error: JSON = None


class _Read(msgspec.Struct):
    """A body that was read: as one line of JSON, or as it came."""

    document: bytes | None = None
    raw: bytes = b""
    is_stream: bool = False
    ending: str | None = None
    first_s: float | None = None


_skim = msgspec.json.Decoder(_Whole).decode


def line_of(call: Call, request_limit_bytes: int) -> bytes:
    """The line of a call that has ended.

    Args:
        call: A call that was not dropped.
        request_limit_bytes: Largest request after decompression.
    """
    request = _read_request(call.request, request_limit_bytes)
    reply = _read_reply(call.dialect, call.reply)
    record = call.record
    upstream = None if record is None else record.upstream
    latency_s = call.ended_s - call.started_s
    members: dict[str, JSON] = {
        "model_call_id": call.id,
        "rollout_id": call.rollout,
        "request_id": None if record is None else record.request_id,
        "dialect": call.dialect,
        "model_ref": None if upstream is None else {"type": _MODEL_SERVERS, "name": upstream},
        "started_at": call.started_unix_s,
        "completed_at": call.started_unix_s + latency_s,
        "latency_ms": round(latency_s * 1000, 2),
        "latency_ttft_ms": _ms_since(call.started_s, reply.first_s),
        "status_code": call.status,
        "error_category": _category(call, reply),
        **_members("request", request),
        **_members("response", reply),
    }
    if call.upstream is not None and record is not None and record.upstream_dialect is not None:
        dialect = record.upstream_dialect
        members["upstream"] = {
            "dialect": dialect,
            "status_code": call.upstream.status,
            **_members("request", _read_request(call.upstream.request, request_limit_bytes)),
            # A stream's bytes stay as they are: that is what a fixture is made of.
            **_members("response", _read_whole(call.upstream.reply)),
        }
    return encode(members) + b"\n"


def _members(name: str, body: _Read) -> dict[str, JSON]:
    if body.document is not None:
        return {name: msgspec.Raw(body.document)}
    if not body.raw:
        return {name: None}
    return {name: None, f"{name}_raw": body.raw.decode("utf-8", "replace")}


def _read_request(body: Body, limit_bytes: int) -> _Read:
    data = _plain(body, limit_bytes)
    return _Read(_object(data), data)


def _read_whole(body: Body) -> _Read:
    data = _plain(body, _REPLY_LIMIT_BYTES)
    return _Read(_object(data), data, first_s=body.times_s[0] if body.times_s else None)


def _read_reply(dialect: str, body: Body) -> _Read:
    if not body.type.startswith("text/event-stream"):
        return _find_ending(_read_whole(body))
    pieces = body.pieces
    if body.encoding:
        pieces = [_plain(body, _REPLY_LIMIT_BYTES)]
    read = _Read(is_stream=True)
    try:
        found = assemble(dialect, pieces)
    except (TranslationError, TypeError, ValueError, AttributeError, LookupError):
        # What a relayed upstream streams is nobody's promise; it is kept as it came.
        read.raw = b"".join(pieces)
        return read
    read.document, read.ending = found.document, found.ending
    if found.first is not None:
        read.first_s = body.times_s[found.first]
    if read.document is None:
        read.raw = b"".join(pieces)
    return read


def _find_ending(reply: _Read) -> _Read:
    if reply.document is not None:
        whole = _skim(reply.document)
        if isinstance(whole.status, str):
            reply.ending = _BY_RESPONSE_STATUS.get(whole.status)
        if whole.error is not None:
            reply.ending = "error"
    return reply


def _plain(body: Body, limit_bytes: int) -> bytes:
    data = b"".join(body.pieces)
    try:
        return decompress(data, body.encoding, limit_bytes)
    except BodyError:
        return data


def _object(data: bytes) -> bytes | None:
    line = compact(data)
    return line if line is not None and line.startswith(b"{") else None


def _ms_since(start_s: float, at_s: float | None) -> float | None:
    return None if at_s is None else round((at_s - start_s) * 1000, 2)


def _category(call: Call, reply: _Read) -> str | None:
    """What went wrong, in the words of NeMo Gym's captures; ``client_closed`` is our own."""
    if call.has_failed:
        return "exception"
    error = None if call.record is None else call.record.error
    if error is not None and error.code in _BY_CODE:
        return _BY_CODE[error.code]
    if call.status is not None and call.status >= 400:
        by_kind = "client_error" if call.status < 500 else "upstream_error"
        return _BY_STATUS.get(call.status, by_kind)
    if reply.ending is not None:
        return _BY_ENDING.get(reply.ending)
    if reply.document is not None and not reply.is_stream:
        return None
    if call.is_gone or call.status is None:
        return "client_closed"
    if reply.is_stream and (reply.document is not None or not call.has_ended):
        return "stream_truncated"
    if not call.has_ended:
        return "connection"
    return "capture_parse_error" if reply.raw else None
