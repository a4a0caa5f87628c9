"""Chunks that bring text and nothing else, read without reading the rest of them."""

import msgspec

from translators.chat import schema
from translators.errors import MalformedRequest
from translators.sse import Frame
from translators.wire import JSON, decode, encode, extra_of, known_members

CHUNK_MEMBERS = known_members(schema.ChatCompletion) | {"obfuscation"}
CHOICE_MEMBERS = frozenset({"index", "delta", "finish_reason", "logprobs"})
DELTA_MEMBERS = known_members(schema.Message)

_read_text = msgspec.json.Decoder(str).decode
_PROBE = "\0"
_ATTEMPTS = 16


class PlainChunks:
    """Knows the bytes around the text of one stream's chunks.

    They are the same from chunk to chunk, as a rule. If a chunk has the bytes of one that was
    read in full, and one JSON string between them, it says the same with another text: exact,
    whatever the members are. Saves 4 us of 9.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self._ahead = b""
        self._behind = b""
        self._shortest = 0  # bytes of a chunk; 0 as long as nothing is known
        self._attempts = _ATTEMPTS

    def text_of(self, frame: Frame) -> str | None:
        """The text of a frame, ``None`` if the frame has to be read in full."""
        data = frame.data
        if (
            not self._shortest
            or frame.event is not None
            or len(data) < self._shortest
            or not data.startswith(self._ahead)
            or not data.endswith(self._behind)
        ):
            return None
        try:
            return _read_text(data[len(self._ahead) : len(data) - len(self._behind)])
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def learn(self, frame: Frame, chunk: dict[str, JSON]) -> None:
        """See a frame that was read in full; some attempts are made in each stream."""
        match chunk:
            case {"choices": [{"delta": {"content": str(text)} as delta} as choice]} if text:
                pass
            case _:
                return
        if not self._attempts or not _is_plain(chunk, choice, delta) or frame.event is not None:
            return
        self._attempts -= 1
        ahead, _, behind = frame.data.partition(encode(text))
        # The text may have been found elsewhere: another one in its place has to be its own.
        probed = {**chunk, "choices": [{**choice, "delta": {**delta, "content": _PROBE}}]}
        try:
            if decode(ahead + encode(_PROBE) + behind) != probed:
                return
        except MalformedRequest:
            return
        self._ahead, self._behind = ahead, behind
        self._shortest = len(ahead) + len(behind) + 2


def _is_plain(chunk: dict[str, JSON], choice: dict[str, JSON], delta: dict[str, JSON]) -> bool:
    """Whether the text is all that counts in a chunk with one choice."""
    return not (
        any(value for name, value in choice.items() if name != "delta")
        or any(value for name, value in delta.items() if name not in ("content", "role"))
        or chunk.get("usage") is not None
        or extra_of(chunk, CHUNK_MEMBERS)
        or extra_of(choice, CHOICE_MEMBERS)
        or extra_of(delta, DELTA_MEMBERS)
    )
