"""From a model's name to the upstream that serves it, and to the dialect it is spoken to in."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from backends.base import Backend, UpstreamRequest
from backends.errors import BackendError
from backends.health import why_silent
from proxy.bodies import BodyError, collect, decompress
from proxy.model_settings import headers_of, shaping_of
from proxy.rollouts import Rollout, rollout_of
from proxy.settings import Model, override
from proxy.shaping import PLAIN, Shaping
from translators import CODECS
from translators.dialect import Dialect
from translators.errors import (
    CallerError,
    MalformedRequest,
    TranslationError,
    UpstreamProtocolError,
)
from translators.profiles import Policy, Profile
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

    def __init__(
        self,
        backend: Backend,
        profile: Profile,
        speaks: str,
        new_session: Callable[[], tuple[str, tuple[bytes, bytes]]] | None = None,
    ) -> None:
        """Describe a backend.

        Args:
            backend: The backend.
            profile: How it wants to be spoken to.
            speaks: A dialect, ``both`` or ``auto``.
            new_session: Makes a session's key and the cookie that names it, if callers that name
                no session are to get one.
        """
        self.backend = backend
        self.profile = profile
        self.new_session = new_session
        self.speaks_both = speaks == "both"
        self._dialect = Dialect(speaks) if speaks in tuple(Dialect) else None
        self._asking = asyncio.Lock()

    @property
    def name(self) -> str:
        """The backend's name."""
        return self.backend.name

    async def dialect(self, caller: Dialect = Dialect.CHAT) -> Dialect:
        """The dialect to speak on behalf of a caller; asked of the upstream once if it is not set.

        Raises:
            BackendError: The upstream does not answer.
        """
        if self.speaks_both:
            return caller
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
    """Where a request goes, and what holds on this way.

    Attributes:
        upstream: The upstream.
        profile: How it wants to be spoken to.
        policy: What the operator decided about translations.
        shaping: What is changed in requests.
        speaks: The dialect, where it is not the upstream's.
        relays: Whether requests in this dialect pass as they are.
        public_model: The configured public name, ``None`` if names pass through.
        headers: More headers for the upstream.
        rollout: What rollouts need of it, if anything.
    """

    upstream: Upstream
    profile: Profile
    policy: Policy
    shaping: Shaping = PLAIN
    speaks: Dialect | None = None
    relays: bool = True
    public_model: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    rollout: Rollout | None = None


class Router:
    """Finds routes, and lists models."""

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        models: Sequence[Model],
        now: int,
        policy: Policy | None = None,
    ) -> None:
        """Route by ``models``; without any, every name goes to the first upstream.

        Names with ``*`` are patterns. A name that is listed goes before all patterns, and of these
        the one with the most characters besides ``*``; among equals the first.

        Args:
            upstreams: At least one.
            models: Public names.
            now: Unix time in seconds, as the models' date.
            policy: What the operator decided about translations.
        """
        self.upstreams = {upstream.name: upstream for upstream in upstreams}
        self._now = now
        policy = policy or Policy()
        first = upstreams[0]
        self._open = None if models else Route(first, first.profile, policy)
        self._models = {model.name: model for model in models if "*" not in model.name}
        self._routes = {model.name: self._route(model, policy) for model in models}
        patterns = [model for model in models if "*" in model.name]
        patterns.sort(key=lambda model: len(model.name.replace("*", "")), reverse=True)
        self._patterns = [(m.name.split("*"), self._routes.pop(m.name)) for m in patterns]

    def find(self, model: JSON) -> Route:
        """The route of a model.

        Raises:
            UnknownModel: Models are configured, and this is none of them.
            MalformedRequest: Models are configured, none is asked for, and there is no entry
                ``*`` that names the upstream's.
        """
        if self._open is not None:
            return self._open
        if model is None:
            route = self._match("")
            if route is not None and route.shaping.model is not None:
                return replace(route, public_model=None)
            raise MalformedRequest("Missing required parameter: 'model'.", param="model")
        if isinstance(model, str):
            route = self._routes.get(model) or self._match(model)
            if route is not None:
                return route
        raise UnknownModel(model)

    def _match(self, model: str) -> Route | None:
        """The route of a name that is not listed, ``None`` if no pattern fits."""
        for pieces, route in self._patterns:
            if _fits(model, pieces):
                return replace(route, public_model=model)
        return None

    def _route(self, model: Model, policy: Policy) -> Route:
        upstream = self.upstreams[model.upstream]
        profile = override(upstream.profile, model.overrides)
        return Route(
            upstream,
            profile,
            override(policy, model.policy),
            shaping=shaping_of(model, profile),
            speaks=None if model.speaks is None else Dialect(model.speaks),
            relays=model.relay,
            public_model=model.name,
            headers=headers_of(model),
            rollout=rollout_of(model),
        )

    async def models(self, headers: Sequence[tuple[str, str]] = ()) -> list[JSON]:
        """Entries of the list of models: the configured names, and what upstreams list besides.

        Of the upstreams' own lists there are the names that a pattern lets through to them. If
        one of several upstreams gives no list, its names are missing, and that is logged.

        Raises:
            BackendError: There are no names, since an upstream does not answer.
            UpstreamRefused: Or since it answers with an error.
            UpstreamProtocolError: Or with something else than a list of models.
        """
        if self._open is not None:
            return await list_models(self._open.upstream.backend, headers)
        entries: list[JSON] = [
            {"id": m.name, "object": "model", "created": self._now, "owned_by": m.upstream}
            for m in self._models.values()
        ]
        routes = [route for _, route in self._patterns if route.shaping.model is None]
        upstreams = list({route.upstream.name: route.upstream for route in routes}.values())
        lists = await asyncio.gather(*(_try_to_list(upstream, headers) for upstream in upstreams))
        failures = [listed for listed in lists if isinstance(listed, Exception)]
        for upstream, listed in zip(upstreams, lists, strict=True):
            if not isinstance(listed, Exception):
                entries += [entry for entry in listed if self._lets_through(entry, upstream)]
        if failures and not entries:
            raise failures[0]
        return entries

    def _lets_through(self, entry: JSON, upstream: Upstream) -> bool:
        """Whether a name of an upstream's own list leads to it, and only by a pattern."""
        name = entry.get("id")
        if not isinstance(name, str) or name in self._routes:
            return False
        route = self._match(name)
        return route is not None and route.upstream is upstream and route.shaping.model is None

    async def probe(self) -> dict[str, str | None]:
        """Ask every upstream: name -> ``None`` if it answers, else why not."""
        reasons = await asyncio.gather(
            *(why_silent(upstream.backend, _PROBE_LIMIT_S) for upstream in self.upstreams.values())
        )
        return dict(zip(self.upstreams, reasons, strict=True))


def _fits(name: str, pieces: Sequence[str]) -> bool:
    """Whether a name is these pieces, in order, with any text between them.

    In linear time, since names come from callers.
    """
    first, *between, last = pieces
    at, end = len(first), len(name) - len(last)
    if at > end or not (name.startswith(first) and name.endswith(last)):
        return False
    for piece in between:
        at = name.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


async def _try_to_list(
    upstream: Upstream, headers: Sequence[tuple[str, str]]
) -> list[JSON] | Exception:
    """The upstream's models, or why they cannot be had, which is logged."""
    try:
        return await list_models(upstream.backend, headers)
    except (BackendError, UpstreamRefused, TranslationError) as error:
        _log.warning("upstream lists no models", upstream=upstream.name, reason=str(error))
        return error


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
