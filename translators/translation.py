"""One exchange between two dialects: the library's front door.

Example:
    >>> from translators.translation import Translation
    >>> translation = Translation.between("responses", "chat")
    >>> translation.request({"model": "m", "input": "Hello"})
    {'model': 'm', 'messages': [{'role': 'user', 'content': 'Hello'}]}
    >>> translation.losses
    []
"""

import secrets
import time
from collections.abc import Callable
from typing import Self

from translators import CODECS, UPSTREAM_CODECS
from translators.canonical import Request, Response
from translators.codec import Codec, UpstreamCodec
from translators.context import Context, Seal
from translators.dialect import Dialect
from translators.errors import ErrorInfo, Loss, UpstreamProtocolError
from translators.pipeline import STEPS, run
from translators.profiles import PROFILES, Policy, Profile
from translators.stream import StreamTranslator
from translators.wire import JSON, decode_object


def random_id(prefix: str) -> str:
    """A random id such as ``resp_`` and 32 hexadecimal digits."""
    return f"{prefix}_{secrets.token_hex(16)}"


class Translation:
    """Translates a caller's request for an upstream, and the upstream's answer back.

    ``request`` comes first, since replies may repeat parts of it. Bodies are decoded JSON; none
    is changed, but results may share parts with what was given.
    """

    def __init__(self, caller: Codec, upstream: UpstreamCodec, ctx: Context) -> None:
        """Translate between two codecs."""
        self.caller = caller
        self.upstream = upstream
        self.ctx = ctx
        ctx.caller_params = caller.params
        self._request = Request(model="", items=[])

    @classmethod
    def between(
        cls,
        caller: Dialect | str,
        upstream: Dialect | str,
        *,
        profile: Profile | None = None,
        policy: Policy | None = None,
        seal: Seal | None = None,
        new_id: Callable[[str], str] = random_id,
        now: Callable[[], float] = time.time,
    ) -> Self:
        """A translation by the dialects' names.

        Args:
            caller: Dialect of the requests, and of the replies as they leave.
            upstream: Dialect that the model's server speaks.
            profile: How that server wants to be spoken to; vLLM's by default.
            policy: Choices between several right translations.
            seal: Seals reasoning for callers that ask for it encrypted.
            new_id: Makes an id from a prefix.
            now: Gives the Unix time in seconds.
        """
        ctx = Context(
            new_id=new_id,
            now=now,
            profile=profile or PROFILES["vllm"],
            policy=policy or Policy(),
            seal=seal,
        )
        return cls(CODECS[Dialect(caller)], UPSTREAM_CODECS[Dialect(upstream)], ctx)

    @property
    def losses(self) -> list[Loss]:
        """What the target could not say, so far."""
        return self.ctx.losses

    @property
    def is_stream(self) -> bool:
        """Whether the caller asked for a stream."""
        return self._request.stream

    def request(self, body: dict[str, JSON], *, upstream_model: str | None = None) -> JSON:
        """The upstream's request.

        Args:
            body: The caller's request.
            upstream_model: The upstream's name of the model, if it differs.

        Raises:
            MalformedRequest: The body breaks the caller's schema.
            UnsupportedFeature: The upstream cannot be told what the body says.
        """
        request = self.caller.read_request(body, self.ctx)
        self._request = run(STEPS, request, self.ctx)
        if upstream_model is not None:
            self._request.model = upstream_model
        written = self.upstream.write_request(self._request, self.ctx)
        self._request.items = []  # no reply repeats them, and images are large
        return written

    def reply(self, body: dict[str, JSON]) -> JSON:
        """The caller's reply.

        Raises:
            UpstreamProtocolError: The body breaks the upstream's schema.
        """
        return self.write(self.upstream.read_response(body, self.ctx))

    def read(self, body: bytes) -> Response:
        """The upstream's reply as a canonical one.

        Raises:
            UpstreamProtocolError: The body is not JSON, or breaks the upstream's schema.
        """
        plain = self.upstream.read_plain(body, self.ctx)
        if plain is not None:
            return plain
        document = decode_object(body, UpstreamProtocolError)
        return self.upstream.read_response(document, self.ctx)

    def write(self, response: Response) -> JSON:
        """The caller's reply, of a canonical one."""
        return self.caller.write_response(response, self._request, self.ctx)

    def error(self, status: int, body: bytes) -> tuple[ErrorInfo, JSON]:
        """An upstream's error, and the caller's body for it."""
        info = self.upstream.read_error(status, body)
        return info, self.caller.write_error(info)

    def stream(self) -> StreamTranslator:
        """A translator of the upstream's stream."""
        return StreamTranslator(
            self.upstream.reader(self.ctx), self.caller.writer(self._request, self.ctx)
        )
