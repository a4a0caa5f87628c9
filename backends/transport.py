"""aiohttp beneath httpx's transport interface, as measured in ``benchmarks/transports.py``.

httpx's own transport costs about twenty times the CPU per request. What differs from the package
``httpx-aiohttp``: foreign exceptions are mapped by meaning, repeated headers are kept, no header
is added, and a kept connection that the upstream closed under our request is tried once more.
"""

import io
import time
from collections.abc import AsyncIterator
from functools import lru_cache
from ssl import SSLContext

import aiohttp
import httpx
from aiohttp import hdrs
from multidict import CIMultiDict
from yarl import URL

_ADDED = (hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE)
_STALE_WITHIN_S = 1.0
_LARGE_BYTES = 2**20


class _Attempt:
    """What aiohttp's tracing tells about one attempt."""

    is_reused = False


async def _note_reuse(
    session: object, context: object, params: aiohttp.TraceConnectionReuseconnParams
) -> None:
    attempt = getattr(context, "trace_request_ctx", None)
    if isinstance(attempt, _Attempt):
        attempt.is_reused = True


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends requests through one aiohttp session; driven directly, without ``httpx.AsyncClient``.

    Connections are unlimited in number and kept for less than the five seconds after which
    uvicorn closes idle ones. Proxies of the environment, redirects and cookies are ignored, and
    bodies pass with their content encoding. There is no limit on the whole time of a request.
    """

    def __init__(
        self,
        *,
        connect_timeout_s: float = 10.0,
        read_timeout_s: float = 600.0,
        keepalive_s: float = 4.0,
        ssl: SSLContext | bool = True,
    ) -> None:
        """Make a transport; ``read_timeout_s`` limits the silence between two reads."""
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=None, sock_connect=connect_timeout_s, sock_read=read_timeout_s
        )
        self._keepalive_s = keepalive_s
        self._ssl = ssl
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request whose content is bytes, and wait for the reply's status and headers.

        Raises:
            httpx.TransportError: No reply could be had.
        """
        started = time.monotonic()
        attempt = _Attempt()
        try:
            try:
                reply = await self._send(request, attempt)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                if not attempt.is_reused or time.monotonic() - started > _STALE_WITHIN_S:
                    raise
                reply = await self._send(request, _Attempt())
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _rename(error, request) from error
        return httpx.Response(
            reply.status, headers=reply.raw_headers, stream=_Stream(reply, request)
        )

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def _send(self, request: httpx.Request, attempt: _Attempt) -> aiohttp.ClientResponse:
        session = self._session or self._open()
        headers = CIMultiDict(
            (name, value) for name, value in request.headers.multi_items() if name != "host"
        )
        return await session.request(
            request.method,
            _target(str(request.url)),
            headers=headers,
            data=_payload(request.content),
            allow_redirects=False,
            skip_auto_headers=_ADDED,
            trace_request_ctx=attempt,
        )

    def _open(self) -> aiohttp.ClientSession:
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_reuseconn.append(_note_reuse)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=self._keepalive_s, ssl=self._ssl
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            trust_env=False,
            auto_decompress=False,
            trace_configs=[tracing],
            max_line_size=65536,
            max_field_size=65536,
        )
        return self._session


@lru_cache(maxsize=256)
def _target(url: str) -> URL:
    """A URL in aiohttp's terms; nearly all requests go to one of a few."""
    return URL(url, encoded=True)


def _payload(content: bytes) -> bytes | io.BytesIO | None:
    """A body in the form in which aiohttp takes it without complaint: large ones as a file."""
    return io.BytesIO(content) if len(content) > _LARGE_BYTES else content or None


class _Stream(httpx.AsyncByteStream):
    """A reply's body: each item is what one wake-up found waiting."""

    def __init__(self, reply: aiohttp.ClientResponse, request: httpx.Request) -> None:
        self._reply = reply
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while data := await self._reply.content.readany():
                yield data
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _rename(error, self._request) from error

    async def aclose(self) -> None:
        """Return the connection, or close it if the body is unfinished."""
        if self._reply.content.is_eof():
            self._reply.release()
        else:
            self._reply.close()


def _rename(error: Exception, request: httpx.Request) -> httpx.TransportError:
    """An aiohttp error as the httpx error of the same meaning."""
    text = str(error) or type(error).__name__
    match error:
        case aiohttp.ConnectionTimeoutError():
            return httpx.ConnectTimeout(text, request=request)
        case aiohttp.ClientConnectorError():
            return httpx.ConnectError(text, request=request)
        case aiohttp.ServerTimeoutError() | TimeoutError():
            return httpx.ReadTimeout(text, request=request)
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError():
            return httpx.RemoteProtocolError(text, request=request)
        case aiohttp.ClientOSError() | OSError():
            return httpx.ReadError(text, request=request)
    return httpx.RemoteProtocolError(text, request=request)
