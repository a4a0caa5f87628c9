"""JSON text on one line, without being decoded."""

import msgspec

from translators.errors import TranslationError
from translators.wire import decode, encode


def compact(body: bytes) -> bytes | None:
    """The same JSON on one line, its numbers and escapes as they are; ``None`` if it is none.

    Escaped lone surrogates, which not every reader of a file takes, become U+FFFD.
    """
    try:
        line = msgspec.json.format(body, indent=-1)
        line.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            return encode(decode(body))
        except TranslationError:
            return None
    return line
