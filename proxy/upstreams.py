"""Backends from settings."""

from backends.base import Backend
from backends.demo import DemoBackend
from backends.openai_compatible import OpenAICompatibleBackend
from backends.transport import AiohttpTransport
from backends.vllm import VllmBackend
from proxy import settings as config
from proxy.routing import Upstream


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
    if speaks == "auto" and (upstream.vllm is not None or upstream.demo):
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
                args=vllm.args,
                env=vllm.env,
                stall_s=vllm.stall_timeout_s,
            )
        except ValueError as error:
            raise config.SettingsError(f"upstreams.{name}.vllm.args: {error}") from error
    assert upstream.url is not None
    return connect(upstream.url, config.key_of(upstream))
