"""Backends from settings."""

from functools import partial
from pathlib import Path

from backends.azure import AzureBackend, root_of
from backends.base import Backend
from backends.demo import DemoBackend
from backends.drains import DrainFile
from backends.health import Ejection
from backends.leftovers import state_folder
from backends.limits import Limit, LimitedBackend
from backends.openai_compatible import OpenAICompatibleBackend
from backends.replicas import ReplicaSet
from backends.supervision import Supervision
from backends.transport import AsyncioTransport
from backends.vllm import VllmBackend
from proxy import settings as config
from proxy.routing import Upstream
from proxy.session import name_session
from proxy.tables import SettingsError


def build_upstreams(settings: config.Settings) -> list[Upstream]:
    """One upstream for each that the settings name; nothing is started yet.

    The upstream that flags describe comes first: without configured models it serves them all.

    Raises:
        SettingsError: A vLLM argument would make it unreachable.
    """
    names = sorted(settings.upstreams, key=lambda name: name != config.DEFAULT)
    return [build_upstream(name, settings.upstreams[name]) for name in names]


def build_upstream(name: str, upstream: config.Upstream) -> Upstream:
    """One upstream; nothing is started yet.

    Raises:
        SettingsError: A vLLM argument would make it unreachable.
    """
    backend = _build_backend(name, upstream)
    if upstream.urls is None:
        backend = _limited(backend, upstream)
    new_session = None
    if upstream.session_cookie and isinstance(backend, ReplicaSet):
        new_session = partial(backend.new_session, name_session)
    speaks = config.speaks_of(upstream)
    return Upstream(backend, config.profile_of(upstream), speaks, new_session)


def _build_backend(name: str, upstream: config.Upstream) -> Backend:
    if upstream.demo:
        return DemoBackend(name)

    def connect(url: str, key: str | None) -> Backend:
        transport = AsyncioTransport(
            connect_timeout_s=upstream.connect_timeout_s,
            read_timeout_s=upstream.read_timeout_s,
        )
        return OpenAICompatibleBackend(name, url, transport, api_key=key)

    if upstream.vllm is not None:
        vllm = upstream.vllm
        try:
            return VllmBackend(
                name=name,
                model=vllm.model,
                connect=connect,
                python=vllm.python,
                flags=vllm.flags,
                args=vllm.args,
                env=_environment(vllm),
                log_file=None if vllm.log_file is None else Path(vllm.log_file).expanduser(),
                supervision=_supervision(vllm),
                leftovers=state_folder(),
                stall_s=vllm.stall_timeout_s,
            )
        except ValueError as error:
            raise SettingsError(f"upstreams.{name}.vllm: {error}") from error
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
        replicas = {url.rstrip("/"): _limited(connect(url, key), upstream) for url in upstream.urls}
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


def _limited(backend: Backend, upstream: config.Upstream) -> Backend:
    """A server within the upstream's limit, if it has one."""
    if upstream.max_concurrent is None:
        return backend
    limit = Limit(upstream.max_concurrent, upstream.queue_limit, upstream.queue_timeout_s)
    return LimitedBackend(backend, limit)


def _environment(vllm: config.VLLM) -> dict[str, str]:
    if vllm.hf_home is None:
        return vllm.env
    return {"HF_HOME": str(Path(vllm.hf_home).expanduser()), **vllm.env}


def _supervision(vllm: config.VLLM) -> Supervision:
    return Supervision(
        health_interval_s=vllm.health_interval_s,
        health_failures=vllm.health_failures,
        stall_s=vllm.engine_stall_timeout_s,
        stall_answer_s=vllm.engine_answer_timeout_s,
        restart=vllm.restart,
        backoff_s=vllm.restart_backoff_s,
        backoff_cap_s=vllm.restart_backoff_cap_s,
        wait_s=vllm.restart_wait_s,
    )
