"""Request and reply bodies as bytes: reading with a limit, and content encodings.

Spec: RFC 9110, section 8.4 "Content-Encoding".
"""

import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import zstandard

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MOST_LAYERS = 4


class BodyError(Exception):
    """A body that cannot be read; ``status`` is 400, 413 or 415."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ClientGone(Exception):
    """The caller went away before its request was complete."""


async def read_body(
    receive: Callable[[], Awaitable[Any]], limit_bytes: int, pieces: list[bytes]
) -> bytes:
    """The whole body of an ASGI request.

    Args:
        receive: Gives the request's messages.
        limit_bytes: Largest body.
        pieces: Gets the body's pieces as they come, also where there is no whole.

    Raises:
        BodyError: It is longer than ``limit_bytes``.
        ClientGone: The caller disconnected.
    """
    message = await receive()
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece = message.get("body", b"")
        pieces.append(piece)
        size += len(piece)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        if not message.get("more_body"):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        message = await receive()


async def collect(chunks: AsyncIterator[bytes], limit_bytes: int) -> bytes:
    """A reply's whole body.

    Raises:
        BodyError: It is longer than ``limit_bytes``.
    """
    pieces = []
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        pieces.append(chunk)
    return b"".join(pieces)


def decompress(body: bytes, content_encoding: str, limit_bytes: int) -> bytes:
    """A body without its content encodings; zstd is recognised even if no header says so.

    Args:
        body: The body as it came.
        content_encoding: Value of the header, "" if absent.
        limit_bytes: Largest result.

    Raises:
        BodyError: An encoding is unknown, the body is damaged, or the result is too long.
    """
    is_zstd = body.startswith(_ZSTD_MAGIC)
    if not (content_encoding or is_zstd):  # most are plain
        return body
    layers = _read_layers(content_encoding) if content_encoding else []
    if not layers and is_zstd:
        layers = ["zstd"]
    for name in reversed(layers):
        body = _decompress_layer(body, name, limit_bytes)
    return body


async def decompress_stream(
    chunks: AsyncIterator[bytes], content_encoding: str
) -> AsyncIterator[bytes]:
    """A body that comes in pieces, each without its content encodings as soon as it is there.

    Raises:
        BodyError: An encoding is unknown, or the body is damaged.
    """
    layers = _read_layers(content_encoding)
    openers = [_opener(name) for name in reversed(layers)]
    async for chunk in chunks:
        try:
            for decompress_piece in openers:
                chunk = decompress_piece(chunk)
        except (zlib.error, zstandard.ZstdError) as error:
            raise BodyError(f"The body is not valid {', '.join(layers)}.", 400) from error
        if chunk:
            yield chunk


def _read_layers(content_encoding: str) -> list[str]:
    names = [name.strip().lower() for name in content_encoding.split(",")]
    layers = [name for name in names if name not in ("", "identity")]
    if len(layers) > _MOST_LAYERS:
        raise BodyError(f"More than {_MOST_LAYERS} content encodings.", 415)
    return layers


def _opener(name: str) -> Callable[[bytes], bytes]:
    match name:
        case "zstd":
            return zstandard.ZstdDecompressor().decompressobj().decompress
        case "gzip" | "x-gzip" | "deflate":
            return zlib.decompressobj(32 + zlib.MAX_WBITS).decompress
    raise _unknown(name)


def _decompress_layer(body: bytes, name: str, limit_bytes: int) -> bytes:
    try:
        match name:
            case "zstd":
                with zstandard.ZstdDecompressor().stream_reader(
                    body, read_across_frames=True
                ) as reader:
                    plain = reader.read(limit_bytes + 1)
            case "gzip" | "x-gzip":
                plain = _inflate(body, 16 + zlib.MAX_WBITS, limit_bytes)
            case "deflate":
                # "deflate" means zlib's format, but some senders leave its header out.
                is_zlib = body[:1] and body[0] & 0x0F == 8
                bits = zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS
                plain = _inflate(body, bits, limit_bytes)
            case _:
                raise _unknown(name)
    except (zlib.error, zstandard.ZstdError) as error:
        raise BodyError(f"The body is not valid {name}.", 400) from error
    if len(plain) > limit_bytes:
        raise _too_large(limit_bytes)
    return plain


def _inflate(body: bytes, bits: int, limit_bytes: int) -> bytes:
    inflater = zlib.decompressobj(bits)
    plain = inflater.decompress(body, limit_bytes + 1)
    if not inflater.eof and len(plain) <= limit_bytes:
        raise zlib.error("incomplete")
    return plain


def _unknown(name: str) -> BodyError:
    return BodyError(
        f"Content encoding '{name}' is unknown here; zstd, gzip and deflate are known.", 415
    )


def _too_large(limit_bytes: int) -> BodyError:
    return BodyError(f"The body is larger than the limit of {limit_bytes} bytes.", 413)
