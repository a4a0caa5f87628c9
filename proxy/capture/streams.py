"""Streams put together again: the whole reply that a stream's frames tell, in its own dialect.

Nothing is translated: every choice, log-prob and vendor member stays, as a whole reply has them.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from proxy.capture.chat_fold import ChatFold
from proxy.capture.responses_fold import ResponsesFold
from translators.dialect import Dialect
from translators.errors import TranslationError
from translators.sse import Frame, SSEDecoder

_PIECES_AT_ONCE = 64
_BREATH_S = 0.0001


class Fold(Protocol):
    """Folds the frames of one stream.

    Attributes:
        has_content: Whether a frame has brought something that the model made.
    """

    has_content: bool

    @property
    def ending(self) -> str | None:
        """``complete``, ``incomplete`` or ``error``; ``None`` if no frame ends the stream."""

    def feed(self, frame: Frame) -> None:
        """Fold one frame.

        Raises:
            TranslationError: It is not of this dialect.
        """

    def skip_to_end(self, rest: Sequence[bytes]) -> bool:
        """Whether the rest of a stream ends in what tells all of it, so that no more is fed."""

    def document(self) -> bytes | None:
        """The reply as one line of JSON, as far as it came; ``None`` if nothing did."""


_FOLDS: Mapping[str, type[Fold]] = {Dialect.CHAT: ChatFold, Dialect.RESPONSES: ResponsesFold}


class Assembled(msgspec.Struct, frozen=True):
    """A stream that was put together; ``first`` is the piece that brought the first content."""

    document: bytes | None
    ending: str | None
    first: int | None


def assemble(dialect: str, pieces: Sequence[bytes]) -> Assembled:
    """Put a stream together.

    Raises:
        TranslationError: A frame cannot be read. (A last one that was cut is left out.)
    """
    fold = _FOLDS[dialect]()
    decoder = SSEDecoder()
    first = 0
    for piece in pieces:
        for frame in decoder.feed(piece):
            fold.feed(frame)
        if fold.has_content:
            break
        first += 1
    if fold.skip_to_end(pieces[first + 1 :]):
        return Assembled(fold.document(), fold.ending, first)
    for begin in range(first + 1, len(pieces), _PIECES_AT_ONCE):
        for frame in decoder.feed(b"".join(pieces[begin : begin + _PIECES_AT_ONCE])):
            fold.feed(frame)
        time.sleep(_BREATH_S)  # another thread would wait milliseconds for the interpreter
    try:
        for frame in decoder.finish():
            fold.feed(frame)
    except TranslationError:
        pass
    return Assembled(fold.document(), fold.ending, first if fold.has_content else None)
