"""Endpoints whose requests and replies pass unread, apart from the model's name."""

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field

from backends.base import Backend, UpstreamReply, UpstreamRequest, pour
from backends.errors import BackendBrokeOff, BackendError
from proxy import headers as pass_headers
from proxy.answer import Answer
from proxy.broken_stream import last_frame, stops_short
from proxy.errors import info_of
from proxy.multipart import find_field
from proxy.record import Record
from proxy.replies import whole_of
from proxy.restoring import has_whole_document, restore, restore_document
from proxy.routing import Router
from proxy.session import session_of
from proxy.surface import Endpoint
from proxy.usage import UsageTap
from translators.codec import Codec
from translators.envelope import read_error, write_error
from translators.errors import ErrorInfo, MalformedRequest, UpstreamProtocolError
from translators.wire import JSON, encode, open_members, peek

_JSON = "application/json"
_STOPPED_SHORT = "The upstream's stream ended before the reply was complete."


async def pass_back(
    reply: UpstreamReply,
    answer: Answer,
    record: Record,
    caller: Codec | None = None,
    restores: Mapping[str, JSON] | None = None,
) -> None:
    """Pass a reply on unread, apart from members to restore, and close it.

    A stream that breaks off, or stops short, ends with an error in the caller's dialect, if that
    is given. A whole document with members to restore goes out when it is there, at once.

    Raises:
        BackendError: The upstream broke off, and no more can be told within the reply.
        UpstreamProtocolError: The same, of a reply that was changed on its way.
    """
    tap = UsageTap()

    def take(piece: bytes) -> Awaitable[None] | None:
        tap.feed(piece)
        return answer.push(piece)

    try:
        if reply.status >= 400:
            record.fail(read_error(reply.status, b"", {}))
        if restores and has_whole_document(reply):
            body = restore_document(await whole_of(reply), restores)
            tap.feed(body)
            await answer.whole_body(
                reply.status, body, pass_headers.relayed(reply.headers, is_decoded=True)
            )
            return
        headers = pass_headers.relayed(reply.headers, is_decoded=bool(restores))
        await answer.start(reply.status, headers)
        try:
            if restores:
                await restore(reply, restores, take)
            else:
                await pour(reply, take)
            if caller and stops_short(caller, reply, tap.tail()):
                raise BackendBrokeOff(_STOPPED_SHORT, backend=record.upstream or "")
        except (BackendError, UpstreamProtocolError) as error:
            info = info_of(error)
            frame = last_frame(caller, reply, tap.tail(), info) if caller else None
            if frame is None:
                raise
            record.fail(info)
            await answer.write(frame)
        await answer.end()
    finally:
        record.usage = tap.usage()
        await reply.aclose()


@dataclass(frozen=True)
class _Way:
    """Where a request goes, what the model is called there, and more headers for it."""

    backend: Backend
    model: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Relay:
    """One request to a relayed endpoint, and its reply.

    A body is routed by its ``model``, a form by the field of that name. Where the upstream calls
    the model otherwise, that name takes its place, and all other bytes stay.
    """

    def __init__(
        self,
        router: Router,
        endpoint: Endpoint,
        headers: Sequence[tuple[bytes, bytes]],
        query: bytes,
        answer: Answer,
        record: Record,
    ) -> None:
        """Prepare to answer a request with these headers and this query string."""
        self._router = router
        self._endpoint = endpoint
        self._headers = headers
        self._query = query
        self._answer = answer
        self._record = record

    async def run(self, body: bytes) -> None:
        """Answer the request with this body.

        Raises:
            TranslationError: It does not say where to go.
            BackendError: The upstream gave no reply.
        """
        content_type = pass_headers.value_of(self._headers, b"content-type")
        is_form = content_type.lower().startswith("multipart/form-data")
        if is_form:
            way, body = self._direct_form(body, content_type)
        else:
            content_type = _JSON if body else ""
            way, body = self._direct(body)
        backend = way.backend
        self._record.upstream = backend.name
        wants_session = getattr(backend, "wants_session", False)
        request = UpstreamRequest(
            self._endpoint.method,
            self._endpoint.upstream_path + pass_headers.query(self._query),
            pass_headers.to_relayed(
                self._headers, content_type, self._record.request_id, way.headers
            ),
            body,
            session_of(self._headers, {}) if wants_session else None,
            is_at_root=self._endpoint.is_at_root,
            model=way.model,
        )
        reply = await backend.send(request)
        self._record.upstream_answered(reply)
        asked = self._record.model
        restores = None if way.model in (None, asked) else {"model": asked}
        await pass_back(reply, self._answer, self._record, restores=restores)

    async def refuse(self, error: ErrorInfo) -> None:
        """Answer with an error in OpenAI's envelope; see ``Answer.refuse``."""
        await self._answer.refuse(error, write_error(error, {}))

    def _direct(self, body: bytes) -> tuple[_Way, bytes]:
        """Where JSON text, or nothing, goes, and with which bytes."""
        if not body:
            return self._find(None), body
        head = peek(body)
        self._record.is_stream = head.stream is True
        way = self._find(head.model)
        if way.model is None or way.model == head.model:
            return way, body
        return way, encode({**open_members(body), "model": way.model})

    def _direct_form(self, body: bytes, content_type: str) -> tuple[_Way, bytes]:
        """Where a form goes, and with which bytes."""
        at = find_field(body, content_type, "model")
        if at is None:
            return self._find(None), body
        if find_field(body, content_type, "model", at.stop) is not None:
            raise MalformedRequest("The form has more than one field 'model'.", param="model")
        way = self._find(body[at].decode("utf-8", "replace"))
        if way.model is None:
            return way, body
        return way, body[: at.start] + way.model.encode() + body[at.stop :]

    def _find(self, model: JSON) -> _Way:
        self._record.model = model
        upstreams = self._router.upstreams
        if model is None and len(upstreams) == 1:
            (only,) = upstreams.values()
            return _Way(only.backend)
        if model is None and self._endpoint.method == "GET":
            raise MalformedRequest(
                f"GET {self._endpoint.path} names no model, and there are several upstreams: it "
                "can be relayed only where there is one."
            )
        route = self._router.find(model)
        renamed = route.shaping.model or (model if isinstance(model, str) else None)
        return _Way(route.upstream.backend, renamed, route.headers)
