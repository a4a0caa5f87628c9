"""Azure OpenAI: what goes over the wire."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from backends.azure import Auth, AzureBackend, Form, root_of
from backends.base import UpstreamRequest
from backends.openai_compatible import OpenAICompatibleBackend
from backends.transport import AsyncioTransport
from tests.upstream import ReceivedRequest, Reply, ScriptedUpstream

pytestmark = pytest.mark.server

VERSION = "2024-10-21"


@asynccontextmanager
async def azure(
    upstream: ScriptedUpstream, form: Form = Form.V1, **members: Any
) -> AsyncIterator[AzureBackend]:
    root = root_of(f"http://127.0.0.1:{upstream.port}/", form)
    transport = AsyncioTransport(connect_timeout_s=5, read_timeout_s=5)
    backend = AzureBackend(OpenAICompatibleBackend("az", root, transport), form=form, **members)
    await backend.start()
    try:
        yield backend
    finally:
        await backend.aclose()


async def send(request: UpstreamRequest, form: Form = Form.V1, **members: Any) -> ReceivedRequest:
    """What arrives of a request."""
    async with ScriptedUpstream(Reply()) as upstream, azure(upstream, form, **members) as backend:
        await (await backend.send(request)).aclose()
        return upstream.requests[0]


@pytest.mark.parametrize(
    ("form", "members", "path", "model", "expected"),
    [
        ("v1", {}, "/chat/completions", "gpt", "/openai/v1/chat/completions"),
        (
            "v1",
            {"api_version": "preview"},
            "/responses",
            "gpt",
            "/openai/v1/responses?api-version=preview",
        ),
        ("v1", {}, "/models", None, "/openai/v1/models"),
        (
            "deployments",
            {"api_version": VERSION},
            "/chat/completions",
            "my gpt/4",
            f"/openai/deployments/my%20gpt%2F4/chat/completions?api-version={VERSION}",
        ),
        (
            "deployments",
            {"api_version": VERSION, "deployment": "all"},
            "/chat/completions",
            "gpt",
            f"/openai/deployments/all/chat/completions?api-version={VERSION}",
        ),
        (
            "deployments",
            {"api_version": VERSION},
            "/embeddings",
            "e",
            f"/openai/deployments/e/embeddings?api-version={VERSION}",
        ),
        (
            "deployments",
            {"api_version": VERSION},
            "/audio/transcriptions?a=1",
            "w",
            f"/openai/deployments/w/audio/transcriptions?a=1&api-version={VERSION}",
        ),
        (
            "deployments",
            {"api_version": VERSION},
            "/images/generations?api-version=2023-05-15&b",
            "i",
            f"/openai/deployments/i/images/generations?b&api-version={VERSION}",
        ),
        (
            "v1",
            {},
            "/embeddings?api-version=preview",
            "e",
            "/openai/v1/embeddings?api-version=preview",
        ),
        (
            "deployments",
            {"api_version": VERSION},
            "/responses",
            "gpt",
            f"/openai/responses?api-version={VERSION}",
        ),
        (
            "deployments",
            {"api_version": VERSION, "deployment": "all"},
            "/models",
            None,
            f"/openai/models?api-version={VERSION}",
        ),
    ],
)
async def test_urls(
    form: str, members: dict[str, str], path: str, model: str | None, expected: str
) -> None:
    request = UpstreamRequest("POST", path, body=b"{}", model=model)
    assert (await send(request, Form(form), **members)).path == expected


@pytest.mark.parametrize(
    ("auth", "key", "caller", "expected"),
    [
        ("api-key", " k\n", "Bearer theirs", {"api-key": "k"}),
        ("api-key", None, "bearer theirs", {"api-key": "theirs"}),
        ("api-key", None, "Basic x", {}),
        ("api-key", None, None, {}),
        ("bearer", "token", "Bearer theirs", {"authorization": "Bearer token"}),
        ("bearer", None, "Bearer theirs", {"authorization": "Bearer theirs"}),
        ("bearer", None, None, {}),
    ],
)
async def test_credentials(
    auth: str, key: str | None, caller: str | None, expected: dict[str, str]
) -> None:
    """Ours alone if there is one, else the caller's, in the header that is asked for."""
    headers = [("x-a", "b")] + ([] if caller is None else [("authorization", caller)])
    request = UpstreamRequest("POST", "/responses", headers, b"{}")
    received = (await send(request, auth=Auth(auth), key=key)).headers
    found = {k: v for k, v in received.items() if k in ("api-key", "authorization")}
    assert (found, received["x-a"]) == (expected, "b")


async def test_probe() -> None:
    async with ScriptedUpstream(Reply(401)) as upstream, azure(upstream, key="k") as backend:
        assert backend.name == "az"
        await backend.probe()
    assert upstream.requests[0].path == "/openai/v1/models"
