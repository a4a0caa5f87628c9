"""From a model's name to the upstream that serves it, and to the dialect it is spoken to in."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from backends.base import Backend, UpstreamRequest
from backends.errors import BackendError
from proxy.bodies import BodyError, collect, decompress
from proxy.rollouts import Rollout, rollout_of
from proxy.settings import Model
from translators import CODECS
from translators.dialect import Dialect
from translators.errors import CallerError, MalformedRequest, UpstreamProtocolError
from translators.profiles import Profile
from translators.wire import JSON, decode_object

_LIST_LIMIT_BYTES = 16 * 1024 * 1024
_PROBE_LIMIT_S = 5.0
_log = structlog.get_logger(__name__)


class UnknownModel(CallerError):
    """No upstream serves the model."""

    status = 404

    def __init__(self, model: JSON) -> None:
        super().__init__(
            f"The model {model!r} does not exist here.", param="model", code="model_not_found"
        )


class Upstream:
    """A backend with what is known of it."""

    def __init__(self, backend: Backend, profile: Profile, speaks: str) -> None:
        """Describe a backend; ``speaks`` is ``chat``, ``responses`` or ``auto``."""
        self.backend = backend
        self.profile = profile
        self._dialect = None if speaks == "auto" else Dialect(speaks)
        self._asking = asyncio.Lock()

    @property
    def name(self) -> str:
        """The backend's name."""
        return self.backend.name

    async def dialect(self) -> Dialect:
        """The dialect to speak, asked of the upstream once where it is not set.

        Raises:
            BackendError: The upstream does not answer.
        """
        if self._dialect is None:
            async with self._asking:
                if self._dialect is None:
                    self._dialect = await self._ask()
                    if self._dialect is None:
                        return Dialect.CHAT
                    _log.info("upstream speaks", upstream=self.name, dialect=self._dialect.value)
        return self._dialect

    async def _ask(self) -> Dialect | None:
        """Send each endpoint an empty body: one that exists complains about the body.

        Chat comes first, because vLLM's own Responses endpoint loses more than a translation.
        ``None`` if the server is not up yet, of which a gateway in front of it may tell.
        """
        for dialect in (Dialect.CHAT, Dialect.RESPONSES):
            headers = [("content-type", "application/json")]
            request = UpstreamRequest("POST", CODECS[dialect].path, headers, b"{}")
            reply = await self.backend.send(request)
            await reply.aclose()
            if reply.status in (502, 503, 504):
                return None
            if reply.status not in (404, 405, 501):
                return dialect
        return Dialect.CHAT


@dataclass(frozen=True)
class Route:
    """Where a request goes.

    Attributes:
        upstream: The upstream.
        upstream_model: What the upstream calls the model.
        public_model: The configured public name, ``None`` if names pass through.
        defaults: Members to add where the caller is silent.
        sets: Members to set whatever the caller says.
        rollout: What rollouts need of it, if anything.
    """

    upstream: Upstream
    upstream_model: JSON
    public_model: str | None = None
    defaults: Mapping[str, JSON] = field(default_factory=dict)
    sets: Mapping[str, JSON] = field(default_factory=dict)
    rollout: Rollout | None = None


class Router:
    """Finds routes, and lists models."""

    def __init__(self, upstreams: Sequence[Upstream], models: Sequence[Model], now: int) -> None:
        """Route by ``models``; without any, every name goes to the first upstream.

        Args:
            upstreams: At least one.
            models: Public names.
            now: Unix time in seconds, as the models' date.
        """
        self.upstreams = {upstream.name: upstream for upstream in upstreams}
        self._first = upstreams[0]
        self._now = now
        self._models = models
        self._routes = {
            model.name: Route(
                self.upstreams[model.upstream],
                model.upstream_model or model.name,
                model.name,
                model.defaults,
                model.sets,
                rollout_of(model),
            )
            for model in models
        }

    def find(self, model: JSON) -> Route:
        """The route of a model.

        Raises:
            UnknownModel: Models are configured, and this is none of them.
            MalformedRequest: Models are configured, and none is asked for.
        """
        if not self._routes:
            return Route(self._first, model)
        if model is None:
            raise MalformedRequest("Missing required parameter: 'model'.", param="model")
        route = self._routes.get(model) if isinstance(model, str) else None
        if route is None:
            raise UnknownModel(model)
        return route

    async def models(self, headers: Sequence[tuple[str, str]] = ()) -> list[JSON]:
        """Entries of the list of models: the configured ones, or the upstream's.

        Raises:
            BackendError: The upstream does not answer.
        """
        if self._models:
            return [
                {"id": m.name, "object": "model", "created": self._now, "owned_by": m.upstream}
                for m in self._models
            ]
        return await list_models(self._first.backend, headers)

    async def probe(self) -> dict[str, str | None]:
        """Ask every upstream: name -> ``None`` if it answers, else why not."""
        reasons = await asyncio.gather(
            *(_why_not(upstream.backend) for upstream in self.upstreams.values())
        )
        return dict(zip(self.upstreams, reasons, strict=True))


async def _why_not(backend: Backend) -> str | None:
    """Why a backend does not answer, ``None`` if it does."""
    try:
        async with asyncio.timeout(_PROBE_LIMIT_S):
            await backend.probe()
    except BackendError as error:
        return str(error)
    except TimeoutError:
        return "The upstream does not answer in time."
    return None


class UpstreamRefused(Exception):
    """An upstream answered a request of ours with an error."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.body = body


async def list_models(backend: Backend, headers: Sequence[tuple[str, str]] = ()) -> list[JSON]:
    """The upstream's models, without the paths that vLLM puts into ``root``.

    Raises:
        BackendError: The upstream does not answer.
        UpstreamRefused: It answers with an error.
        UpstreamProtocolError: It answers with something else than a list of models.
    """
    reply = await backend.send(UpstreamRequest("GET", "/models", headers))
    try:
        body = await collect(reply.chunks(), _LIST_LIMIT_BYTES)
        body = decompress(body, reply.headers.get("content-encoding", ""), _LIST_LIMIT_BYTES)
    except BodyError as error:
        raise UpstreamProtocolError(f"The upstream's list cannot be read. {error}") from error
    finally:
        await reply.aclose()
    if reply.status != 200:
        raise UpstreamRefused(reply.status, body)
    listed = decode_object(body, UpstreamProtocolError)
    data = listed.get("data")
    if "data" not in listed or not isinstance(data, list | None):  # Ollama says null for none
        raise UpstreamProtocolError("The upstream's list of models has no array 'data'.")
    entries = [entry for entry in data or () if isinstance(entry, dict)]
    return [{k: v for k, v in e.items() if k not in ("root", "permission")} for e in entries]
