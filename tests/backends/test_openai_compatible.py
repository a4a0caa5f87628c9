"""The backend for servers by URL: joined paths, keys, and transport errors by meaning."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import respx

from backends.base import UpstreamRequest
from backends.errors import (
    BackendBrokeOff,
    BackendConnectTimeout,
    BackendError,
    BackendTimeout,
    BackendUnavailable,
)
from backends.openai_compatible import OpenAICompatibleBackend
from backends.transport import AsyncioTransport

BASE = "http://upstream.test:8000/v1"


@pytest.fixture
def router() -> respx.MockRouter:
    return respx.MockRouter(assert_all_called=False)


def backend(
    router: respx.MockRouter, base_url: str = BASE, *, api_key: str | None = None
) -> OpenAICompatibleBackend:
    transport = httpx.MockTransport(router.async_handler)
    return OpenAICompatibleBackend("main", base_url, transport, api_key=api_key)


def post(*headers: tuple[str, str], path: str = "/chat/completions") -> UpstreamRequest:
    return UpstreamRequest("POST", path, headers, b'{"model":"m"}')


async def read(reply: object) -> bytes:
    return b"".join([chunk async for chunk in reply.chunks()])  # type: ignore[attr-defined]


async def test_request_and_reply_pass_whole(router: respx.MockRouter) -> None:
    route = router.post(f"{BASE}/chat/completions").respond(
        202, headers=[("x-a", "1"), ("X-A", "2")], content=b'{"id": 1}'
    )
    reply = await backend(router).send(post(("x-b", "3"), ("content-type", "application/json")))
    assert (reply.status, await read(reply)) == (202, b'{"id": 1}')
    assert reply.headers["x-a"] == "1, 2"
    await reply.aclose()
    sent = route.calls.last.request
    assert sent.content == b'{"model":"m"}'
    assert dict(sent.headers) == {
        "host": "upstream.test:8000",
        "x-b": "3",
        "content-type": "application/json",
        "content-length": "13",
    }


@pytest.mark.parametrize("status", [200, 204, 301, 400, 401, 404, 429, 500, 503])
async def test_reply_of_any_status_is_returned(status: int, router: respx.MockRouter) -> None:
    """Errors of the upstream are the proxy's to translate, and redirects nobody's to follow."""
    router.post().respond(status, headers={"location": "http://elsewhere.test/"})
    reply = await backend(router).send(post())
    assert reply.status == status
    assert len(router.calls) == 1


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("http://h/v1", "http://h/v1/chat/completions"),
        ("http://h/v1/", "http://h/v1/chat/completions"),
        ("http://h/v1///", "http://h/v1/chat/completions"),
        ("http://h", "http://h/chat/completions"),
        ("http://h:9/a%2Fb/v1", "http://h:9/a%2Fb/v1/chat/completions"),
        ("https://[::1]:9/openai", "https://[::1]:9/openai/chat/completions"),
    ],
)
async def test_urls_are_joined(base_url: str, url: str, router: respx.MockRouter) -> None:
    router.route().respond(200)
    server = backend(router, base_url)
    for _ in range(2):  # the second time from what is remembered
        await server.send(post())
        assert str(router.calls.last.request.url) == url
    assert server.base_url == base_url.rstrip("/")


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("http://h/v1", "http://h/tokenize"),
        ("http://h/v1/", "http://h/tokenize"),
        ("http://h:9/a%2Fb/v1", "http://h:9/a%2Fb/tokenize"),
        ("http://h/openai", "http://h/openai/tokenize"),
    ],
)
async def test_a_path_at_the_root(base_url: str, url: str, router: respx.MockRouter) -> None:
    router.route().respond(200)
    server = backend(router, base_url)
    for path, expected in [("/tokenize", url), ("/models", f"{server.base_url}/models")]:
        is_at_root = path == "/tokenize"
        await server.send(UpstreamRequest("POST", path, is_at_root=is_at_root))
        assert str(router.calls.last.request.url) == expected


async def test_paths_do_not_pile_up(router: respx.MockRouter) -> None:
    router.route().respond(200)
    server = backend(router)
    for number in range(200):
        await server.send(post(path=f"/models/{number}"))
        assert router.calls.last.request.url.path == f"/v1/models/{number}"
    assert len(server._urls) <= 64


@pytest.mark.parametrize(
    ("api_key", "given", "sent"),
    [
        (None, [], []),
        (None, [("authorization", "Bearer caller")], ["Bearer caller"]),
        ("", [("authorization", "Bearer caller")], ["Bearer caller"]),
        ("up", [], ["Bearer up"]),
        ("up", [("authorization", "Bearer caller")], ["Bearer up"]),
        (" up\r\n", [("authorization", "Bearer a"), ("authorization", "Bearer b")], ["Bearer up"]),
    ],
)
async def test_one_key_at_most(
    api_key: str | None,
    given: list[tuple[str, str]],
    sent: list[str],
    router: respx.MockRouter,
) -> None:
    """The upstream's own takes the place of the caller's."""
    router.route().respond(200)
    server = backend(router, api_key=api_key)
    await server.send(post(*given))
    await server.probe()
    requests = [call.request for call in router.calls]
    assert requests[0].headers.get_list("authorization") == sent
    own = [] if not api_key else sent
    assert requests[1].headers.get_list("authorization") == own


async def test_headers_of_other_bytes_pass_as_they_are(router: respx.MockRouter) -> None:
    """A header is bytes; each is one character here."""
    router.route().mock(
        return_value=httpx.Response(200, headers=[(b"x-a", "é日".encode()), (b"x-b", b"\xe9")])
    )
    reply = await backend(router).send(post(("x-a", "é"), ("x-b", "Ã©")))
    sent = dict(router.calls.last.request.headers.raw)
    assert (sent[b"x-a"], sent[b"x-b"]) == (b"\xe9", "é".encode())
    assert reply.headers["x-a"].encode("latin-1") == "é日".encode()
    assert reply.headers["x-b"].encode("latin-1") == b"\xe9"


ERRORS = [
    (httpx.ConnectError("refused at 10.0.0.7"), BackendUnavailable, 503, "upstream_unavailable"),
    (httpx.UnsupportedProtocol("ftp"), BackendUnavailable, 503, "upstream_unavailable"),
    (httpx.ConnectTimeout("10.0.0.7"), BackendConnectTimeout, 504, "upstream_timeout"),
    (httpx.ReadTimeout("10.0.0.7"), BackendTimeout, 504, "upstream_timeout"),
    (httpx.WriteTimeout("10.0.0.7"), BackendTimeout, 504, "upstream_timeout"),
    (httpx.PoolTimeout("10.0.0.7"), BackendTimeout, 504, "upstream_timeout"),
    (httpx.ReadError("10.0.0.7"), BackendBrokeOff, 502, "upstream_stream_truncated"),
    (httpx.WriteError("10.0.0.7"), BackendBrokeOff, 502, "upstream_stream_truncated"),
    (httpx.RemoteProtocolError("10.0.0.7"), BackendBrokeOff, 502, "upstream_stream_truncated"),
    (httpx.LocalProtocolError("10.0.0.7"), BackendBrokeOff, 502, "upstream_stream_truncated"),
]
errors = pytest.mark.parametrize(
    ("error", "kind", "status", "code"), ERRORS, ids=[type(e[0]).__name__ for e in ERRORS]
)


def is_renamed(
    caught: BackendError,
    error: httpx.TransportError,
    kind: type[BackendError],
    status: int,
    code: str,
) -> None:
    assert type(caught) is kind
    assert (caught.status, caught.code, caught.backend) == (status, code, "main")
    assert caught.__cause__ is error
    assert "10.0.0.7" not in str(caught)


@errors
async def test_error_before_the_reply(
    error: httpx.TransportError,
    kind: type[BackendError],
    status: int,
    code: str,
    router: respx.MockRouter,
) -> None:
    """Renamed by meaning, without what it says of addresses, and not retried."""
    router.route().mock(side_effect=error)
    with pytest.raises(BackendError) as caught:
        await backend(router).send(post())
    is_renamed(caught.value, error, kind, status, code)
    assert len(router.calls) == 1


class Breaking(httpx.AsyncByteStream):
    """A body that brings some bytes, and then an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.closed = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"some"
        raise self.error

    async def aclose(self) -> None:
        self.closed += 1


