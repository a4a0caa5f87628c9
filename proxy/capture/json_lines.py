"""JSON objects on one line, decoded as little as can be."""

import msgspec

from translators.errors import TranslationError
from translators.sse import LF
from translators.wire import decode, encode


class _Anything(msgspec.Struct):
    """Any object; its members are read over."""


_check = msgspec.json.Decoder(_Anything).decode


def one_line(body: bytes, *, is_strict: bool = False) -> bytes | None:
    """The same JSON object on one line, ``None`` if the body is none.

    Numbers and escapes stay as they are, but for escaped lone surrogates, which not every reader
    of a file takes: they become U+FFFD.

    Args:
        body: JSON text, or anything else.
        is_strict: Whether it is known to be an object of strict JSON, but for bytes that are no
            UTF-8. To know it saves 4 us for 4 KB.
    """
    try:
        if LF in body:
            body = msgspec.json.format(body, indent=-1)
        if not is_strict:
            _check(body)
        if not body.isascii():
            body.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _mended(body)
    return body


def _mended(body: bytes) -> bytes | None:
    try:
        value = decode(body)
    except TranslationError:
        return None
    return encode(value) if isinstance(value, dict) else None
