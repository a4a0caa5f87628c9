"""To which rollout a request belongs: NeMo Gym's path prefix, or a header."""

from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from proxy.headers import Headers

HEADER = "x-dragoman-rollout"
"""Names the rollout of a request whose path does not."""

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]

_START = "/ng-rollout/"
_TOKEN_CAPTURE = "/training-token-capture/"
_HEADER = HEADER.encode()


def without_prefix(app: ASGIApp) -> ASGIApp:
    """The application, below ``/ng-rollout/{id}`` too, with and without token capture's segment.

    The prefix is taken off before routing, so that every route has it, and becomes the header.
    """

    def answer(scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        if scope["type"] == "http" and scope["path"].startswith(_START):
            prefix, changes = _split(scope["path"])
            # Of several headers with this name the last counts.
            scope = scope | changes
            scope["headers"] = [*scope["headers"], *prefix]
        return app(scope, receive, send)

    return answer


@lru_cache(maxsize=512)  # a rollout makes many calls of one path: saves 2 us for each
def _split(path: str) -> tuple[Headers, Mapping[str, Any]]:
    """The header that a path's prefix becomes, and the paths that are left."""
    rollout, slash, rest = path[len(_START) :].partition("/")
    if not (rollout and slash):
        return [], {}
    rest = f"/{rest}"
    if rest.startswith(_TOKEN_CAPTURE):
        rest = rest[len(_TOKEN_CAPTURE) - 1 :]
    return [(_HEADER, rollout.encode())], {"path": rest, "raw_path": quote(rest).encode()}


def rollout_of(fields: Mapping[bytes, bytes]) -> str | None:
    """The rollout that a request's headers name, ``None`` if they name none."""
    value = fields.get(_HEADER)
    return value.decode("utf-8", "backslashreplace") if value else None
