"""Which of an upstream's endpoints are relayed, beside those whose dialects we speak.

An allow-list, since servers have endpoints that stop them, change their weights or tell of their
insides, some of them outside the paths that their key guards.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from translators import CODECS
from translators.dialect import Dialect

DEFAULT = "default"
"""The word in the setting that stands for ``USUAL``."""

USUAL = (
    "/v1/completions",
    "/v1/embeddings",
    "/v1/moderations",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/audio/speech",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/images/variations",
    # What vLLM has besides, and other servers of open models too.
    "/v1/score",
    "/score",
    "/v1/rerank",
    "/v2/rerank",
    "/rerank",
    "/v2/embed",
    "/classify",
    "/pooling",
    "/generative_scoring",
    "/tokenize",
    "/detokenize",
    "/v1/chat/completions/batch",
    "/v1/chat/completions/render",
    "/v1/chat/completions/derender",
    "/v1/completions/render",
    "/v1/completions/derender",
    "/v1/responses/render",
    "/inference/v1/generate",
)
"""Endpoints that compute something for a caller and change nothing."""

_ENTRY = re.compile(r"(?:(GET|POST) )?((?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)+)")


@dataclass(frozen=True)
class Endpoint:
    """One endpoint.

    Attributes:
        method: ``GET`` or ``POST``.
        path: Its path at the server's root, such as ``/tokenize`` or ``/v1/embeddings``.
    """

    method: str
    path: str

    @property
    def is_at_root(self) -> bool:
        """Whether it is outside the API root."""
        return not self.path.startswith("/v1/")

    @property
    def upstream_path(self) -> str:
        """Its path relative to the API root, or to the server's if it is there."""
        return self.path if self.is_at_root else self.path.removeprefix("/v1")


def read_endpoint(entry: str) -> Endpoint:
    """The endpoint of an entry such as ``/v1/embeddings`` (a POST) or ``GET /version``.

    Raises:
        ValueError: It is none, or the proxy answers there itself; the message says so.
    """
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise ValueError(
            f"'{entry}' is no endpoint; expected a path such as '/v1/embeddings' (a POST), "
            f"'GET /version', or '{DEFAULT}' for the usual ones"
        )
    if match[2] in _OWN:
        raise ValueError(f"the proxy itself answers '{match[2]}'")
    return Endpoint(match[1] or "POST", match[2])


def read_endpoints(entries: Sequence[str]) -> list[Endpoint]:
    """The endpoints of the setting, each once.

    Raises:
        ValueError: An entry is wrong.
    """
    named = [name for e in entries for name in (USUAL if e == DEFAULT else (e,))]
    return list(dict.fromkeys(read_endpoint(name) for name in named))


def served_paths(endpoints: Sequence[Endpoint]) -> dict[str, dict[str, Endpoint]]:
    """Where the proxy serves endpoints: path -> method -> endpoint.

    Those below ``/v1`` are served without it too, since SDKs differ, unless that is the path of
    another one.
    """
    served: dict[str, dict[str, Endpoint]] = {}
    for endpoint in endpoints:
        served.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    for endpoint in endpoints:
        if endpoint.upstream_path not in _OWN:
            served.setdefault(endpoint.upstream_path, {}).setdefault(endpoint.method, endpoint)
    return served


def _own_paths() -> frozenset[str]:
    """Paths that are no upstream's, or not relayed as they are."""
    api = [codec.path for codec in CODECS.values()]
    api += [f"{CODECS[Dialect.RESPONSES].path}/compact", "/models"]
    return frozenset({*api, *(f"/v1{path}" for path in api), "/health", "/ready"})


_OWN = _own_paths()
