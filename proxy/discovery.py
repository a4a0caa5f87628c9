"""Which upstream to use when nobody says: a known local server, else the embedded demo."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import structlog

from backends.errors import BackendError
from backends.openai_compatible import OpenAICompatibleBackend
from backends.transport import AsyncioTransport
from proxy.bodies import BodyError
from proxy.presets import PRESETS
from proxy.routing import UpstreamRefused, list_models
from translators.errors import TranslationError

_PATIENCE_S = 1.0
_log = structlog.get_logger("dragoman")


@dataclass(frozen=True)
class Known:
    """A local server that many people run: its name, its API root, and its profile."""

    title: str
    url: str
    profile: str

    @property
    def port(self) -> int | None:
        """Its usual port."""
        return urlsplit(self.url).port


_TITLES = {"vllm": "vLLM", "ollama": "Ollama", "lmstudio": "LM Studio", "llamacpp": "llama.cpp"}

KNOWN = tuple(
    Known(title, PRESETS[name].url, PRESETS[name].profile) for name, title in _TITLES.items()
)


async def find_local(known: Sequence[Known] = KNOWN) -> Known | None:
    """The first of the known servers that lists models at its port."""
    answers = await asyncio.gather(*(_lists_models(server) for server in known))
    return next((server for server, yes in zip(known, answers, strict=True) if yes), None)


async def _lists_models(server: Known) -> bool:
    transport = AsyncioTransport(connect_timeout_s=_PATIENCE_S, read_timeout_s=_PATIENCE_S)
    backend = OpenAICompatibleBackend(server.title, server.url, transport)
    try:
        async with asyncio.timeout(2 * _PATIENCE_S):
            return bool(await list_models(backend))
    except (BackendError, UpstreamRefused, TranslationError, BodyError, TimeoutError):
        return False
    finally:
        await backend.aclose()
