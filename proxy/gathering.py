"""Upstream replies that are changed on their way: the token ids in them are gathered."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from backends.base import UpstreamReply
from backends.errors import BackendError
from proxy.replies import is_sse, pieces_of, whole_of
from translators.chat.token_ids import Asked, Gatherer, carrier
from translators.errors import UpstreamProtocolError
from translators.sse import Frame, SSEDecoder, encode_frame
from translators.wire import JSON, decode, decode_object, encode

_OF_THE_BYTES = frozenset({"content-length", "content-encoding", "transfer-encoding"})

Tokenize = Callable[[], Awaitable[list[int]]]
"""Asks the upstream for the token ids of the prompt."""


class WholeReply:
    """A reply that has been read, or was never sent; see ``UpstreamReply``."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Make a reply; of ``headers`` those that describe other bytes are left out."""
        self._status = status
        self._headers = without_encoding(headers)
        self._body = body

    @property
    def status(self) -> int:
        """HTTP status code."""
        return self._status

    @property
    def headers(self) -> Mapping[str, str]:
        """Reply headers."""
        return self._headers

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, in one piece."""
        yield self._body

    async def aclose(self) -> None:
        """Nothing to release."""


class GatheringStream:
    """A Chat stream whose last chunk gets the token ids; see ``UpstreamReply``.

    The chunk with the ``finish_reason`` is held until the next frame, because versions that give
    no token ids tell only then how many tokens there were.
    """

    def __init__(self, reply: UpstreamReply, asked: Asked, tokenize: Tokenize) -> None:
        """Make a stream that owns ``reply``."""
        self._reply = reply
        self._asked = asked
        self._tokenize = tokenize
        self._gatherer = Gatherer(asked)
        self._last: dict[str, JSON] | None = None

    @property
    def status(self) -> int:
        """HTTP status code."""
        return self._reply.status

    @property
    def headers(self) -> Mapping[str, str]:
        """Reply headers."""
        return without_encoding(self._reply.headers)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The stream, in one piece for each read of the upstream that brought something.

        Raises:
            BackendError: The upstream broke off.
            UpstreamProtocolError: Its token ids are incomplete, or contradict each other.
        """
        decoder = SSEDecoder()
        out = b""
        try:
            async for piece in pieces_of(self._reply):
                for frame in decoder.feed(piece):
                    out += await self._read(frame)
                if out:
                    yield out
                    out = b""
            for frame in decoder.finish():
                out += await self._read(frame)
            if out := out + await self._end():
                yield out
        except (BackendError, UpstreamProtocolError):
            if out:
                yield out
            raise

    async def aclose(self) -> None:
        """Release the connection."""
        await self._reply.aclose()

    async def _read(self, frame: Frame) -> bytes:
        if frame.data == b"[DONE]":
            return await self._end() + encode_frame(frame.event, frame.data)
        chunk = decode(frame.data, UpstreamProtocolError)
        if not isinstance(chunk, dict) or not isinstance(chunk.get("choices"), list):
            return encode_frame(frame.event, frame.data)
        chunk = self._gatherer.take(chunk)
        before = await self._end()
        choices = chunk["choices"]
        if choices and choices[0].get("finish_reason") is not None:
            self._last = chunk
            return before
        if self._is_ours(chunk):
            return before
        return before + encode_frame(frame.event, encode(chunk))

    def _is_ours(self, chunk: dict[str, JSON]) -> bool:
        """Whether a chunk, now empty, came only because of what we asked for."""
        choices = chunk["choices"]
        if not choices:
            return chunk.get("usage") is not None and not self._asked.usage
        return not (self._asked.logprobs or self._asked.token_ids or chunk.get("usage")) and all(
            choice.get("delta") == {} for choice in choices
        )

    async def _end(self) -> bytes:
        """The held chunk, if there is one, with the token ids."""
        if self._last is None:
            return b""
        chunk, self._last = self._last, None
        return encode_frame(None, encode(await _add(chunk, self._gatherer, self._tokenize)))


async def gather(reply: UpstreamReply, asked: Asked, tokenize: Tokenize) -> UpstreamReply:
    """A Chat reply with its token ids on the message, or on the delta of a stream's last chunk.

    Raises:
        BackendError: The upstream broke off.
        UpstreamProtocolError: The token ids of a whole reply are incomplete, or contradict each
            other.
    """
    if is_sse(reply):
        return GatheringStream(reply, asked, tokenize)
    try:
        body = await whole_of(reply)
    finally:
        await reply.aclose()
    document = decode_object(body, UpstreamProtocolError)
    if document.get("choices"):
        gatherer = Gatherer(asked)
        document = await _add(gatherer.take(document), gatherer, tokenize)
    return WholeReply(reply.status, reply.headers, encode(document))


async def _add(body: dict[str, JSON], gatherer: Gatherer, tokenize: Tokenize) -> dict[str, JSON]:
    """A reply or chunk with the token ids on what its choice says."""
    prompt = await tokenize() if gatherer.lacks_prompt else None
    choice = dict(body["choices"][0])
    name = carrier(choice)
    choice[name] = {**(choice.get(name) or {}), **gatherer.token_ids(prompt)}
    return {**body, "choices": [choice, *body["choices"][1:]]}


def without_encoding(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers without those that describe a body as it was sent."""
    return {name: value for name, value in headers.items() if name not in _OF_THE_BYTES}
