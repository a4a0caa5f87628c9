"""Which headers pass, both ways: allow-lists, so that nothing leaks by default.

Spec: RFC 9110, section 7.6.1 "Connection".
"""

from collections.abc import Iterable, Mapping

Headers = list[tuple[bytes, bytes]]
"""Headers as ASGI has them: lower-case names."""

_TO_UPSTREAM = frozenset(
    {
        b"authorization",
        b"x-request-id",
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
_RELAYED = _TO_CALLER | {"content-type", "content-encoding", "cache-control", "vary"}


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
    extra: Mapping[str, str] | None = None,
) -> list[tuple[str, str]]:
    """Headers of a request to an upstream: of those that the caller sent, and extra ones.

    Extra ones, with lower-case names, replace the caller's.
    """
    passed = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in headers
        if name in _TO_UPSTREAM
    ]
    if extra:
        passed = [*((k, v) for k, v in passed if k not in extra), *extra.items()]
    accept = "text/event-stream" if is_stream else "application/json"
    return [
        *passed,
        ("content-type", "application/json"),
        ("accept", accept),
        ("accept-encoding", "identity"),
    ]


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
