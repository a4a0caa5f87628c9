"""Upstream replies, read: whole ones, errors and streams, with all that servers do unasked."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from backends.base import UpstreamReply
from backends.errors import BackendError
from proxy.bodies import BodyError, collect, decompress, decompress_stream
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
    reply: UpstreamReply, translation: Translation, translator: StreamTranslator
) -> AsyncIterator[bytes]:
    """The caller's stream, one piece for each read of the upstream that brought something.

    An upstream that answers whole although a stream was asked for is unfolded. Failures become
    the stream's own.
    """
    try:
        if not is_sse(reply):
            yield translator.replay(unfold(await read_response(reply, translation)))
            return
        pieces = pieces_of(reply)
        async for piece in pieces:
            if out := translator.feed(piece):
                yield out
            if translator.is_over:
                await _drain(pieces)
                return
        if out := translator.finish():
            yield out
    except (BackendError, TranslationError) as error:
        if out := translator.fail(info_of(error)):
            yield out


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


async def _decompressed(chunks: AsyncIterator[bytes], encoding: str) -> AsyncIterator[bytes]:
    try:
        async for chunk in decompress_stream(chunks, encoding):
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
