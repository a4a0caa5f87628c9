"""Errors of the OpenAI family: one envelope in every dialect, many shapes in the wild.

Spec: "Error codes", ``{"error": {"message", "type", "param", "code"}}``.
"""

import re
from collections.abc import Mapping

from translators.errors import CallerError, ErrorInfo, TranslationError, UpstreamProtocolError
from translators.wire import JSON, decode

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
_STATUSES = {
    "context_length_exceeded": 400,
    "invalid_prompt": 400,
    "model_not_found": 404,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
}
"""Codes of errors that come without an HTTP status, in a stream or in a reply that failed."""
_OVERFLOW = re.compile(
    # What "cannot be greater than max_model_len" is the output limit, whatever the prompt's length.
    r"(?:maximum|model's) context length|context length of only|context_length_exceeded"
    r"|(?<!greater than )max_model_len|context window|maximum model length|longer than the maximum"
    r"|exceeds the available context size",
    re.IGNORECASE,
)
_CONTEXT = re.compile(r"context length (?:is|of) (\d+)")
_OUTPUT = re.compile(
    r"is too large: (\d+)|(\d+) (?:tokens )?(?:in|for) the completion|requested (\d+) output tokens"
)
_LONGEST_MESSAGE = 4000


def read_error(status: int, body: bytes, params: Mapping[str, str]) -> ErrorInfo:
    """The error in an upstream's reply, of whatever shape.

    Args:
        status: The reply's HTTP status; below 400 means that the body alone says so.
        body: The reply's body.
        params: Names of the upstream dialect's request members -> canonical ones.
    """
    try:
        value = decode(body, UpstreamProtocolError)
    except TranslationError:
        value = body.decode("utf-8", "replace").strip()
    return error_of(value, status, params)


def error_of(value: JSON, status: int, params: Mapping[str, str]) -> ErrorInfo:
    """The error in a decoded body or stream frame.

    OpenAI nests an object in ``error``, vLLM's 401 a string; FastAPI says ``detail``; old vLLM
    puts the members on top beside ``object: error``.
    """
    source: JSON = value
    if isinstance(value, dict):
        source = value.get("error") or value.get("detail") or value
    if isinstance(source, list) and source and isinstance(source[0], dict):
        source = {"message": source[0].get("msg"), "param": _path(source[0].get("loc"))}
    members: dict[str, JSON] = source if isinstance(source, dict) else {"message": source}
    message = members.get("message")
    message = message if isinstance(message, str) and message else f"Upstream error {status}."
    code = members.get("code")
    if status < 400:
        status = _status_of(code)
    kind = members.get("type")
    if not isinstance(kind, str) or not kind.islower() or " " in kind or kind == "error":
        kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    param = members.get("param")
    if isinstance(param, str):
        param = rename_param(param, params)
    if status in (400, 413, 422) and _asks_for_too_much(message):
        param = "max_output_tokens"
    elif code == "context_length_exceeded" or (
        status in (400, 413, 422) and _OVERFLOW.search(message)
    ):
        code, param = "context_length_exceeded", "items"
    if status == 404 and "model" in message and "exist" in message:
        code = "model_not_found"
    return ErrorInfo(
        message=message[:_LONGEST_MESSAGE],
        status=status,
        type=kind,
        code=code if isinstance(code, str) and code else _CODES.get(status),
        param=param if isinstance(param, str) else None,
    )


def _status_of(code: JSON) -> int:
    match code:
        case int() if 400 <= code < 600:
            return code
        case str():
            return _STATUSES.get(code, 502)
    return 502


def _asks_for_too_much(message: str) -> bool:
    """Whether an output limit alone is beyond the context: then no shorter prompt would do."""
    context, output = _CONTEXT.search(message), _OUTPUT.search(message)
    if context is None or output is None:
        return False
    return int(output[output.lastindex or 0]) >= int(context[1])


def is_error(value: JSON, payload: str) -> bool:
    """Whether a stream frame is an error: it says so, and has no ``payload`` member."""
    return (
        isinstance(value, dict)
        and payload not in value
        and (bool(value.get("error")) or value.get("object") == "error" or "detail" in value)
    )


def write_error(error: ErrorInfo, params: Mapping[str, str]) -> dict[str, JSON]:
    """The envelope of an error.

    Args:
        error: The error.
        params: Canonical names of request members -> the caller's dialect's ones.
    """
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": None if error.param is None else rename_param(error.param, params),
            "code": error.code,
        }
    }


def info_of(error: TranslationError) -> ErrorInfo:
    """A translation error as one for the caller; a path in the upstream's body means nothing to it.

    The message has that path.
    """
    param = error.param if isinstance(error, CallerError) else None
    return ErrorInfo(error.message, error.status, error.type, error.code, param)


def _path(loc: JSON) -> str | None:
    if not isinstance(loc, list):
        return None
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc)
    return path.removeprefix(".").removeprefix("body.")


def rename_param(param: str, params: Mapping[str, str]) -> str:
    """Rename a member; a path inside a renamed one is cut, since indexes differ."""
    param = param.removeprefix("body.")
    head = re.split(r"[.\[]", param, maxsplit=1)[0]
    return params.get(param) or params.get(head) or param
