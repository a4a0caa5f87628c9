"""A ``VllmBackend`` in front of ``fake_vllm.py``, for tests."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from backends.base import Backend, BackendReply, UpstreamRequest
from backends.errors import BackendBrokeOff, BackendUnavailable
from backends.held import Holder
from backends.process import State
from backends.vllm import VllmBackend
from tests.backends.processes import Family

FAKE = Path(__file__).with_name("fake_vllm.py")


class Reply(Holder):
    """A reply that httpx has read already."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self.status = response.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self._response.content

    async def aclose(self) -> None:
        pass


class Inner:
    """The least of an HTTP backend."""

    name = "inner"

    def __init__(self, base_url: str, api_key: str) -> None:
        self.base_url = base_url
        self._client = httpx.AsyncClient(
            headers={"authorization": f"Bearer {api_key}"}, trust_env=False
        )

    async def start(self) -> None:
        pass

    async def send(self, request: UpstreamRequest) -> BackendReply:
        try:
            response = await self._client.request(
                request.method,
                self.base_url + request.path,
                content=request.body,
                headers=list(request.headers),
            )
        except httpx.ConnectError as exc:
            raise BackendUnavailable(str(exc), backend=self.name) from exc
        except httpx.TransportError as exc:
            raise BackendBrokeOff(str(exc), backend=self.name) from exc
        return Reply(response)

    async def probe(self) -> None:
        pass

    async def aclose(self) -> None:
        await self._client.aclose()


def install_fake(tmp_path: Path) -> dict[str, str]:
    """Environment in which ``-m vllm.entrypoints.openai.api_server`` is the fake server."""
    folder = tmp_path / "site" / "vllm" / "entrypoints" / "openai"
    folder.mkdir(parents=True)
    for package in (folder, *list(folder.parents)[:2]):
        (package / "__init__.py").touch()
    run = f"import runpy; runpy.run_path({str(FAKE)!r}, run_name='__main__')\n"
    (folder / "api_server.py").write_text(run)
    return {"PYTHONPATH": str(tmp_path / "site")}


@contextlib.asynccontextmanager
async def started(
    family: Family, env: Mapping[str, str], **options: Any
) -> AsyncIterator[VllmBackend]:
    """A backend after ``start``, closed at the end."""
    options = {
        "connect": Inner,
        "python": sys.executable,
        "grace_s": 0.5,
        "poll_s": 0.02,
        **options,
    }
    mark = {"FAMILY_MARK": family.env["FAMILY_MARK"]}
    backend = VllmBackend(name="local", model="org/model", env={**mark, **env}, **options)
    await backend.start()
    try:
        yield backend
    finally:
        async with asyncio.timeout(10):
            await backend.aclose()
        assert family.gone()


def is_(state: State, backend: VllmBackend) -> Callable[[], bool]:
    return lambda: backend.state is state


async def post(backend: Backend, path: str = "/chat/completions") -> dict[str, Any]:
    reply = await backend.send(UpstreamRequest("POST", path, body=b"{}"))
    document = json.loads(b"".join([chunk async for chunk in reply.chunks()]))
    await reply.aclose()
    assert isinstance(document, dict)
    return document
