"""Which headers pass, both ways: allow-lists, so that nothing leaks by default.

Spec: RFC 9110, section 7.6.1 "Connection".
"""

import string
from collections.abc import Iterable, Mapping
from urllib.parse import quote

Headers = list[tuple[bytes, bytes]]
"""Headers as ASGI has them: lower-case names."""

_TO_UPSTREAM = frozenset(
    {
        b"authorization",
        b"x-client-request-id",
        b"traceparent",
        b"tracestate",
        b"baggage",
        b"session-id",
        b"session_id",
        b"thread-id",
        b"conversation_id",
        b"x-session-id",
        b"x-data-parallel-rank",
        b"openai-organization",
        b"openai-project",
        b"openai-beta",
        b"idempotency-key",
    }
)
_TO_UPSTREAM_RELAYED = _TO_UPSTREAM | {b"accept"}
_TO_CALLER = frozenset(
    {
        "retry-after",
        "retry-after-ms",
        "x-should-retry",
        "x-request-id",
        "openai-processing-ms",
        "openai-organization",
        "openai-version",
    }
)
_RELAYED = _TO_CALLER | {
    *("content-type", "content-encoding", "content-disposition", "cache-control", "vary"),
    "metadata",  # in which vLLM describes embeddings that it sends as bytes
}
_IN_QUERY = string.punctuation.replace("#", "")


OURS = frozenset(
    {
        *("accept", "accept-encoding", "connection", "content-encoding", "content-length"),
        *("content-type", "host", "transfer-encoding"),
    }
)
"""Headers of requests to an upstream that only the proxy itself can know."""


def to_upstream(
    headers: Iterable[tuple[bytes, bytes]],
    *,
    is_stream: bool,
    request_id: str,
    extra: Mapping[str, str] | None = None,
) -> list[tuple[str, str]]:
    """Headers of a request to an upstream, of those that the caller sent.

    Args:
        headers: The caller's.
        is_stream: Whether a stream is wanted.
        request_id: The caller's, or one of ours; "" for none.
        extra: More headers, with lower-case names; they replace the others.
    """
    accept = "text/event-stream" if is_stream else "application/json"
    return [
        *_passed(headers, _TO_UPSTREAM, request_id, extra),
        ("content-type", "application/json"),
        ("accept", accept),
        ("accept-encoding", "identity"),
    ]


def to_relayed(
    headers: Iterable[tuple[bytes, bytes]],
    content_type: str,
    request_id: str,
    extra: Mapping[str, str],
) -> list[tuple[str, str]]:
    """Headers of a relayed request, of those that the caller sent, ``accept`` among them.

    Args:
        headers: The caller's.
        content_type: That of the body, "" if there is none.
        request_id: The caller's, or one of ours.
        extra: More headers, with lower-case names; they replace the others.
    """
    passed = _passed(headers, _TO_UPSTREAM_RELAYED, request_id, extra)
    if content_type:
        passed.append(("content-type", content_type))
    return [*passed, ("accept-encoding", "identity")]


def _passed(
    headers: Iterable[tuple[bytes, bytes]],
    names: frozenset[bytes],
    request_id: str,
    extra: Mapping[str, str] | None,
) -> list[tuple[str, str]]:
    """The caller's headers of these names, the request's id, and extra ones in their place."""
    passed = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in headers
        if name in names
    ]
    if request_id:
        passed.append(("x-request-id", request_id))
    if extra:
        passed = [*((k, v) for k, v in passed if k not in extra), *extra.items()]
    return passed


def query(query_string: bytes) -> str:
    """A query string as the end of a URL, with its question mark, "" if it is empty."""
    return "?" + quote(query_string, safe=_IN_QUERY) if query_string else ""


def value_of(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str:
    """The last value of a header, "" if it is absent."""
    found = ""
    for key, value in headers:
        if key == name:
            found = value.decode("latin-1")
    return found


def to_caller(headers: Mapping[str, str]) -> Headers:
    """Headers of a translated reply, of those that the upstream sent."""
    return [
        (name.encode("latin-1"), value.encode("latin-1"))
        for name, value in headers.items()
        if name in _TO_CALLER or name.startswith("x-ratelimit-")
    ]


def relayed(headers: Mapping[str, str], *, is_decoded: bool = False) -> Headers:
    """Headers of a relayed reply: those that describe its bytes as well.

    Without the content encoding if that ``is_decoded``.
    """
    return [
        (name.encode("latin-1"), value.encode("latin-1"))
        for name, value in headers.items()
        if name in _RELAYED or name.startswith("x-ratelimit-")
        if not (is_decoded and name == "content-encoding")
    ]


STREAM: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]
"""Headers of a stream that no middlebox should hold back."""

JSON_TYPE: Headers = [(b"content-type", b"application/json")]
