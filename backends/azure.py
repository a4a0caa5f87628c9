"""Azure OpenAI: other URLs and another header for the key, the same bodies.

Spec: Microsoft Learn, "Azure OpenAI in Microsoft Foundry Models v1 API", and "Azure OpenAI REST
API reference" (read November 2026).
"""

from collections.abc import Sequence
from enum import StrEnum
from urllib.parse import quote

import msgspec

from backends.base import Backend, BackendReply, UpstreamRequest

_OF_DEPLOYMENTS = frozenset(
    {
        *("/chat/completions", "/completions", "/embeddings"),
        *("/audio/transcriptions", "/audio/translations", "/audio/speech"),
        *("/images/generations", "/images/edits"),
    }
)


class Form(StrEnum):
    """How URLs are formed."""

    V1 = "v1"
    """``/openai/v1/chat/completions``: the body names the deployment, as ``model``."""
    DEPLOYMENTS = "deployments"
    """``/openai/deployments/{deployment}/chat/completions?api-version=...``."""


class Auth(StrEnum):
    """How a request proves itself."""

    API_KEY = "api-key"
    """A key of the resource, in the header of this name."""
    BEARER = "bearer"
    """A token of Microsoft Entra ID."""


def root_of(endpoint: str, form: Form) -> str:
    """The API root of a resource, such as ``https://name.openai.azure.com``."""
    return f"{endpoint.rstrip('/')}/openai{'/v1' if form is Form.V1 else ''}"


class AzureBackend:
    """An Azure OpenAI resource.

    Without a credential of its own, the caller's bearer token takes its place.
    """

    def __init__(
        self,
        server: Backend,
        *,
        form: Form = Form.V1,
        api_version: str | None = None,
        deployment: str | None = None,
        auth: Auth = Auth.API_KEY,
        key: str | None = None,
    ) -> None:
        """Make a backend that owns ``server``.

        Args:
            server: Sends to the resource's root, with no credential of its own.
            form: How URLs are formed.
            api_version: Date of the API, or ``preview``; the deployments' form needs one.
            deployment: Deployment for all requests; else the request's model is its name.
            auth: How a request proves itself.
            key: Key or token; white space around it is cut off.
        """
        self._server = server
        self._form = form
        self._version = None if api_version is None else f"api-version={quote(api_version)}"
        self._deployment = deployment
        self._auth = auth
        self._key = key.strip() if key else None

    @property
    def name(self) -> str:
        """Name of the upstream."""
        return self._server.name

    async def start(self) -> None:
        """Start the server."""
        await self._server.start()

    async def send(self, request: UpstreamRequest) -> BackendReply:
        """Send a request; see ``Backend.send``."""
        path = self._path(request)
        headers = self._sign(request.headers)
        return await self._server.send(msgspec.structs.replace(request, path=path, headers=headers))

    async def probe(self) -> None:
        """Ask whether the resource answers; see ``Backend.probe``."""
        await self._server.probe()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._server.aclose()

    def _path(self, request: UpstreamRequest) -> str:
        """Path and query: the caller's, with our version of the API in the place of its own."""
        path, _, query = request.path.partition("?")
        deployment = self._deployment or request.model
        if self._form is Form.DEPLOYMENTS and path in _OF_DEPLOYMENTS and deployment is not None:
            path = f"/deployments/{quote(deployment, safe='')}{path}"
        if self._version is not None:
            pairs = [pair for pair in query.split("&") if not pair.startswith("api-version=")]
            query = "&".join([*filter(None, pairs), self._version])
        return f"{path}?{query}" if query else path

    def _sign(self, headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """The headers with our credential, or with the caller's where Azure looks for it."""
        given = [value for name, value in headers if name == "authorization"]
        key = self._key or next((v[7:].strip() for v in given if v[:7].lower() == "bearer "), None)
        signed = [pair for pair in headers if pair[0] not in ("authorization", "api-key")]
        if key is not None and self._auth is Auth.API_KEY:
            signed.append(("api-key", key))
        elif key is not None:
            signed.append(("authorization", f"Bearer {key}"))
        return signed
