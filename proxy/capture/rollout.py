"""To which rollout a request belongs: NeMo Gym's path prefix, or a header."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote

HEADER = "x-dragoman-rollout"
"""Names the rollout of a request whose path does not."""

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]
Scope = MutableMapping[str, Any]

_START = "/ng-rollout/"
_TOKEN_CAPTURE = "/training-token-capture/"
_HEADER = HEADER.encode()


def without_prefix(app: ASGIApp) -> ASGIApp:
    """The application, below ``/ng-rollout/{id}`` too, with and without token capture's segment.

    The prefix is taken off before routing, so that every route has it, and becomes the header.
    """

    def answer(scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        if scope["type"] == "http" and scope["path"].startswith(_START):
            scope = _strip(scope)
        return app(scope, receive, send)

    return answer


def _strip(scope: Scope) -> Scope:
    rollout, slash, rest = scope["path"][len(_START) :].partition("/")
    if not (rollout and slash):
        return scope
    rest = f"/{rest}"
    if rest.startswith(_TOKEN_CAPTURE):
        rest = rest[len(_TOKEN_CAPTURE) - 1 :]
    headers = [(_HEADER, rollout.encode()), *scope["headers"]]  # of several, the first counts
    return {**scope, "path": rest, "raw_path": _quoted(rest), "headers": headers}


@lru_cache(maxsize=64)  # there are few paths: saves 1 us per request
def _quoted(path: str) -> bytes:
    return quote(path).encode()


def rollout_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The rollout that a request names, ``None`` if it names none."""
    for name, value in headers:
        if name == _HEADER and value:
            return str(value, "utf-8", "backslashreplace")
    return None
