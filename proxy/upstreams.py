"""Backends from settings."""

from functools import partial
from pathlib import Path

from backends.azure import AzureBackend, root_of
from backends.base import Backend
from backends.demo import DemoBackend
from backends.drains import DrainFile
from backends.health import Ejection
from backends.limits import LimitedBackend
from backends.openai_compatible import OpenAICompatibleBackend
from backends.replicas import ReplicaSet
from backends.transport import AsyncioTransport
from backends.turns import Limit
from proxy import settings as config
from proxy.parts import OwnParts, Parts
from proxy.routing import Upstream
from proxy.session import name_session


def build_upstreams(settings: config.Settings, parts: Parts | None = None) -> list[Upstream]:
    """One upstream for each that the settings name, of these parts; nothing is started yet.

    The upstream that flags describe comes first: without configured models it serves them all.

    Raises:
        SettingsError: A vLLM argument would make it unreachable.
    """
    names = sorted(settings.upstreams, key=lambda name: name != config.DEFAULT)
    return [build_upstream(name, settings.upstreams[name], parts) for name in names]


def build_upstream(name: str, upstream: config.Upstream, parts: Parts | None = None) -> Upstream:
    """One upstream, of these parts; nothing is started yet.

    Raises:
        SettingsError: A vLLM argument would make it unreachable.
    """
    parts = parts or OwnParts()
    backend = _build_backend(name, upstream, parts)
    if upstream.urls is None:
        backend = _limited(backend, upstream, parts, name)
    new_session = None
    if upstream.session_cookie and isinstance(backend, ReplicaSet):
        new_session = partial(backend.new_session, name_session)
    speaks = config.speaks_of(upstream)
    return Upstream(backend, config.profile_of(upstream), speaks, new_session)


def _build_backend(name: str, upstream: config.Upstream, parts: Parts) -> Backend:
    if upstream.demo:
        return DemoBackend(name)

    def connect(url: str, key: str | None) -> Backend:
        transport = AsyncioTransport(
            connect_timeout_s=upstream.connect_timeout_s,
            read_timeout_s=upstream.read_timeout_s,
        )
        return OpenAICompatibleBackend(name, url, transport, api_key=key)

    if upstream.vllm is not None:
        return parts.vllm(name, upstream.vllm, connect)
    key = config.key_of(upstream)
    if upstream.azure is not None:
        azure = upstream.azure
        return AzureBackend(
            connect(root_of(azure.endpoint, azure.form), None),
            form=azure.form,
            api_version=azure.api_version,
            deployment=azure.deployment,
            auth=azure.auth,
            key=key,
        )
    if upstream.urls is not None:
        replicas = {
            address: _limited(connect(address, key), upstream, parts, f"{name} {address}")
            for address in (url.rstrip("/") for url in upstream.urls)
        }
        drains = None
        if upstream.drain_file is not None:
            drains = DrainFile(Path(upstream.drain_file).expanduser(), name, replicas).read
        return ReplicaSet(
            name,
            replicas,
            ejection=Ejection(after=upstream.eject_after),
            check_interval_s=upstream.health_interval_s,
            list_drained=drains,
        )
    assert upstream.url is not None
    return connect(upstream.url, key)


def _limited(backend: Backend, upstream: config.Upstream, parts: Parts, key: str) -> Backend:
    """A server within the upstream's limit, if it has one; ``key`` is the server's."""
    if upstream.max_concurrent is None:
        return backend
    limit = Limit(upstream.max_concurrent, upstream.queue_limit, upstream.queue_timeout_s)
    return LimitedBackend(backend, parts.turns(key, backend.name, limit))
