"""One request's life: route, then relay or translate, and tell of it in one log line."""

import asyncio
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import structlog

from backends.base import UpstreamReply, UpstreamRequest
from backends.errors import BackendError
from proxy import headers as pass_headers
from proxy.bodies import (
    BodyError,
    ClientGone,
    collect,
    decompress,
    decompress_stream,
    read_body,
)
from proxy.errors import info_of
from proxy.headers import Headers
from proxy.heartbeat import Heartbeat
from proxy.record import Record
from proxy.routing import Route, Router
from proxy.settings import Server
from proxy.usage import UsageTap
from translators import CODECS
from translators.canonical import Response
from translators.codec import Codec
from translators.context import Context, Seal
from translators.errors import (
    ErrorInfo,
    MalformedRequest,
    TranslationError,
    UpstreamProtocolError,
)
from translators.events import fold
from translators.profiles import Policy
from translators.sse import SSEDecoder
from translators.stream import StreamTranslator
from translators.translation import Translation, random_id
from translators.unfold import unfold
from translators.wire import JSON, decode_object, encode, peek, splice

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_REPLY_LIMIT_BYTES = 256 * 1024 * 1024
_DRAIN_LIMIT_S = 0.1
_ERROR_LIMIT_BYTES = 1024 * 1024
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_log = structlog.get_logger("dragoman")


class Gateway:
    """Answers generation requests of one dialect after another; holds no state of its own."""

    def __init__(
        self, router: Router, policy: Policy, server: Server, seal: Seal | None = None
    ) -> None:
        """Make a gateway.

        Args:
            router: Where requests go.
            policy: What the operator decided about translations.
            server: Limits of requests and streams.
            seal: Seals reasoning and summaries for the callers that keep them.
        """
        self.router = router
        self.heartbeat_s = server.heartbeat_s
        self._policy = policy
        self._max_body_bytes = server.max_body_bytes
        self._seal = seal

    async def handle(
        self, caller: Codec, scope: Any, receive: Receive, send: Send, *, compacts: bool = False
    ) -> None:
        """Answer one request, as an ASGI application.

        With ``compacts`` the conversation is not continued but summed up.

        While the upstream works, the caller is watched: if it goes away, the exchange is
        cancelled, which closes the upstream's connection, streamed or not.
        """
        exchange = Exchange(self, caller, scope, send)
        task = asyncio.current_task()
        assert task is not None
        watcher: asyncio.Task[None] | None = None
        is_gone = False

        async def watch() -> None:
            nonlocal is_gone
            while (await receive())["type"] != "http.disconnect":
                pass
            is_gone = True
            task.cancel()

        try:
            try:
                body = await read_body(receive, self._max_body_bytes)
                watcher = asyncio.create_task(watch())
                plain = decompress(body, exchange.content_encoding, self._max_body_bytes)
                await exchange.run(plain, compacts=compacts)
            except (TranslationError, BackendError, BodyError) as error:
                await exchange.refuse(info_of(error))
        except ClientGone:
            exchange.record.outcome = "client_closed"
        except asyncio.CancelledError:
            task.uncancel()
            if not is_gone:  # the process ends, and its patience did
                stopping = "The proxy is shutting down."
                await exchange.refuse(ErrorInfo(stopping, 503, code="shutting_down"))
            exchange.record.outcome = "client_closed" if is_gone else "cancelled"
        except Exception:
            exchange.record.outcome = "error"
            raise
        finally:
            if watcher is not None:
                watcher.cancel()
            exchange.record.write(_log)

    def context(self, route: Route) -> Context:
        """What one exchange over this route brings along."""
        return Context(
            new_id=random_id,
            now=time.time,
            profile=route.upstream.profile,
            policy=self._policy,
            public_model=route.public_model,
            seal=self._seal,
        )


