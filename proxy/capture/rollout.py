"""To which rollout a request belongs: NeMo Gym's path prefix, or a header."""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import quote

HEADER = "x-dragoman-rollout"
"""Names the rollout of a request whose path does not."""

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]
Scope = MutableMapping[str, Any]

_START = "/ng-rollout/"
_PREFIX = re.compile(
    r"/ng-rollout/(?P<rollout>[^/]+)(?:/training-token-capture)?(?P<rest>/.*)", re.DOTALL
)
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
    match = _PREFIX.fullmatch(scope["path"])
    if match is None:
        return scope
    rest = match["rest"]
    headers = [(name, value) for name, value in scope["headers"] if name != _HEADER]
    headers.append((_HEADER, match["rollout"].encode()))
    return {**scope, "path": rest, "raw_path": quote(rest).encode(), "headers": headers}


def rollout_of(scope: Scope) -> str | None:
    """The rollout that a request names, ``None`` if it names none."""
    for name, value in scope["headers"]:
        if name == _HEADER and value:
            return str(value, "utf-8", "backslashreplace")
    return None
