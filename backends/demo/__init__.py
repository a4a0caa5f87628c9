"""A deterministic stand-in for an upstream, inside the proxy's own process.

``DemoBackend`` speaks Chat Completions in the style of vLLM 0.32, so that the proxy can be tried
in seconds with nothing else installed. There is no language model behind it, and it says so.

========================================  ========================================================
request                                   what the demo does
========================================  ========================================================
any                                       reasons in a sentence (``reasoning``) before it answers;
                                          ``reasoning_effort: none``, ``include_reasoning: false``
                                          or ``chat_template_kwargs.enable_thinking: false``
                                          turn that off
a greeting, "who are you"                 says what it is
any other text                            quotes the last user message
images in the last user message           states their number, media types and sizes, and that it
                                          cannot see
``tools``                                 calls the tool whose name or description shares most
                                          words with the last user message, if any does;
                                          ``required`` and named choices always call
arguments                                 required properties only, in the schema's types: places
                                          named after "in" for a property like ``city`` (one call
                                          for each place, unless ``parallel_tool_calls`` is
                                          false), numbers and enumeration values from the
                                          message, the message itself for other strings
tool results at the end                   quotes them
``response_format``                       gives a minimal instance of the JSON schema
``max_tokens``, ``stop``                  cuts the answer, inside a call's arguments too; stop
                                          strings are looked for in the content only
``n``                                     numbers its answers; choices of a stream alternate
``logprobs``, ``top_logprobs``            invented, but of the right shape, for every token, those
                                          of reasoning and calls included, as vLLM does
``tools: []``, a system message in the    refuses as vLLM does, ``{"error": {"message", "type",
middle, the role ``developer``, ...       "param", "code": 400}}``
an unknown model                          404, if the backend was given ``models``
========================================  ========================================================

Words are its tokens: usage counts words, images count nothing, and a stream has a chunk for each
word. A request's reply is the same each time, ids included, and the same streamed or not.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from backends.base import BackendReply, UpstreamRequest
from backends.demo.model import MODEL
from backends.demo.replies import complete, write_reply, write_stream
from backends.demo.requests import JSON, Refused, read_request
from backends.held import Holder


class DemoBackend:
    """A ``Backend`` without a network.

    It serves ``GET /models``, ``GET /health`` and ``POST /chat/completions``.

    Args:
        name: Its name in settings, logs and errors.
        models: The model names it accepts and lists; if empty it lists ``dragoman-demo`` and
            accepts any.
        pause_s: Seconds before each chunk of a stream.
        clock: Gives the Unix time in seconds for ``created``.
    """

    def __init__(
        self,
        name: str = "demo",
        *,
        models: Sequence[str] = (),
        pause_s: float = 0.015,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._name = name
        self._models = models
        self._pause_s = pause_s
        self._clock = clock

    @property
    def name(self) -> str:
        """The upstream's name in settings, logs and errors."""
        return self._name

    async def start(self) -> None:
        """Nothing has to be started."""

    async def probe(self) -> None:
        """It always answers."""

    async def aclose(self) -> None:
        """Nothing has to be closed."""

    async def send(self, request: UpstreamRequest) -> BackendReply:
        """Answer a request; refusals are replies with their status, nothing is raised."""
        path = request.path.partition("?")[0]
        if path not in _METHODS:
            return _json_reply({"detail": "Not Found"}, 404)
        if request.method != _METHODS[path]:
            return _json_reply({"detail": "Method Not Allowed"}, 405)
        created = int(self._clock())
        if path == "/health":
            return DemoReply(200, {"content-length": "0"}, [])
        if path == "/models":
            return _json_reply(_list_models(self._models or [MODEL], created))

        try:
            chat = read_request(request.body, self._models)
        except Refused as refusal:
            return _json_reply(refusal.body(), refusal.status)
        completions = [complete(chat, index) for index in range(chat.n or 1)]
        if not chat.stream:
            return _json_reply(write_reply(chat, completions, created))
        headers = {"content-type": "text/event-stream; charset=utf-8"}
        return DemoReply(200, headers, write_stream(chat, completions, created), self._pause_s)


_METHODS: Final = {"/chat/completions": "POST", "/health": "GET", "/models": "GET"}


class DemoReply(Holder):
    """A reply that is made while it is read."""

    def __init__(
        self, status: int, headers: Mapping[str, str], body: Iterable[bytes], pause_s: float = 0
    ) -> None:
        self._status = status
        self._headers = headers
        self._body = body
        self._pause_s = pause_s
        self._closed = False

    @property
    def status(self) -> int:
        """HTTP status code."""
        return self._status

    @property
    def headers(self) -> Mapping[str, str]:
        """Reply headers with lower-case names."""
        return self._headers

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body: one piece for a plain reply, one event for each item of a stream."""
        for chunk in self._body:
            await asyncio.sleep(self._pause_s)
            if self._closed:
                return
            yield chunk

    async def aclose(self) -> None:
        """Abandon the rest of the body."""
        self.let_go()
        self._closed = True


def _json_reply(document: JSON, status: int = 200) -> DemoReply:
    body = msgspec.json.encode(document)
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    return DemoReply(status, headers, [body])


def _list_models(models: Iterable[str], created: int) -> JSON:
    return {
        "object": "list",
        "data": [
            {
                "id": model,
                "object": "model",
                "created": created,
                "owned_by": "dragoman",
                "root": model,
                "parent": None,
                "max_model_len": None,
                "permission": [],
            }
            for model in models
        ],
    }
