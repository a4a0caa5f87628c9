"""The ASGI side of an exchange: the caller's body, the caller's leaving, the log line."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from backends.errors import BackendError
from proxy.answer import Answer, Send
from proxy.bodies import BodyError, ClientGone, decompress, read_body
from proxy.errors import info_of
from proxy.exchange import Exchange, Services
from proxy.record import Record
from translators.codec import Codec
from translators.errors import ErrorInfo, TranslationError

Receive = Callable[[], Awaitable[Any]]

_log = structlog.get_logger("dragoman")


class Gateway:
    """Answers generation requests of any dialect; holds no state of its own."""

    def __init__(self, services: Services, max_body_bytes: int) -> None:
        """Make a gateway that takes bodies up to a size, after decompression."""
        self._services = services
        self._max_body_bytes = max_body_bytes

    async def handle(
        self, caller: Codec, scope: Any, receive: Receive, send: Send, *, compacts: bool = False
    ) -> None:
        """Answer one request, as an ASGI application.

        While the upstream works, the caller is watched: if it goes away, the exchange is
        cancelled, which closes the upstream's connection, streamed or not. With ``compacts`` the
        conversation is not continued but summed up.
        """
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        request_id = _header(headers, b"x-request-id") or uuid.uuid4().hex
        record = Record(caller.dialect.value, request_id)
        exchange = Exchange(self._services, caller, headers, Answer(send, record), record)
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
                encoding = _header(headers, b"content-encoding")
                body = decompress(body, encoding, self._max_body_bytes)
                await exchange.run(body, compacts=compacts)
            except (TranslationError, BackendError, BodyError) as error:
                await exchange.refuse(info_of(error))
        except ClientGone:
            record.outcome = "client_closed"
        except asyncio.CancelledError:
            task.uncancel()
            if not is_gone:  # the process ends, and its patience did
                stopping = "The proxy is shutting down."
                await exchange.refuse(ErrorInfo(stopping, 503, code="shutting_down"))
            record.outcome = "client_closed" if is_gone else "cancelled"
        except Exception:
            record.outcome = "error"
            raise
        finally:
            if watcher is not None:
                watcher.cancel()
            record.write(_log)


def _header(headers: list[tuple[bytes, bytes]], name: bytes) -> str:
    """The last value of a header, "" if it is absent."""
    found = ""
    for key, value in headers:
        if key == name:
            found = value.decode("latin-1")
    return found
