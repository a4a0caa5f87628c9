"""Token counts of replies that are relayed without being read."""

import re
from collections import deque

from translators.canonical import Usage
from translators.errors import TranslationError
from translators.wire import decode

_TAIL_BYTES = 16 * 1024
_TRIM_AT_BYTES = 4 * _TAIL_BYTES  # not at each piece
_USAGE = re.compile(rb'"usage"\s*:\s*(\{(?:[^{}]|\{[^{}]*\})*\})')


class UsageTap:
    """Keeps the end of a reply, where all known servers put the counts."""

    def __init__(self) -> None:
        """Make a tap for one reply."""
        self._pieces: deque[bytes] = deque()
        self._size = 0

    def feed(self, chunk: bytes) -> None:
        """See a piece of the reply go by."""
        self._pieces.append(chunk)
        self._size += len(chunk)
        if self._size > _TRIM_AT_BYTES:
            self._trim()

    def tail(self) -> bytes:
        """The last bytes of what has been seen."""
        self._trim()
        return b"".join(self._pieces)

    def _trim(self) -> None:
        while self._pieces and self._size - len(self._pieces[0]) > _TAIL_BYTES:
            self._size -= len(self._pieces.popleft())

    def usage(self) -> Usage | None:
        """The last token counts in the reply, ``None`` if there are none to be found."""
        found = _USAGE.findall(self.tail())
        if not found:
            return None
        try:
            counts = decode(found[-1])
        except TranslationError:
            return None
        given = counts.get("prompt_tokens", counts.get("input_tokens"))
        made = counts.get("completion_tokens", counts.get("output_tokens"))
        if not isinstance(given, int) or not isinstance(made, int):
            return None
        return Usage(given, made, given + made)
