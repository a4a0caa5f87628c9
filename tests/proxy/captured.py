"""Captures in tests: a proxy that records, and what it recorded once it has ended."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from proxy.settings import Capture, Model, Server, Settings, Upstream
from tests.proxy.conftest import running
from tests.upstream import Answer, Handler, ScriptedUpstream
from translators.wire import JSON


@dataclass(frozen=True)
class Capturing:
    """Where the proxy listens, and what stands behind it."""

    port: int
    upstream: ScriptedUpstream


@asynccontextmanager
async def capturing(
    folder: Path,
    *script: Answer,
    handler: Handler | None = None,
    speaks: str = "chat",
    heartbeat_s: float = 15.0,
    models: Sequence[Model] = (),
    **settings: JSON,
) -> AsyncIterator[Capturing]:
    """A proxy that records into a folder; at the end everything is written."""
    async with ScriptedUpstream(*script, handler=handler) as upstream:
        using = Settings(
            server=Server(heartbeat_s=heartbeat_s),
            capture=Capture(dir=str(folder), **settings),
            upstreams={"default": Upstream(url=upstream.url, speaks=speaks)},
            models=list(models),
        )
        async with running(using, None) as proxy:
            yield Capturing(proxy.port, upstream)


def read_records(folder: Path, rollout: str) -> list[JSON]:
    """The records of a rollout, all of whose lines have to be whole."""
    path = folder / f"{rollout}.capture.jsonl"
    text = path.read_bytes()
    assert text.endswith(b"\n")
    return [msgspec.json.decode(line) for line in text.splitlines()]


def names(folder: Path) -> set[str]:
    """What is in a folder."""
    return {path.name for path in folder.iterdir()}
