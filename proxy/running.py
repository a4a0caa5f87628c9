"""What a running proxy says of the vLLMs that it spawned."""

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec

from backends.base import UpstreamRequest
from backends.errors import BackendError
from backends.openai_compatible import OpenAICompatibleBackend
from backends.transport import AsyncioTransport
from proxy.bodies import BodyError, collect
from proxy.settings import Server

_PATIENCE_S: Final = 5.0
_LIMIT_BYTES: Final = 1024 * 1024
_ANY_HOST: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Spawned(msgspec.Struct, frozen=True):
    """A vLLM that the proxy spawned, as ``GET /ready`` tells of it."""

    state: str
    message: str = ""
    """Why it cannot be asked, or how far its start is; empty if it is ready."""
    model: str | None = None
    version: str | None = None


class _Ready(msgspec.Struct):
    """Reply of ``GET /ready``."""

    vllm: dict[str, Spawned] = {}


_read: Final = msgspec.json.Decoder(_Ready).decode


async def ask_running(server: Server) -> Mapping[str, Spawned]:
    """The vLLMs of the proxy that listens where ``server`` says, by upstream; none if none does."""
    host = _ANY_HOST.get(server.host, server.host)
    url = f"http://[{host}]:{server.port}" if ":" in host else f"http://{host}:{server.port}"
    transport = AsyncioTransport(connect_timeout_s=_PATIENCE_S, read_timeout_s=_PATIENCE_S)
    backend = OpenAICompatibleBackend("proxy", url, transport)
    try:
        async with asyncio.timeout(2 * _PATIENCE_S):
            reply = await backend.send(UpstreamRequest("GET", "/ready"))
            try:
                return _read(await collect(reply.chunks(), _LIMIT_BYTES)).vllm
            finally:
                await reply.aclose()
    except (BackendError, BodyError, msgspec.MsgspecError, UnicodeDecodeError, TimeoutError):
        return {}  # nothing listens there, or something else does
    finally:
        await backend.aclose()
