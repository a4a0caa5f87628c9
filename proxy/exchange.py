"""One request's way to an upstream and back: relayed, or translated."""

import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from backends.base import UpstreamReply, UpstreamRequest
from proxy import headers as pass_headers
from proxy.answer import Answer, loss_header
from proxy.eager import run_eagerly
from proxy.headers import Headers
from proxy.heartbeat import Heartbeat
from proxy.hints import with_hint
from proxy.ids import random_id
from proxy.record import Record
from proxy.relay import pass_back
from proxy.rendering import RenderingRefused, render
from proxy.replies import read_error_body, read_response, translate_stream
from proxy.rollouts import NOTHING
from proxy.routing import Route, Router
from proxy.session import is_guessed, session_of
from proxy.shaping import Change
from translators import CODECS, UPSTREAM_CODECS
from translators.codec import Codec, UpstreamCodec
from translators.context import Context, Seal
from translators.dialect import Dialect
from translators.errors import ErrorInfo
from translators.responses.compaction import as_compaction, ask_for_summary
from translators.translation import Translation
from translators.wire import JSON, decode_object, encode, open_members, peek

_RESPONSES = CODECS[Dialect.RESPONSES]
_RESPONSES_IN_CHAT = replace(
    CODECS[Dialect.CHAT],
    read_request=_RESPONSES.read_request,
    params=_RESPONSES.params,
    write_error=_RESPONSES.write_error,
)
"""Some clients post a Responses body to the Chat path, and read a Chat reply."""


@dataclass(frozen=True)
class Services:
    """What all exchanges share.

    Attributes:
        router: Where requests go.
        seal: Seals reasoning and summaries for the callers that keep them.
        heartbeat_s: Seconds of silence after which a stream shows that it is alive; 0 for never.
    """

    router: Router
    seal: Seal
    heartbeat_s: float

    def context(self, route: Route) -> Context:
        """What one translation over this route brings along."""
        ctx = Context(
            new_id=random_id,
            now=time.time,
            profile=route.profile,
            policy=route.policy,
            public_model=route.public_model,
            seal=self.seal,
        )
        ctx.token_ids = route.rollout is not None and route.rollout.token_ids
        return ctx