class Exchange:
    """One request and its reply."""

    def __init__(self, gateway: Gateway, caller: Codec, scope: Any, send: Send) -> None:
        self._gateway = gateway
        self._caller = caller
        self._scope = scope
        self._send = send
        self._has_started = False
        self.record = Record(caller.dialect.value)
        self.content_encoding = ""
        self._request_id = ""
        for name, value in scope["headers"]:
            if name == b"content-encoding":
                self.content_encoding = value.decode("latin-1")
            elif name == b"x-request-id":
                self._request_id = value.decode("latin-1")
        self._request_id = self._request_id or uuid.uuid4().hex
        self.record.request_id = self._request_id

    async def run(self, body: bytes, *, compacts: bool = False) -> None:
        """Answer the request with this body.

        Raises:
            TranslationError: It cannot be translated, or the reply cannot.
            BackendError: The upstream gave no reply.
        """
        head = peek(body)
        route = self._gateway.router.find(head.model)
        self.record.model = head.model
        self.record.upstream = route.upstream.name
        self.record.is_stream = head.stream is True
        dialect = await route.upstream.dialect()
        self.record.upstream_dialect = dialect.value
        if dialect is self._caller.dialect:
            path = self._caller.path + ("/compact" if compacts else "")
            await self._relay(body, route, path)
        elif compacts:
            await self._compact(body, route, CODECS[dialect])
        else:
            await self._translate(body, route, CODECS[dialect])

    # --- same dialect ----------------------------------------------------------------------

    async def _relay(self, body: bytes, route: Route, path: str) -> None:
        members: dict[str, JSON] = dict(route.sets)
        if route.public_model is not None and route.upstream_model != route.public_model:
            members["model"] = route.upstream_model
        if members or route.defaults:
            body = splice(body, members, route.defaults)
        reply = await self._call(route, path, body)
        tap = UsageTap()
        try:
            self.record.status = reply.status
            if reply.status >= 400:
                self.record.fail(self._caller.read_error(reply.status, b""))
            await self._start(reply.status, pass_headers.relayed(reply.headers))
            async for chunk in reply.chunks():
                tap.feed(chunk)
                await self._write(chunk)
            await self._end()
        finally:
            self.record.usage = tap.usage()
            await reply.aclose()

    # --- other dialect ---------------------------------------------------------------------

    async def _translate(self, body: bytes, route: Route, upstream: Codec) -> None:
        ctx = self._gateway.context(route)
        self.record.losses = ctx.losses
        translation = Translation(self._caller, upstream, ctx)
        renamed = None if route.public_model is None else route.upstream_model
        outgoing = translation.request(decode_object(body), upstream_model=renamed)
        outgoing = {**route.defaults, **outgoing, **route.sets}
        reply = await self._call(route, upstream.path, encode(outgoing))
        headers = pass_headers.to_caller(reply.headers)
        try:
            if reply.status >= 400:
                error, _ = translation.error(reply.status, await _error_body(reply))
                await self.refuse(error, headers)
            elif translation.is_stream:
                await self._stream(reply, translation, headers)
            else:
                await self._reply(reply, translation, headers)
        finally:
            await reply.aclose()

    async def _compact(self, body: bytes, route: Route, upstream: Codec) -> None:
        """Have the conversation summed up, and answer with the summary alone.

        Spec: Responses, "Compact a response".
        """
        document = decode_object(body)
        if document.get("model") is None:
            raise MalformedRequest("Missing required parameter: 'model'.", param="model")
        given = document.get("input") or []
        if not isinstance(given, str | list):
            raise MalformedRequest("'input' must be a string or an array.", param="input")
        items = [{"role": "user", "content": given}] if isinstance(given, str) else given
        document |= {"input": [*items, {"type": "compaction_trigger"}], "stream": False}
        ctx = self._gateway.context(route)
        self.record.losses = ctx.losses
        translation = Translation(self._caller, upstream, ctx)
        renamed = None if route.public_model is None else route.upstream_model
        outgoing = translation.request(document, upstream_model=renamed)
        outgoing = {**route.defaults, **outgoing, **route.sets}
        reply = await self._call(route, upstream.path, encode(outgoing))
        try:
            if reply.status >= 400:
                error, _ = translation.error(reply.status, await _error_body(reply))
                await self.refuse(error, pass_headers.to_caller(reply.headers))
                return
            response = await _read_response(reply, translation)
        finally:
            await reply.aclose()
        self.record.usage = response.usage
        if response.error is not None:
            await self.refuse(response.error, pass_headers.to_caller(reply.headers))
            return
        resource = translation.write(response)
        summary = {name: resource[name] for name in ("id", "created_at", "output", "usage")}
        await self._answer({**summary, "object": "response.compaction"}, [])

    async def _answer(self, document: JSON, headers: Headers) -> None:
        body = encode(document)
        self.record.status = 200
        headers = [*pass_headers.JSON_TYPE, *headers, *self._loss_header()]
        await self._start(200, headers, len(body))
        await self._write(body)
        await self._end()

    async def _reply(
        self, reply: UpstreamReply, translation: Translation, headers: Headers
    ) -> None:
        response = await _read_response(reply, translation)
        self.record.usage = response.usage
        if response.error is not None:
            await self.refuse(response.error, headers)
            return
        await self._answer(translation.write(response), headers)

    async def _stream(
        self, reply: UpstreamReply, translation: Translation, headers: Headers
    ) -> None:
        translator = translation.stream()
        self.record.status = 200
        headers = [*pass_headers.STREAM, *headers, *self._loss_header()]

        async def beat() -> None:
            if not self._has_started:
                await self._start(200, headers)
            await self._write(translator.heartbeat())

        with Heartbeat(self._gateway.heartbeat_s, beat) as heartbeat:
            async for out in _translated(reply, translation, translator):
                heartbeat.touch()
                if not self._has_started:
                    if translator.failure is not None:
                        # Nothing is out yet, so the caller can be told by a status.
                        await self.refuse(translator.failure)
                        return
                    await self._start(200, headers)
                await self._write(out)
        self.record.usage = translator.usage
        if translator.failure is not None:
            self.record.fail(translator.failure)
        await self._end()

    # --- ASGI ------------------------------------------------------------------------------

    async def _call(self, route: Route, path: str, body: bytes) -> UpstreamReply:
        headers = pass_headers.to_upstream(self._scope["headers"], is_stream=self.record.is_stream)
        if not any(name == "x-request-id" for name, _ in headers):
            headers.append(("x-request-id", self._request_id))
        reply = await route.upstream.backend.send(UpstreamRequest("POST", path, headers, body))
        self.record.upstream_answered()
        return reply

    async def refuse(self, error: ErrorInfo, headers: Headers | None = None) -> None:
        """Answer with an error in the caller's dialect.

        Once a reply has begun this is too late. Then it is left unfinished, and the server
        breaks the connection off: the caller must not take it for whole.
        """
        self.record.fail(error)
        if self._has_started:
            return
        self.record.status = error.status
        body = encode(self._caller.write_error(error))
        if error.retry_after_s is not None:
            headers = [*(headers or ()), (b"retry-after", str(error.retry_after_s).encode())]
        all_headers = pass_headers.JSON_TYPE + (headers or []) + self._loss_header()
        await self._start(error.status, all_headers, len(body))
        await self._write(body)
        await self._end()

    def _loss_header(self) -> Headers:
        losses = self.record.losses
        if not losses:
            return []
        text = "; ".join(f"{loss.param}: {loss.why}" for loss in losses)
        return [(b"x-dragoman-loss", _UNPRINTABLE.sub("?", text)[:4000].encode("ascii"))]

    async def _start(self, status: int, headers: Headers, length: int | None = None) -> None:
        self._has_started = True
        headers = [*headers]
        if not any(name == b"x-request-id" for name, _ in headers):
            headers.append((b"x-request-id", self._request_id.encode("latin-1")))
        if length is not None:
            headers.append((b"content-length", str(length).encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _write(self, body: bytes) -> None:
        self.record.first_byte()
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def _end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def _whole(reply: UpstreamReply, limit_bytes: int) -> bytes:
    """A reply's whole body without content encodings, which some servers apply unasked.

    Raises:
        UpstreamProtocolError: It is too long, or damaged.
    """
    try:
        body = await collect(reply.chunks(), limit_bytes)
        return decompress(body, reply.headers.get("content-encoding", ""), limit_bytes)
    except BodyError as error:
        raise _unreadable(error) from error


async def _error_body(reply: UpstreamReply) -> bytes:
    """The body of an error, empty if it cannot be read: the status tells more than that."""
    try:
        return await _whole(reply, _ERROR_LIMIT_BYTES)
    except (BackendError, UpstreamProtocolError):
        return b""


async def _frames(reply: UpstreamReply) -> AsyncIterator[bytes]:
    """A stream's pieces without content encodings."""
    encoding = reply.headers.get("content-encoding", "")
    chunks = reply.chunks()
    try:
        async for chunk in decompress_stream(chunks, encoding) if encoding else chunks:
            yield chunk
    except BodyError as error:
        raise _unreadable(error) from error


async def _drain(pieces: AsyncIterator[bytes]) -> None:
    """Read on to the end, which often comes after the last frame: the connection can be kept."""
    with suppress(TimeoutError, BackendError, UpstreamProtocolError):
        async with asyncio.timeout(_DRAIN_LIMIT_S):
            async for _ in pieces:
                pass


def _unreadable(error: BodyError) -> UpstreamProtocolError:
    return UpstreamProtocolError(f"The upstream's reply cannot be read. {error}")


def _is_sse(reply: UpstreamReply) -> bool:
    return reply.headers.get("content-type", "").lower().startswith("text/event-stream")


async def _read_response(reply: UpstreamReply, translation: Translation) -> Response:
    """A whole reply; an upstream that streams unasked is folded."""
    body = await _whole(reply, _REPLY_LIMIT_BYTES)
    if not _is_sse(reply):
        document = decode_object(body, UpstreamProtocolError)
        return translation.upstream.read_response(document, translation.ctx)
    decoder = SSEDecoder()
    reader = translation.upstream.reader(translation.ctx)
    frames = decoder.feed(body) + decoder.finish()
    events = [event for frame in frames for event in reader.feed(frame)]
    return fold(events + reader.finish())


async def _translated(
    reply: UpstreamReply, translation: Translation, translator: StreamTranslator
) -> AsyncIterator[bytes]:
    """The caller's stream, one piece for each read of the upstream that brought something.

    An upstream that answers whole although a stream was asked for is unfolded.
    """
    try:
        if not _is_sse(reply):
            yield translator.replay(unfold(await _read_response(reply, translation)))
            return
        frames = _frames(reply)
        async for chunk in frames:
            if out := translator.feed(chunk):
                yield out
            if translator.is_over:
                await _drain(frames)
                return
        if out := translator.finish():
            yield out
    except (BackendError, TranslationError) as error:
        if out := translator.fail(info_of(error)):
            yield out
