"""A call as the line of JSON that is kept of it.

The members are those of NeMo Gym's captures, whose readers take these lines, and a few more.
"""

from contextlib import suppress

import msgspec
from msgspec import UNSET, UnsetType

from proxy.bodies import BodyError, decompress
from proxy.capture.call import Body, Call, Upstream
from proxy.capture.json_lines import one_line
from proxy.capture.streams import assemble
from proxy.headers import value_of
from translators.errors import TranslationError
from translators.wire import JSON

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
    "internal_error": "exception",
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


class _Body(msgspec.Struct, gc=False):
    """A body that was read: on one line if it is a JSON object, and as it came.

    ``first_s`` is when its first content came.
    """

    line: bytes | None = None
    data: bytes = b""
    is_stream: bool = False
    ending: str | None = None
    first_s: float | None = None


class _UpstreamSide(msgspec.Struct):
    """What went to the upstream, and what it said."""

    dialect: str | None
    status_code: int
    request: msgspec.Raw | None
    response: msgspec.Raw | None
    response_raw: str | UnsetType


class _Line(msgspec.Struct, gc=False):
    """The members of a line, in their order."""

    model_call_id: str
    rollout_id: str
    request_id: str | None
    dialect: str
    model_ref: JSON
    started_at: float
    completed_at: float
    latency_ms: float
    latency_ttft_ms: float | None
    status_code: int | None
    error_category: str | None
    request: msgspec.Raw | None
    response: msgspec.Raw | None
    request_raw: str | UnsetType = UNSET
    response_raw: str | UnsetType = UNSET
    upstream: _UpstreamSide | UnsetType = UNSET


_skim = msgspec.json.Decoder(_Whole).decode
_append = msgspec.json.Encoder().encode_into


def add_line(call: Call, lines: bytearray, request_limit_bytes: int) -> None:
    """Add the line of a call that has ended to others.

    Args:
        call: A call that was not dropped.
        lines: Gets the line at its end.
        request_limit_bytes: Largest request after decompression.
    """
    record = call.record
    request = _read(call.request, request_limit_bytes, is_strict=record.has_strict_body)
    reply = _read_reply(call)
    name = record.upstream
    latency_s = call.ended_s - record.started_s
    first_s = reply.first_s
    line = _Line(
        call.id,
        call.rollout,
        record.request_id,
        record.dialect,
        None if name is None else {"type": _MODEL_SERVERS, "name": name},
        call.started_unix_s,
        call.started_unix_s + latency_s,
        round(latency_s * 1000, 2),
        None if first_s is None else round((first_s - record.started_s) * 1000, 2),
        record.status,
        _category(call, reply),
        _json(request),
        _json(reply),
    )
    if request.line is None or reply.line is None:
        line.request_raw = _text(request)
        line.response_raw = _text(reply)
    if call.upstream is not None:
        line.upstream = _upstream_side(call, call.upstream, request_limit_bytes)
    _append(line, lines, -1)
    lines += b"\n"


def _upstream_side(call: Call, side: Upstream, request_limit_bytes: int) -> _UpstreamSide:
    request = _read(side.request, request_limit_bytes)
    reply = _read(side.reply, _REPLY_LIMIT_BYTES)
    return _UpstreamSide(
        dialect=call.record.upstream_dialect,
        status_code=side.status,
        request=_json(request),
        response=_json(reply),
        response_raw=_text(reply),  # a stream stays as it is: fixtures are made of its bytes
    )


def _json(body: _Body) -> msgspec.Raw | None:
    return None if body.line is None else msgspec.Raw(body.line)


def _text(body: _Body) -> str | UnsetType:
    """A body that is no JSON object, as it came."""
    if body.line is not None or not body.data:
        return UNSET
    return body.data.decode("utf-8", "replace")


def _read(body: Body, limit_bytes: int, *, is_strict: bool = False) -> _Body:
    data = b"".join(body.pieces)
    if body.encoding or not data.startswith(b"{"):
        with suppress(BodyError):
            data = decompress(data, body.encoding, limit_bytes)
    return _Body(one_line(data, is_strict=is_strict), data)


def _read_reply(call: Call) -> _Body:
    body = call.reply
    is_ours = call.reply_status is not UNSET
    if not is_ours:
        body.type = value_of(call.reply_headers, b"content-type")
        body.encoding = value_of(call.reply_headers, b"content-encoding")
    if not body.type.startswith("text/event-stream"):
        reply = _read(body, _REPLY_LIMIT_BYTES, is_strict=is_ours)
        reply.first_s = body.times_s[0] if body.times_s else None
        if is_ours:
            reply.ending = _by_status(call.reply_status)
        elif reply.line is not None:
            reply.ending = _ending_of(reply.line)
        return reply
    pieces = [_read(body, _REPLY_LIMIT_BYTES).data] if body.encoding else body.pieces
    try:
        found = assemble(call.record.dialect, pieces)
    except (TranslationError, TypeError, ValueError, AttributeError, LookupError):
        # What a relayed upstream streams is nobody's promise; it is kept as it came.
        return _Body(data=b"".join(pieces), is_stream=True)
    first_s = None if found.first is None else body.times_s[found.first]
    data = b"".join(pieces) if found.document is None else b""
    return _Body(found.document, data, True, found.ending, first_s)


def _ending_of(line: bytes) -> str | None:
    """How a whole reply ended; ``None`` if it does not say."""
    whole = _skim(line)
    if whole.error is not None:
        return "error"
    return _by_status(whole.status)


def _by_status(status: JSON) -> str | None:
    return _BY_RESPONSE_STATUS.get(status) if isinstance(status, str) else None


def _category(call: Call, reply: _Body) -> str | None:
    """What went wrong, in the words of NeMo Gym's captures; ``client_closed`` is our own."""
    if call.has_failed:
        return "exception"
    error, status = call.record.error, call.record.status
    if error is not None and error.code in _BY_CODE:
        return _BY_CODE[error.code]
    if status is not None and status >= 400:
        by_kind = "client_error" if status < 500 else "upstream_error"
        return _BY_STATUS.get(status, by_kind)
    if reply.ending is not None:
        return _BY_ENDING.get(reply.ending)
    if reply.line is not None and not reply.is_stream:
        return None
    if status is None or (call.record.outcome == "client_closed" and not call.has_ended):
        return "client_closed"
    if reply.is_stream and (reply.line is not None or not call.has_ended):
        return "stream_truncated"
    if not call.has_ended:
        return "connection"
    return "capture_parse_error" if reply.data else None
