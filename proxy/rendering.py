"""The prompt of a Completions request, asked of the upstream before the request is sent."""

from collections.abc import Awaitable, Callable, Mapping

from backends.base import UpstreamReply
from proxy.replies import read_error_body, whole_of
from translators import UPSTREAM_CODECS
from translators.completions.prompt import (
    RENDER_PATH,
    ask_for_prompt,
    fill_prompt,
    without_template,
)
from translators.context import Context
from translators.dialect import Dialect
from translators.errors import UpstreamProtocolError
from translators.wire import JSON, decode_object, encode

Call = Callable[[str, bytes], Awaitable[UpstreamReply]]
"""Posts a body to a path below the server's root."""

_NO_ENDPOINT = (404, 405, 501)
_read_error = UPSTREAM_CODECS[Dialect.COMPLETIONS].read_error


class RenderingRefused(Exception):
    """The upstream answered with an error when it was asked for a prompt."""

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.body = body
        self.headers = headers


async def render(body: dict[str, JSON], call: Call, ctx: Context) -> dict[str, JSON]:
    """A Completions request with the prompt for its messages.

    A raw prompt stays; what settings and metadata say to a template is then lost.

    Raises:
        BackendError: The upstream gave no reply.
        RenderingRefused: It finds fault with the messages, or the template does.
        UpstreamProtocolError: It renders no prompts.
    """
    question = ask_for_prompt(body)
    if question is None:
        return without_template(body, ctx)
    reply = await call(RENDER_PATH, encode(question))
    try:
        if reply.status < 400:
            answer = await whole_of(reply)
            return fill_prompt(body, decode_object(answer, UpstreamProtocolError))
        fault = await read_error_body(reply)
    finally:
        await reply.aclose()
    if reply.status in _NO_ENDPOINT and _read_error(reply.status, fault).code != "model_not_found":
        raise UpstreamProtocolError(
            f"The upstream cannot render a chat template: POST {RENDER_PATH} gives status "
            f'{reply.status}. vLLM has that endpoint; for other servers set render = "raw".'
        )
    raise RenderingRefused(reply.status, fault, reply.headers)
