"""The ASGI side of an exchange: the caller's body, the caller's leaving, the log line."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import structlog

from backends.errors import BackendError
from proxy.answer import Answer, Send
from proxy.bodies import BodyError, ClientGone, decompress, read_body
from proxy.capture.call import Call
from proxy.capture.recorder import Recorder
from proxy.errors import info_of
from proxy.exchange import Exchange, Services
from proxy.ids import random_hex
from proxy.leaving import Leaving
from proxy.record import Record
from proxy.relay import Relay
from proxy.surface import Endpoint
from translators.codec import Codec
from translators.errors import ErrorInfo, TranslationError

Receive = Callable[[], Awaitable[Any]]

_log = structlog.get_logger("dragoman")


class Gateway:
    """Answers generation requests of any dialect, and relays others; holds no state of its own."""

    def __init__(
        self, services: Services, max_body_bytes: int, recorder: Recorder | None = None
    ) -> None:
        """Make a gateway.

        Args:
            services: What its exchanges share.
            max_body_bytes: Largest body of a request, after decompression.
            recorder: Records generation requests that name a rollout.
        """
        self._services = services
        self._max_body_bytes = max_body_bytes
        self._recorder = recorder

    async def handle(
        self,
        caller: Codec,
        scope: Any,
        receive: Receive,
        send: Send,
        *,
        compacts: bool = False,
    ) -> None:
        """Answer one request of a dialect, as an ASGI application.

        With ``compacts`` the conversation is not continued but summed up.
        """
        headers = scope["headers"]
        fields = dict(headers)  # the last one of each name
        record = Record(caller.dialect.value, _request_id(fields))
        recorder = self._recorder
        call = None if recorder is None else recorder.begin(record, fields)
        answer = Answer(send, record, call)
        exchange = Exchange(self._services, caller, headers, answer, record)
        run = partial(exchange.run, compacts=compacts)
        if recorder is None or call is None:
            await self._attend(run, exchange.refuse, record, fields, receive)
            return
        try:
            await self._attend(run, exchange.refuse, record, fields, receive, call)
        except BaseException:
            call.has_failed = True
            raise
        finally:
            recorder.end(call)

    async def relay(self, endpoint: Endpoint, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request to a relayed endpoint, as an ASGI application."""
        headers = scope["headers"]
        fields = dict(headers)
        record = Record(endpoint.path, _request_id(fields))
        query, answer = scope["query_string"], Answer(send, record)
        relay = Relay(self._services.router, endpoint, headers, query, answer, record)
        await self._attend(relay.run, relay.refuse, record, fields, receive)

    async def _attend(
        self,
        run: Callable[[bytes], Awaitable[None]],
        refuse: Callable[[ErrorInfo], Awaitable[None]],
        record: Record,
        fields: Mapping[bytes, bytes],
        receive: Receive,
        call: Call | None = None,
    ) -> None:
        """Let a request ``run`` with its body, and ``refuse`` it where that fails.

        While the upstream works, the caller is watched: if it goes away, what runs is cancelled,
        which closes the upstream's connection, streamed or not.
        """
        task = asyncio.current_task()
        assert task is not None
        watcher: Leaving | None = None
        is_gone = False

        def leave() -> None:
            nonlocal is_gone
            is_gone = True
            task.cancel()

        encoding = fields.get(b"content-encoding", b"").decode("latin-1")
        pieces: list[bytes] = []
        try:
            try:
                try:
                    body = await read_body(receive, self._max_body_bytes, pieces)
                finally:
                    if call is not None:
                        call.keep_request(pieces, encoding)
                del pieces
                watcher = Leaving(receive, leave)
                body = decompress(body, encoding, self._max_body_bytes)
                running = run(body)
                del body  # of megabytes, perhaps: it is free as soon as it is read
                await running
            except (TranslationError, BackendError, BodyError) as error:
                await refuse(info_of(error))
        except ClientGone:
            record.outcome = "client_closed"
        except asyncio.CancelledError:
            task.uncancel()
            if not is_gone:  # the process ends, and its patience did
                stopping = "The proxy is shutting down."
                await refuse(ErrorInfo(stopping, 503, code="shutting_down"))
            record.outcome = "client_closed" if is_gone else "cancelled"
        except Exception as error:  # noqa: BLE001 - a fault of ours is told, not raised
            _log.error("unexpected error", request_id=record.request_id, exc_info=error)
            what = "An unexpected error happened in the proxy."
            await refuse(ErrorInfo(what, code="internal_error"))
        finally:
            if watcher is not None:
                watcher.close()
            record.write(_log)


def _request_id(fields: Mapping[bytes, bytes]) -> str:
    return fields.get(b"x-request-id", b"").decode("latin-1") or random_hex()