class Exchange:
    """One request and its reply."""

    def __init__(
        self,
        services: Services,
        caller: Codec,
        headers: Sequence[tuple[bytes, bytes]],
        answer: Answer,
        record: Record,
    ) -> None:
        """Prepare to answer a request with these headers."""
        self._services = services
        self._caller = caller
        self._headers = headers
        self._answer = answer
        self._record = record
        self._model: str | None = None
        self._additions = NOTHING

    async def run(self, body: bytes, *, compacts: bool = False) -> None:
        """Answer the request with this body; with ``compacts`` the conversation is summed up.

        Raises:
            TranslationError: It cannot be translated, or the reply cannot.
            BackendError: The upstream gave no reply.
        """
        head = peek(body)
        self._record.has_strict_body = head.is_strict
        route = self._services.router.find(head.model)
        self._record.model = head.model
        self._record.upstream = route.upstream.name
        self._record.is_stream = head.stream is True
        dialect = route.speaks or await route.upstream.dialect(self._caller.dialect)
        self._record.upstream_dialect = dialect.value
        if route.rollout is not None:
            body, self._additions = await route.rollout.take(body)
            head = peek(body)
        is_crossed = head.is_responses and self._caller.dialect is Dialect.CHAT
        if is_crossed:
            self._caller = _RESPONSES_IN_CHAT
        change = route.shaping.change(head, dialect)
        if isinstance(head.model, str):
            self._model = route.shaping.model or head.model
        if dialect is self._caller.dialect and route.relays and not is_crossed:
            path = self._caller.path + ("/compact" if compacts else "")
            await self._relay(body, route, change, path)
        else:
            document = decode_object(body)
            del body  # of megabytes, perhaps: what has been read is given free at once
            if head.model is None and route.shaping.model is not None:
                document["model"] = route.shaping.model
            upstream = UPSTREAM_CODECS[dialect]
            translating = self._translate(document, route, change, upstream, compacts=compacts)
            del document
            await translating

    async def refuse(self, error: ErrorInfo, headers: Headers | None = None) -> None:
        """Answer with an error in the caller's dialect; see ``Answer.refuse``."""
        await self._answer.refuse(error, self._caller.write_error(error), headers)

    async def _relay(self, body: bytes, route: Route, change: Change | None, path: str) -> None:
        """Pass bytes both ways, apart from the members that change."""
        session = self._session(route, body)
        restores = None if change is None else change.restores()
        if change is not None:
            body = encode(change.apply(open_members(body)))
        reply = await self._call(route, path, body, session)
        await pass_back(reply, self._answer, self._record, self._caller, restores)

    async def _translate(
        self,
        document: dict[str, JSON],
        route: Route,
        change: Change | None,
        upstream: UpstreamCodec,
        *,
        compacts: bool,
    ) -> None:
        session = self._session(route, document)
        ctx = self._services.context(route)
        self._record.losses = ctx.losses
        translation = Translation(self._caller, upstream, ctx)
        if compacts:
            document = ask_for_summary(document)
        outgoing = translation.request(document)
        if change is not None:
            outgoing = change.apply(outgoing)
        if upstream.dialect is Dialect.COMPLETIONS:
            try:
                outgoing = await render(outgoing, partial(self._ask, route, session), ctx)
            except RenderingRefused as refused:
                error, _ = translation.error(refused.status, refused.body)
                await self.refuse(error, pass_headers.to_caller(refused.headers))
                return
        body = encode(outgoing)
        del document, outgoing
        reply = await self._call(route, upstream.path, body, session)
        del body
        headers = pass_headers.to_caller(reply.headers)
        try:
            if reply.status >= 400:
                error, _ = translation.error(reply.status, await read_error_body(reply))
                await self.refuse(with_hint(error, route.upstream.backend), headers)
            elif translation.is_stream:
                await self._stream(reply, translation, headers)
            else:
                await self._reply(reply, translation, headers, compacts=compacts)
        finally:
            await reply.aclose()

    async def _reply(
        self, reply: UpstreamReply, translation: Translation, headers: Headers, *, compacts: bool
    ) -> None:
        response = await read_response(reply, translation)
        self._record.usage = response.usage
        if response.error is not None:
            await self.refuse(response.error, headers)
            return
        document = translation.write(response)
        if compacts:
            document = as_compaction(document)
        await self._answer.whole(200, document, [*headers, *loss_header(self._record.losses)])

    async def _stream(
        self, reply: UpstreamReply, translation: Translation, headers: Headers
    ) -> None:
        translator = translation.stream()
        headers = [*pass_headers.STREAM, *headers, *loss_header(self._record.losses)]
        answer = self._answer

        async def beat() -> None:
            if not answer.has_started:
                await answer.start(200, headers)
            await answer.write(translator.heartbeat())

        async def begin(out: bytes) -> None:
            if translator.failure is not None:
                # Nothing is out yet, so the caller can be told by a status.
                await self.refuse(translator.failure)
            else:
                await answer.start(200, headers)
                await answer.write(out)

        def take(out: bytes) -> Awaitable[None] | None:
            heartbeat.touch()
            return answer.push(out) if answer.has_started else run_eagerly(begin(out))

        with Heartbeat(self._services.heartbeat_s, beat) as heartbeat:
            await translate_stream(reply, translation, translator, take)
        if answer.is_whole:
            return
        self._record.usage = translator.usage
        if translator.failure is not None:
            self._record.fail(translator.failure)
        await answer.end()

    def _session(self, route: Route, request: bytes | Mapping[str, JSON]) -> str | None:
        """The session's key, for the upstreams that choose by it."""
        if not getattr(route.upstream.backend, "wants_session", False):
            return None
        session = session_of(self._headers, request)
        if route.upstream.new_session is not None and is_guessed(session):
            session, self._answer.cookie = route.upstream.new_session()
        return session

    async def _ask(
        self, route: Route, session: str | None, path: str, body: bytes
    ) -> UpstreamReply:
        """Ask something that the request needs, at the root of its server."""
        headers = self._headers_to(route, is_stream=False)
        request = UpstreamRequest(
            "POST", path, headers, body, session, is_at_root=True, model=self._model
        )
        return await route.upstream.backend.send(request)

    async def _call(
        self, route: Route, path: str, body: bytes, session: str | None
    ) -> UpstreamReply:
        headers = self._headers_to(route, is_stream=self._record.is_stream)
        request = UpstreamRequest("POST", path, headers, body, session, model=self._model)
        if route.rollout is None:
            return await self._send(route, request)
        return await route.rollout.send(request, self._additions, partial(self._send, route))

    async def _send(self, route: Route, request: UpstreamRequest) -> UpstreamReply:
        """Send the request to its upstream, or what is asked aside for it."""
        reply = await route.upstream.backend.send(request)
        if request.is_aside:
            return reply
        self._record.upstream_answered(reply)
        return reply if self._record.watch is None else self._record.watch(request, reply)

    def _headers_to(self, route: Route, *, is_stream: bool) -> list[tuple[str, str]]:
        return pass_headers.to_upstream(
            self._headers,
            is_stream=is_stream,
            request_id=self._record.request_id,
            extra=route.headers,
        )