@errors
async def test_error_within_the_reply(
    error: httpx.TransportError,
    kind: type[BackendError],
    status: int,
    code: str,
    router: respx.MockRouter,
) -> None:
    body = Breaking(error)
    router.route().mock(return_value=httpx.Response(200, stream=body))
    reply = await backend(router).send(post())
    chunks = reply.chunks()
    assert await anext(aiter(chunks)) == b"some"
    with pytest.raises(BackendError) as caught:
        await anext(aiter(chunks))
    is_renamed(caught.value, error, kind, status, code)
    await reply.aclose()
    assert body.closed == 1


@pytest.mark.parametrize("status", [200, 401, 404, 429])
async def test_probe_of_a_server_that_answers(status: int, router: respx.MockRouter) -> None:
    """One that wants a key, or knows no list, is there nevertheless."""
    body = Breaking(AssertionError())
    router.get(f"{BASE}/models").mock(return_value=httpx.Response(status, stream=body))
    await backend(router).probe()
    assert body.closed == 1


@pytest.mark.parametrize("root", ["http://up", "http://up/v1", "http://up/v1/", "http://up/a/v1"])
async def test_paths_beside_the_api_root(root: str) -> None:
    """A server's own endpoints are where its API root is, without the version."""
    with respx.mock() as router:
        below = root.rstrip("/").removesuffix("/v1")
        route = router.get(f"{below}/health").respond(200)
        transport = httpx.MockTransport(router.async_handler)
        server = OpenAICompatibleBackend("main", root, transport)
        reply = await server.send(UpstreamRequest("GET", "/health", is_at_root=True))
        await reply.aclose()
        assert (reply.status, route.call_count) == (200, 1)


async def test_probe_of_a_server_in_trouble(router: respx.MockRouter) -> None:
    router.get(f"{BASE}/models").respond(502)
    with pytest.raises(BackendUnavailable, match="502"):
        await backend(router).probe()


async def test_probe_of_a_server_that_is_down(router: respx.MockRouter) -> None:
    router.route().mock(side_effect=httpx.ConnectError("x"))
    with pytest.raises(BackendUnavailable):
        await backend(router).probe()


async def test_start_sends_nothing_and_closing_closes_the_transport(
    router: respx.MockRouter,
) -> None:
    closed = []

    class Noting(httpx.MockTransport):
        async def aclose(self) -> None:
            closed.append(True)

    server = OpenAICompatibleBackend("main", BASE, Noting(router.async_handler))
    await server.start()
    await server.aclose()
    assert (server.name, len(router.calls), closed) == ("main", 0, [True])


@pytest.mark.server
async def test_tls_that_fails_is_told_apart_from_a_closed_port() -> None:
    async def speak_plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(speak_plainly, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        backend = OpenAICompatibleBackend("main", f"https://127.0.0.1:{port}", AsyncioTransport())
        with pytest.raises(BackendUnavailable, match="TLS"):
            await backend.send(post())
        await backend.aclose()
