"""A call as the line of JSON that is kept of it.

The members are those of NeMo Gym's captures, whose readers take these lines, and a few more.
"""

from collections.abc import Sequence
from contextlib import suppress

import msgspec
from msgspec import UNSET, UnsetType

from proxy.bodies import BodyError, decompress
from proxy.capture.call import Body, Call, Upstream
from proxy.capture.json_lines import one_line
from proxy.capture.streams import assemble
from proxy.headers import value_of
from proxy.ids import random_hex
from proxy.record import ms
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


class _Reply(msgspec.Struct, gc=False):
    """A reply that was read: on one line if it is a JSON object, and as it came.

    ``first_ms`` is how long its first content took.
    """

    line: bytes | None = None
    data: bytes = b""
    is_stream: bool = False
    ending: str | None = None
    first_ms: float | None = None


class _UpstreamSide(msgspec.Struct):
    """What went to the upstream, and what it said."""

    dialect: str | None
    status_code: int
    request: msgspec.Raw | None
    response: msgspec.Raw | None
    response_raw: str | UnsetType


class _Facts(msgspec.Struct, gc=False):
    """The members of a line that stand before the bodies, in their order."""

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


class _Rest(msgspec.Struct):
    """The members that most lines lack, at the end."""

    request_raw: str | UnsetType = UNSET
    response_raw: str | UnsetType = UNSET
    upstream: _UpstreamSide | UnsetType = UNSET


_skim = msgspec.json.Decoder(_Whole).decode
_encode = msgspec.json.Encoder().encode


def line_of(call: Call, request_limit_bytes: int) -> list[bytes]:
    """The line of a call that has ended, in pieces, so that bodies need not be copied.

    Args:
        call: A call that was not dropped.
        request_limit_bytes: Largest request after decompression.
    """
    record = call.record
    strict, name, total_ms = record.has_strict_body, record.upstream, record.total_ms
    request, data = _read(call.request, call.request_encoding, request_limit_bytes, strict)
    reply = _read_reply(call)
    facts = _Facts(
        random_hex(),
        call.rollout,
        record.request_id,
        record.dialect,
        None if name is None else {"type": _MODEL_SERVERS, "name": name},
        call.started_unix_s,
        call.started_unix_s + total_ms / 1000,
        total_ms,
        reply.first_ms,
        record.status,
        _category(call, reply),
    )
    if request is not None and reply.line is not None and call.upstream is None:
        end = b"}\n"  # mostly
    else:
        rest = _Rest(_text(request, data), _text(reply.line, reply.data))
        if call.upstream is not None:
            rest.upstream = _upstream_side(call, call.upstream, request_limit_bytes)
        members = _encode(rest)[1:]
        end = b"%b%b\n" % (b"" if members == b"}" else b",", members)
    return [
        _encode(facts)[:-1],
        b',"request":',
        request or b"null",
        b',"response":',
        reply.line or b"null",
        end,
    ]


def _upstream_side(call: Call, side: Upstream, request_limit_bytes: int) -> _UpstreamSide:
    request, _ = _read(side.request.pieces, "", request_limit_bytes)
    reply, data = _read(side.reply.pieces, side.reply.encoding, _REPLY_LIMIT_BYTES)
    return _UpstreamSide(
        dialect=call.record.upstream_dialect,
        status_code=side.status,
        request=None if request is None else msgspec.Raw(request),
        response=None if reply is None else msgspec.Raw(reply),
        response_raw=_text(reply, data),  # a stream stays as it is: fixtures are made of its bytes
    )


def _text(line: bytes | None, data: bytes) -> str | UnsetType:
    """A body as it came, if it is no JSON object."""
    return UNSET if line is not None or not data else data.decode("utf-8", "replace")


def _read(
    pieces: Sequence[bytes], encoding: str, limit_bytes: int, is_strict: bool = False
) -> tuple[bytes | None, bytes]:
    """A body on one line, if it is a JSON object, and as it came, but for its encoding."""
    data = b"".join(pieces)
    if encoding or not data.startswith(b"{"):
        with suppress(BodyError):
            data = decompress(data, encoding, limit_bytes)
    return one_line(data, is_strict=is_strict), data


def _read_reply(call: Call) -> _Reply:
    record = call.record
    if call.document is not None:
        ending = _by_status(call.document_status)
        return _Reply(call.document, ending=ending, first_ms=record.first_byte_ms)
    body = call.reply or Body()
    encoding = value_of(call.reply_headers, b"content-encoding")
    if not value_of(call.reply_headers, b"content-type").startswith("text/event-stream"):
        line, data = _read(body.pieces, encoding, _REPLY_LIMIT_BYTES)
        first_ms = ms(record.started_s, body.times_s[0]) if body.times_s else None
        return _Reply(line, data, False, None if line is None else _ending_of(line), first_ms)
    pieces = body.pieces
    if encoding:
        pieces = [_read(pieces, encoding, _REPLY_LIMIT_BYTES)[1]]
    try:
        found = assemble(record.dialect, pieces)
    except (TranslationError, TypeError, ValueError, AttributeError, LookupError):
        # What a relayed upstream streams is nobody's promise; it is kept as it came.
        return _Reply(data=b"".join(pieces), is_stream=True)
    first_ms = None if found.first is None else ms(record.started_s, body.times_s[found.first])
    data = b"".join(pieces) if found.document is None else b""
    return _Reply(found.document, data, True, found.ending, first_ms)


def _ending_of(line: bytes) -> str | None:
    """How a whole reply ended; ``None`` if it does not say."""
    whole = _skim(line)
    if whole.error is not None:
        return "error"
    return _by_status(whole.status)


def _by_status(status: JSON) -> str | None:
    return _BY_RESPONSE_STATUS.get(status) if isinstance(status, str) else None


def _category(call: Call, reply: _Reply) -> str | None:
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
