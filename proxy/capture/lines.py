"""A call as the line of JSON that is kept of it.

The members are those of NeMo Gym's captures, whose readers take these lines, and a few more.
"""

import msgspec
from msgspec import UNSET, UnsetType

from proxy.bodies import BodyError, decompress
from proxy.capture.call import Body, Call
from proxy.capture.json_lines import one_line
from proxy.capture.streams import assemble
from proxy.headers import value_of
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


class _Head(msgspec.Struct, gc=False):
    """The first members of a line, in their order; the bodies follow."""

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


class _Rest(msgspec.Struct, omit_defaults=True):
    """The members after the bodies, which most lines do not have."""

    request_raw: str | UnsetType
    response_raw: str | UnsetType
    upstream: _UpstreamSide | UnsetType


_skim = msgspec.json.Decoder(_Whole).decode


def line_of(call: Call, request_limit_bytes: int) -> bytes:
    """The line of a call that has ended.

    Args:
        call: A call that was not dropped.
        request_limit_bytes: Largest request after decompression.
    """
    record = call.record
    request = _read(call.request, request_limit_bytes, is_strict=record.has_strict_body)
    reply = _read_reply(call)
    name = record.upstream
    latency_s = call.ended_s - record.started_s
    head = _Head(
        call.id,
        call.rollout,
        record.request_id,
        record.dialect,
        None if name is None else {"type": _MODEL_SERVERS, "name": name},
        call.started_unix_s,
        call.started_unix_s + latency_s,
        round(latency_s * 1000, 2),
        _ms_since(record.started_s, reply.first_s),
        record.status,
        _category(call, reply),
    )
    rest = b"}"
    if request.line is None or reply.line is None or call.upstream is not None:
        rest = encode(_rest(call, request, reply, request_limit_bytes))
        rest = b"," + rest[1:] if len(rest) > 2 else b"}"
    bodies = (b',"request":', request.line or b"null", b',"response":', reply.line or b"null")
    return b"".join((encode(head)[:-1], *bodies, rest, b"\n"))


def _rest(call: Call, request: _Body, reply: _Body, request_limit_bytes: int) -> _Rest:
    upstream = UNSET if call.upstream is None else _upstream_side(call, request_limit_bytes)
    return _Rest(_text(request), _text(reply), upstream)


def _upstream_side(call: Call, request_limit_bytes: int) -> _UpstreamSide:
    assert call.upstream is not None
    request = _read(call.upstream.request, request_limit_bytes)
    reply = _read(call.upstream.reply, _REPLY_LIMIT_BYTES)
    return _UpstreamSide(
        dialect=call.record.upstream_dialect,
        status_code=call.upstream.status,
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
    data = _plain(body, limit_bytes)
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
    pieces = [_plain(body, _REPLY_LIMIT_BYTES)] if body.encoding else body.pieces
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


def _plain(body: Body, limit_bytes: int) -> bytes:
    data = b"".join(body.pieces)
    if not body.encoding and data.startswith(b"{"):  # most are
        return data
    try:
        return decompress(data, body.encoding, limit_bytes)
    except BodyError:
        return data


def _ms_since(start_s: float, at_s: float | None) -> float | None:
    return None if at_s is None else round((at_s - start_s) * 1000, 2)


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
