"""Passing replies on as they come."""

from backends.base import UpstreamReply
from proxy import headers as pass_headers
from proxy.answer import Answer
from proxy.record import Record
from proxy.usage import UsageTap
from translators.envelope import read_error


async def pass_back(reply: UpstreamReply, answer: Answer, record: Record) -> None:
    """Pass a reply on unread, and close it.

    Raises:
        BackendError: The upstream broke off.
    """
    tap = UsageTap()
    try:
        if reply.status >= 400:
            record.fail(read_error(reply.status, b"", {}))
        await answer.start(reply.status, pass_headers.relayed(reply.headers))
        async for chunk in reply.chunks():
            tap.feed(chunk)
            await answer.write(chunk)
        await answer.end()
    finally:
        record.usage = tap.usage()
        await reply.aclose()
