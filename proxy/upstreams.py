"""Backends from settings."""

from pathlib import Path

from backends.azure import AzureBackend, root_of
from backends.base import Backend
from backends.demo import DemoBackend
from backends.leftovers import state_folder
from backends.openai_compatible import OpenAICompatibleBackend
from backends.replicas import Ejection, ReplicaSet
from backends.supervision import Supervision
from backends.transport import AiohttpTransport
from backends.vllm import VllmBackend
from proxy import settings as config
from proxy.routing import Upstream
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
    speaks = upstream.speaks
    if speaks == "auto" and (upstream.vllm or upstream.azure or upstream.demo):
        speaks = "chat"
    return Upstream(_build_backend(name, upstream), config.profile_of(upstream), speaks)


def _build_backend(name: str, upstream: config.Upstream) -> Backend:
    if upstream.demo:
        return DemoBackend(name)

    def connect(url: str, key: str | None) -> Backend:
        transport = AiohttpTransport(
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
                env=vllm.env,
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
        replicas = {url.rstrip("/"): connect(url, key) for url in upstream.urls}
        return ReplicaSet(name, replicas, ejection=Ejection(after=upstream.eject_after))
    assert upstream.url is not None
    return connect(upstream.url, key)


def _supervision(vllm: config.VLLM) -> Supervision:
    return Supervision(
        health_interval_s=vllm.health_interval_s,
        health_failures=vllm.health_failures,
        restart=vllm.restart,
        backoff_s=vllm.restart_backoff_s,
        backoff_cap_s=vllm.restart_backoff_cap_s,
        wait_s=vllm.restart_wait_s,
    )
