"""Replies as a caller reads them, each checked: a benchmark of failures is worthless."""

import re
from typing import Final

import msgspec

from benchmarks.upstream import has_token_ids, reply_text, streams

_CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding:\s*chunked", re.IGNORECASE)
_DELTAS: Final = re.compile(rb'"(?:content|delta)":\s*"((?: tok\d{5})+)"')
_STOP: Final = re.compile(rb'"finish_reason":\s*"stop"')
_END_OF_CHUNKS: Final = b"\r\n0\r\n\r\n"


class WrongReplyError(Exception):
    """A reply was not what the upstream said."""


class ReplyReader:
    """Reads the replies of one connection, one after the other."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._body_at = 0  # where the body begins, once the head is there
        self._length = -1  # of the body; negative: chunked

    @property
    def body_began(self) -> bool:
        """Whether something of the body is there."""
        return 0 < self._body_at < len(self._received)

    def feed(self, data: bytes) -> bool:
        """Take what was received; whether the reply is complete.

        Raises:
            WrongReplyError: The status is not 200, or the end could not be told.
        """
        received = self._received
        received += data
        if not self._body_at and not self._read_head():
            return False
        if self._length >= 0:
            return len(received) >= self._body_at + self._length
        return received.endswith(_END_OF_CHUNKS)

    def take(self) -> bytes:
        """The body of a complete reply; what follows is the next reply."""
        body = bytes(memoryview(self._received)[self._body_at :])
        self._received.clear()
        self._body_at = 0
        return _dechunked(body) if self._length < 0 else body

    def _read_head(self) -> bool:
        received = self._received
        end = received.find(b"\r\n\r\n")
        if end < 0:
            return False
        if not received.startswith(b"HTTP/1.1 200"):
            raise WrongReplyError(bytes(received[:2000]).decode(errors="replace"))
        self._body_at = end + 4
        length = _CONTENT_LENGTH.search(received, 0, end + 2)
        if length:
            self._length = int(length[1])
        elif _CHUNKED.search(received, 0, end + 2):
            self._length = -1
        else:
            raise WrongReplyError("a reply without length or chunks")
        return True


def _dechunked(data: bytes) -> bytes:
    """The body in a complete chunked encoding."""
    parts: list[bytes] = []
    at = 0
    while True:
        end = data.index(b"\r\n", at)
        size = int(data[at:end], 16)
        if not size:
            return b"".join(parts)
        parts.append(data[end + 2 : end + 2 + size])
        at = end + 2 + size + 2


def check(dialect: str, body: bytes, model: str) -> None:
    """Check a reply of one of the upstream's models.

    Raises:
        WrongReplyError: It does not say what the upstream said.
    """
    try:
        if streams(model):
            _check_stream(dialect, body, reply_text(model))
        else:
            _check_whole(dialect, body, model)
    except (WrongReplyError, LookupError, ValueError) as exc:
        raise WrongReplyError(f"{exc!r} in {body[-1500:]!r}") from exc


def _check_whole(dialect: str, body: bytes, model: str) -> None:
    reply = msgspec.json.decode(body)
    if dialect == "chat":
        choice = reply["choices"][0]
        end, said = choice["finish_reason"], choice["message"]
        text = said["content"]
    else:
        end, said = reply["status"], reply["output"][-1]
        text = said["content"][0]["text"]
    if end not in ("stop", "completed") or text != reply_text(model):
        raise WrongReplyError(f"ended with {end!r} and {len(text)} characters")
    if has_token_ids(model) and not {"prompt_token_ids", "generation_log_probs"} <= said.keys():
        raise WrongReplyError("the reply lacks its token ids or log-probs")


def _check_stream(dialect: str, body: bytes, text: str) -> None:
    """All deltas in order, then a proper end."""
    # Deltas may be joined by a proxy, so that their text is compared and not their number.
    found = b"".join(_DELTAS.findall(body)).decode()
    if found != text:
        raise WrongReplyError(f"{len(found)} of {len(text)} characters in the deltas")
    if dialect == "chat":
        if not body.endswith(b"data: [DONE]\n\n") or not _STOP.search(body):
            raise WrongReplyError("the chat stream has no proper end")
        return
    end = body[body.rindex(b"data: {") :]  # LiteLLM writes no ``event`` fields
    if b'"response.completed"' not in end or text.encode() not in end:
        raise WrongReplyError("the Responses stream does not end with its completed response")
