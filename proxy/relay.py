"""Endpoints whose requests and replies pass unread, apart from the model's name."""

from collections.abc import Sequence

from backends.base import Backend, UpstreamReply, UpstreamRequest
from backends.errors import BackendError
from proxy import headers as pass_headers
from proxy.answer import Answer
from proxy.broken_stream import last_frame
from proxy.errors import info_of
from proxy.multipart import find_field
from proxy.record import Record
from proxy.routing import Router
from proxy.session import session_of
from proxy.surface import Endpoint
from proxy.usage import UsageTap
from translators.codec import Codec
from translators.envelope import read_error, write_error
from translators.errors import ErrorInfo, MalformedRequest, UpstreamProtocolError
from translators.wire import JSON, peek, splice

_JSON = "application/json"


async def pass_back(
    reply: UpstreamReply, answer: Answer, record: Record, caller: Codec | None = None
) -> None:
    """Pass a reply on unread, and close it.

    A stream that breaks off ends with an error in the caller's dialect, if it is given.

    Raises:
        BackendError: The upstream broke off, and only a broken connection can tell the caller.
        UpstreamProtocolError: The same, of a reply that was changed on its way.
    """
    tap = UsageTap()
    try:
        if reply.status >= 400:
            record.fail(read_error(reply.status, b"", {}))
        await answer.start(reply.status, pass_headers.relayed(reply.headers))
        try:
            async for chunk in reply.chunks():
                tap.feed(chunk)
                await answer.write(chunk)
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
            backend, body = self._direct_form(body, content_type)
        else:
            content_type = _JSON if body else ""
            backend, body = self._direct(body)
        self._record.upstream = backend.name
        wants_session = getattr(backend, "wants_session", False)
        request = UpstreamRequest(
            self._endpoint.method,
            self._endpoint.upstream_path + pass_headers.query(self._query),
            pass_headers.to_relayed(self._headers, content_type, self._record.request_id),
            body,
            session_of(self._headers, {}) if wants_session else None,
            is_at_root=self._endpoint.is_at_root,
        )
        reply = await backend.send(request)
        self._record.upstream_answered()
        await pass_back(reply, self._answer, self._record)

    async def refuse(self, error: ErrorInfo) -> None:
        """Answer with an error in OpenAI's envelope; see ``Answer.refuse``."""
        await self._answer.refuse(error, write_error(error, {}))

    def _direct(self, body: bytes) -> tuple[Backend, bytes]:
        """Where JSON text, or nothing, goes, and with which bytes."""
        if not body:
            return self._find(None)[0], body
        head = peek(body)
        self._record.is_stream = head.stream is True
        backend, renamed = self._find(head.model)
        return backend, body if renamed is None else splice(body, {"model": renamed}, {})

    def _direct_form(self, body: bytes, content_type: str) -> tuple[Backend, bytes]:
        """Where a form goes, and with which bytes."""
        at = find_field(body, content_type, "model")
        if at is None:
            return self._find(None)[0], body
        backend, renamed = self._find(body[at].decode("utf-8", "replace"))
        if renamed is None:
            return backend, body
        return backend, body[: at.start] + str(renamed).encode() + body[at.stop :]

    def _find(self, model: JSON) -> tuple[Backend, JSON]:
        """The backend of a model, and the upstream's name for it if that differs."""
        self._record.model = model
        upstreams = self._router.upstreams
        if model is None and len(upstreams) == 1:
            (only,) = upstreams.values()
            return only.backend, None
        if model is None and self._endpoint.method == "GET":
            raise MalformedRequest(
                f"GET {self._endpoint.path} names no model, and there are several upstreams: it "
                "can be relayed only where there is one."
            )
        route = self._router.find(model)
        is_renamed = route.public_model is not None and route.upstream_model != model
        return route.upstream.backend, route.upstream_model if is_renamed else None
