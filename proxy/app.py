"""The Litestar application: routes, lifespan, and errors of the framework in our envelope."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import structlog
from litestar import Litestar, Request, Response, asgi, get
from litestar.exceptions import HTTPException
from litestar.handlers import ASGIRouteHandler
from litestar.params import FromPath

from backends.base import Backend
from backends.errors import BackendError
from backends.limits import without_limit
from backends.replicas import ReplicaSet
from backends.spawned import SpawnedVllm
from proxy.capture.recorder import Recorder
from proxy.capture.rollout import ASGIApp, without_prefix
from proxy.errors import info_of
from proxy.exchange import Services
from proxy.gateway import Gateway
from proxy.headers import to_upstream, value_of
from proxy.routing import Router, Upstream, UpstreamRefused
from proxy.settings import Settings, secret_of
from proxy.shortcut import shortcut
from proxy.surface import Endpoint, read_endpoints, served_paths
from proxy.tables import SettingsError
from proxy.upstreams import build_upstreams
from proxy.vault import Vault
from translators import CODECS
from translators.codec import Codec
from translators.dialect import Dialect
from translators.envelope import read_error, write_error
from translators.errors import ErrorInfo, TranslationError
from translators.wire import JSON, encode

_log = structlog.get_logger("dragoman")


def create_app(settings: Settings, upstreams: Sequence[Upstream] | None = None) -> ASGIApp:
    """The application; its lifespan starts the upstreams and stops them.

    Args:
        settings: Everything that can be set.
        upstreams: Upstreams to use instead of those that the settings name.

    Raises:
        SettingsError: Captures cannot be written where the settings say.
    """
    upstreams = build_upstreams(settings) if upstreams is None else upstreams
    router = Router(upstreams, settings.models, int(time.time()), settings.policy)
    vault = Vault(secret_of(settings.server))
    services = Services(router, vault, settings.server.heartbeat_s)
    recorder = _recorder(settings)
    gateway = Gateway(services, settings.server.max_body_bytes, recorder)
    relayed = served_paths(read_endpoints(settings.server.relay))

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        backends: list[Backend] = [upstream.backend for upstream in upstreams]
        if recorder is not None:
            recorder.start()
        try:
            for backend in backends:
                await backend.start()
            yield
        finally:
            for backend in backends:
                await backend.aclose()
            if recorder is not None:
                await recorder.aclose()

    app = Litestar(
        route_handlers=[
            *(_generation(gateway, codec) for codec in CODECS.values()),
            _generation(gateway, CODECS[Dialect.RESPONSES], compacts=True),
            *(_relayed(gateway, path, ways) for path, ways in relayed.items()),
            _models(router),
            _model(router),
            _health,
            _ready(router),
        ],
        lifespan=[lifespan],
        exception_handlers={Exception: _on_exception},
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
    return without_prefix(shortcut(app))


def _recorder(settings: Settings) -> Recorder | None:
    if settings.capture is None:
        return None
    try:
        return Recorder(settings.capture, settings.server.max_body_bytes)
    except OSError as error:
        raise SettingsError(f"capture.dir: '{settings.capture.dir}': {error.strerror}") from error


def _paths(path: str) -> list[str]:
    """A path with and without ``/v1``, since SDKs differ."""
    return [f"/v1{path}", path]


def _generation(gateway: Gateway, codec: Codec, *, compacts: bool = False) -> ASGIRouteHandler:
    """The endpoint of one dialect, below the framework's request and response classes.

    A response class would leave the upstream running when the caller goes away
    (litestar-org/litestar#3772), and costs more than the translation.
    """

    @asgi(_paths(codec.path + ("/compact" if compacts else "")), copy_scope=False)
    async def generate(scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "POST":
            await gateway.handle(codec, scope, receive, send, compacts=compacts)
            return
        await _refuse_method(scope, send, "POST")

    return generate


def _relayed(gateway: Gateway, path: str, ways: Mapping[str, Endpoint]) -> ASGIRouteHandler:
    """A path of relayed endpoints, by their methods."""

    @asgi(path, copy_scope=False)
    async def relay(scope: Any, receive: Any, send: Any) -> None:
        endpoint = ways.get(scope["method"])
        if endpoint is not None:
            await gateway.relay(endpoint, scope, receive, send)
            return
        await _refuse_method(scope, send, ", ".join(ways))

    return relay


async def _refuse_method(scope: Any, send: Any, allowed: str) -> None:
    """Say which methods an endpoint has, in the envelope that all dialects share."""
    upgrade = any(name == b"upgrade" for name, _ in scope["headers"])
    info = ErrorInfo(
        f"This endpoint takes {allowed} requests only; it offers no WebSocket."
        if upgrade
        else f"This endpoint takes {allowed} requests only.",
        426 if upgrade else 405,
        "invalid_request_error",
    )
    body = encode(write_error(info, {}))
    headers = [(b"content-type", b"application/json"), (b"allow", allowed.encode())]
    await send({"type": "http.response.start", "status": info.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _models(router: Router) -> Any:
    @get(_paths("/models"))
    async def list_models(request: Request[Any, Any, Any]) -> Response[JSON]:
        try:
            return _json({"object": "list", "data": await _entries(router, request)})
        except (BackendError, UpstreamRefused, TranslationError) as error:
            return _failed(error)

    return list_models


def _model(router: Router) -> Any:
    @get(_paths("/models/{model:path}"))
    async def retrieve_model(
        request: Request[Any, Any, Any], model: FromPath[str]
    ) -> Response[JSON]:
        try:
            entries = await _entries(router, request)
        except (BackendError, UpstreamRefused, TranslationError) as error:
            return _failed(error)
        name = model.removeprefix("/")
        for entry in entries:
            if entry.get("id") == name:
                return _json(entry)
        message = f"The model '{name}' does not exist here."
        return _error(ErrorInfo(message, 404, "invalid_request_error", "model_not_found", "model"))

    return retrieve_model


@get(["/health", "/"])
async def _health() -> Response[JSON]:
    """Say that this process lives."""
    return _json({"status": "ok"})


def _ready(router: Router) -> Any:
    @get("/ready")
    async def ready() -> Response[JSON]:
        """Say whether an upstream answers, and why the others do not."""
        found = await router.probe()
        is_ready = any(reason is None for reason in found.values())
        states = {name: reason or "ready" for name, reason in found.items()}
        body: JSON = {"status": "ready" if is_ready else "not ready", "upstreams": states}
        if spawned := _spawned(router, found):
            body["vllm"] = spawned
        if replicas := _replicas(router):
            body["replicas"] = replicas
        return _json(body, 200 if is_ready else 503)

    return ready


def _spawned(router: Router, found: Mapping[str, str | None]) -> dict[str, JSON]:
    """State, model and version of each vLLM that we spawned, and why it cannot be asked."""
    backends = {
        name: without_limit(upstream.backend) for name, upstream in router.upstreams.items()
    }
    return {
        name: {
            "state": backend.state.value,
            "message": found[name] or "",
            "model": backend.served_model,
            "version": backend.version,
        }
        for name, backend in backends.items()
        if isinstance(backend, SpawnedVllm)
    }


def _replicas(router: Router) -> dict[str, JSON]:
    """State and open requests of each upstream's replicas, in the order of its ``urls``."""
    return {
        name: msgspec.to_builtins(upstream.backend.states())
        for name, upstream in router.upstreams.items()
        if isinstance(upstream.backend, ReplicaSet)
    }


async def _entries(router: Router, request: Request[Any, Any, Any]) -> list[JSON]:
    headers = request.scope["headers"]
    request_id = value_of(headers, b"x-request-id")
    return await router.models(to_upstream(headers, is_stream=False, request_id=request_id))


def _failed(error: BackendError | UpstreamRefused | TranslationError) -> Response[JSON]:
    if isinstance(error, UpstreamRefused):
        return _error(read_error(error.status, error.body, {}))
    return _error(info_of(error))


def _json(body: JSON, status: int = 200) -> Response[JSON]:
    return Response(body, status_code=status, media_type="application/json")


def _error(info: ErrorInfo) -> Response[JSON]:
    headers = {"allow": "GET"} if info.status == 405 else {}  # endpoints answer for themselves
    if info.retry_after_s is not None:
        headers["retry-after"] = str(info.retry_after_s)
    return Response(
        write_error(info, {}),
        status_code=info.status,
        media_type="application/json",
        headers=headers,
    )


def _on_exception(request: Request[Any, Any, Any], error: Exception) -> Response[JSON]:
    """An exception of the framework, or one of ours that nobody expected."""
    if isinstance(error, HTTPException):
        status = error.status_code
        code = "unsupported_endpoint" if status in (404, 405) else None
        message = f"{request.method} {request.url.path}: {error.detail}"
        return _error(ErrorInfo(message, status, "invalid_request_error", code))
    _log.error("unexpected error", path=request.url.path, exc_info=error)
    return _error(ErrorInfo("An unexpected error happened in the proxy."))
