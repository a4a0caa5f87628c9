"""Upstream replies, read: whole ones, errors and streams, with all that servers do unasked."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress

from backends.base import Take, UpstreamReply, pour, pour_chunks
from backends.errors import BackendError
from proxy.bodies import BodyError, collect, decompress, decompress_stream
from proxy.eager import run_eagerly
from proxy.errors import info_of
from translators.canonical import Response
from translators.errors import TranslationError, UpstreamProtocolError
from translators.events import fold
from translators.sse import SSEDecoder
from translators.stream import StreamTranslator
from translators.translation import Translation
from translators.unfold import unfold

_REPLY_LIMIT_BYTES = 256 * 1024 * 1024
_ERROR_LIMIT_BYTES = 1024 * 1024
_DRAIN_LIMIT_S = 0.1


async def read_error_body(reply: UpstreamReply) -> bytes:
    """The body of an error, empty if it cannot be read: the status tells more than that."""
    try:
        return await whole_of(reply, _ERROR_LIMIT_BYTES)
    except (BackendError, UpstreamProtocolError):
        return b""


async def read_response(reply: UpstreamReply, translation: Translation) -> Response:
    """A whole reply; an upstream that streams unasked is folded.

    Raises:
        BackendError: The upstream broke off.
        UpstreamProtocolError: The body breaks the upstream's schema.
    """
    body = await whole_of(reply)
    if not is_sse(reply):
        return translation.read(body)
    decoder = SSEDecoder()
    reader = translation.upstream.reader(translation.ctx)
    frames = decoder.feed(body) + decoder.finish()
    events = [event for frame in frames for event in reader.feed(frame)]
    return fold(events + reader.finish())


async def translate_stream(
    reply: UpstreamReply, translation: Translation, translator: StreamTranslator, take: Take
) -> None:
    """Give the caller's stream to ``take``, a piece for each read of the upstream that made one.

    An upstream that answers whole although a stream was asked for is unfolded. Failures become
    the stream's own.
    """
    out = b""
    try:
        if is_sse(reply):
            await _pour(reply, translator, take)
            out = b"" if translator.is_over else translator.finish()
        else:
            out = translator.replay(unfold(await read_response(reply, translation)))
    except (BackendError, TranslationError) as error:
        out = b"" if translator.is_over else translator.fail(info_of(error))
    if out and (rest := take(out)) is not None:
        await rest


async def _pour(reply: UpstreamReply, translator: StreamTranslator, take: Take) -> None:
    """Translate until the upstream ends, which often comes after the last frame.

    Then the connection can be kept; but that is not worth a long wait.
    """
    loop = asyncio.get_running_loop()

    async def hurry(rest: Awaitable[None] | None) -> None:
        if rest is not None:  # the caller has all the time it needs
            await rest
        limit.reschedule(loop.time() + _DRAIN_LIMIT_S)

    def feed(piece: bytes) -> Awaitable[None] | None:
        out = b"" if translator.is_over else translator.feed(piece)
        rest = take(out) if out else None
        is_last = translator.is_over and limit.when() is None
        return run_eagerly(hurry(rest)) if is_last else rest

    with suppress(TimeoutError):
        async with asyncio.timeout(None) as limit:
            await pour_plain(reply, feed)


def is_sse(reply: UpstreamReply) -> bool:
    """Whether a reply is a stream of server-sent events."""
    return reply.headers.get("content-type", "").lower().startswith("text/event-stream")


async def whole_of(reply: UpstreamReply, limit_bytes: int = _REPLY_LIMIT_BYTES) -> bytes:
    """A reply's whole body without content encodings, which some servers apply unasked.

    Raises:
        UpstreamProtocolError: It is too long, or damaged.
    """
    try:
        body = await collect(reply.chunks(), limit_bytes)
        return decompress(body, reply.headers.get("content-encoding", ""), limit_bytes)
    except BodyError as error:
        raise _unreadable(error) from error


def pieces_of(reply: UpstreamReply) -> AsyncIterator[bytes]:
    """A stream's pieces without content encodings.

    Raises:
        BackendError: The upstream broke off.
        UpstreamProtocolError: An encoding is unknown, or the stream is damaged.
    """
    encoding = reply.headers.get("content-encoding", "")
    return _decompressed(reply.chunks(), encoding) if encoding else reply.chunks()


async def pour_plain(reply: UpstreamReply, take: Take) -> None:
    """Give a stream's pieces without content encodings to ``take``.

    Raises:
        BackendError: The upstream broke off.
        UpstreamProtocolError: An encoding is unknown, or the stream is damaged.
    """
    encoding = reply.headers.get("content-encoding", "")
    if encoding:
        await pour_chunks(_decompressed(reply.chunks(), encoding), take)
    else:
        await pour(reply, take)


async def _decompressed(chunks: AsyncIterator[bytes], encoding: str) -> AsyncIterator[bytes]:
    try:
        async for chunk in decompress_stream(chunks, encoding):
            yield chunk
    except BodyError as error:
        raise _unreadable(error) from error


def _unreadable(error: BodyError) -> UpstreamProtocolError:
    return UpstreamProtocolError(f"The upstream's reply cannot be read. {error}")
