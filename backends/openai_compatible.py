"""Any OpenAI-compatible server by URL, over httpx's interface."""

import ssl
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from typing import Any

import httpx

from backends.base import BackendReply, Take, UpstreamRequest, pour_chunks
from backends.errors import (
    BackendBrokeOff,
    BackendConnectTimeout,
    BackendError,
    BackendTimeout,
    BackendUnavailable,
    BackendURLRefused,
)
from backends.held import Holder
from backends.transport import Body


class HTTPReply(Holder):
    """An upstream's reply over httpx; see ``BackendReply``."""

    def __init__(self, response: httpx.Response, backend: str) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = _joined(response.headers.raw)
        self._response = response
        self._backend = backend

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives.

        Raises:
            BackendTimeout: Nothing arrived for too long.
            BackendBrokeOff: The connection broke.
        """
        try:
            async for chunk in self._stream():
                yield chunk
        except httpx.TransportError as error:
            raise _rename(error, self._backend) from error

    async def pour(self, take: Take) -> None:
        """Give the body to ``take``; see ``backends.base.pour``.

        Raises:
            BackendTimeout: Nothing arrived for too long.
            BackendBrokeOff: The connection broke.
        """
        stream = self._stream()
        if not isinstance(stream, Body):  # of another transport
            await pour_chunks(self.chunks(), take)
            return
        try:
            await stream.pour(take)
        except httpx.TransportError as error:
            raise _rename(error, self._backend) from error

    def aclose(self) -> Coroutine[Any, Any, None]:
        """Release what is held at once, and then the connection; see ``UpstreamReply``."""
        self.let_go()
        return self._stream().aclose()

    def _stream(self) -> httpx.AsyncByteStream:
        assert isinstance(self._response.stream, httpx.AsyncByteStream)
        return self._response.stream


class OpenAICompatibleBackend:
    """A server at a URL such as ``http://127.0.0.1:8000/v1``.

    With a key, each request carries it and no other credential; without one, the caller's
    ``authorization`` passes through.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        transport: httpx.AsyncBaseTransport,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Make a backend that owns ``transport``; white space around the key is cut off."""
        self._name = name
        self._base_url = base_url.rstrip("/")
        self._root = self._base_url.removesuffix("/v1")
        self._transport = transport
        self._headers = dict(headers or {})
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key.strip()}"
        self._urls: dict[str, httpx.URL] = {}

    @property
    def name(self) -> str:
        """Name of the upstream."""
        return self._name

    @property
    def base_url(self) -> str:
        """The API root, without a slash at its end."""
        return self._base_url

    async def start(self) -> None:
        """Nothing to start: the server runs already, or will."""

    async def send(self, request: UpstreamRequest) -> BackendReply:
        """Send a request; see ``Backend.send``.

        Raises:
            BackendUnavailable: Nothing accepts connections at the address.
            BackendConnectTimeout: No connection within the limit.
            BackendTimeout: No reply within the limit.
            BackendBrokeOff: The connection broke before a reply.
            BackendURLRefused: The path is too long.
        """
        target = (self._root if request.is_at_root else self._base_url) + request.path
        url = self._urls.get(target)
        if url is None:
            try:
                url = httpx.URL(target)
            except httpx.InvalidURL as error:
                text = f"The request cannot be sent on: {error}."
                raise BackendURLRefused(text, backend=self._name) from error
            if len(self._urls) < 64:
                self._urls[target] = url
        pairs = [(k, v) for k, v in request.headers if k not in self._headers]
        pairs += self._headers.items()
        headers = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in pairs]
        # A stream instead of content: httpx need not find out what to add, which saves 7 us.
        headers.append((b"host", url.netloc))
        headers.append((b"content-length", b"%d" % len(request.body)))
        body = httpx.ByteStream(request.body)
        outgoing = httpx.Request(request.method, url, headers=headers, stream=body)
        try:
            return HTTPReply(await self._transport.handle_async_request(outgoing), self._name)
        except httpx.TransportError as error:
            raise _rename(error, self._name) from error

    async def probe(self) -> None:
        """Ask for the list of models; any reply below 500 means that the server answers.

        Raises:
            BackendError: It does not.
        """
        reply = await self.send(UpstreamRequest("GET", "/models"))
        status = reply.status
        await reply.aclose()
        if status >= 500:
            raise BackendUnavailable(f"GET /models gave status {status}", backend=self._name)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()


def _joined(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers as ``UpstreamReply`` has them, one character for each byte, whatever they mean.

    They are looked up some five times for each reply, which in httpx's own class costs 5 us more.
    """
    headers: dict[str, str] = {}
    for name, value in raw:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _rename(error: httpx.TransportError, backend: str) -> BackendError:
    """What callers may know of a transport error: its kind, but no address."""
    match error:
        case httpx.ConnectTimeout():
            text = "The upstream accepts no connection in time."
            return BackendConnectTimeout(text, backend=backend)
        case httpx.ConnectError() if isinstance(error.__cause__, ssl.SSLError):
            reason = error.__cause__.reason or "unknown"
            text = f"The upstream offers no TLS that is trusted ({reason})."
            return BackendUnavailable(text, backend=backend)
        case httpx.ConnectError():
            return BackendUnavailable("The upstream accepts no connections.", backend=backend)
        case httpx.TimeoutException():
            return BackendTimeout("The upstream was silent for too long.", backend=backend)
        case httpx.UnsupportedProtocol():
            return BackendUnavailable("The upstream's URL is not http or https.", backend=backend)
    return BackendBrokeOff("The connection to the upstream broke.", backend=backend)
