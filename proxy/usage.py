"""Token counts of replies that are relayed without being read."""

import re
from collections import deque

from translators.canonical import Usage
from translators.errors import TranslationError
from translators.wire import decode

_TAIL_BYTES = 16 * 1024
_USAGE = re.compile(rb'"usage"\s*:\s*(\{(?:[^{}]|\{[^{}]*\})*\})')


class UsageTap:
    """Keeps the end of a reply, where all known servers put the counts."""

    def __init__(self) -> None:
        """Make a tap for one reply."""
        self._tail: deque[bytes] = deque()
        self._size = 0

    def feed(self, chunk: bytes) -> None:
        """See a piece of the reply go by."""
        self._tail.append(chunk)
        self._size += len(chunk)
        while self._size - len(self._tail[0]) > _TAIL_BYTES:
            self._size -= len(self._tail.popleft())

    def tail(self) -> bytes:
        """The last bytes of what has been seen."""
        return b"".join(self._tail)

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
