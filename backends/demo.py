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
import itertools
import re
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal

import msgspec

from backends.base import UpstreamReply, UpstreamRequest
from backends.demo_model import (
    JSON,
    MEDIA_TYPES,
    MODEL,
    Call,
    ChatRequest,
    Content,
    NamedChoice,
    Reasoning,
    Step,
    digest,
    speak,
    split_words,
)


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

    async def send(self, request: UpstreamRequest) -> UpstreamReply:
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
        completions = [_complete(chat, index) for index in range(chat.n or 1)]
        if not chat.stream:
            return _json_reply(write_reply(chat, completions, created))
        headers = {"content-type": "text/event-stream; charset=utf-8"}
        return DemoReply(200, headers, write_stream(chat, completions, created), self._pause_s)


_METHODS: Final = {"/chat/completions": "POST", "/health": "GET", "/models": "GET"}


class DemoReply:
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
        self._closed = True


class Refused(Exception):  # noqa: N818  (a verdict on the request, not a fault)
    """The request is refused; ``param`` names the culprit as vLLM does."""

    def __init__(self, message: str, param: str | None = None, *, status: int = 400) -> None:
        super().__init__(message)
        self.param = param
        self.status = status

    def body(self) -> JSON:
        """The error in vLLM's shape: ``code`` is a number."""
        kind = "NotFoundError" if self.status == 404 else "BadRequestError"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.status}
        return {"error": error}


_ROLES: Final = frozenset({"system", "user", "assistant", "tool"})
_PART_TYPES: Final = (*MEDIA_TYPES, "refusal", "text", "thinking")
_MAX_LOGPROBS: Final = 20
_MAX_CHOICES: Final = 128


def read_request(body: bytes, models: Sequence[str] = ()) -> ChatRequest:
    """The chat request in ``body``, if vLLM would accept it.

    Raises:
        Refused: It would not.
    """
    try:
        request = msgspec.json.decode(body, type=ChatRequest)
    except msgspec.ValidationError as exc:
        raise Refused(str(exc), _param(str(exc))) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Refused(f"JSON decode error: {exc}", "body") from exc
    _check_options(request)
    _check_tools(request)
    if models and request.model not in models:
        raise Refused(
            f"The model `{request.model}` does not exist. Valid aliases: {', '.join(models)}.",
            "model",
            status=404,
        )
    _check_messages(request)
    return request


def _param(message: str) -> str:
    """The JSON path in a message of msgspec, dotted: ``body.messages.0.role``."""
    at = re.search(r"at `\$\.?(.*)`$", message)
    missing = re.search(r"required field `(\w+)`", message)
    path = [*re.findall(r"\w+", at[1] if at else ""), *([missing[1]] if missing else [])]
    return ".".join(["body", *path])


def _check_options(request: ChatRequest) -> None:
    form = request.response_format
    if form is not None and form.type == "json_schema" and form.json_schema is None:
        raise Refused(
            "When response_format type is 'json_schema', the 'json_schema' field must be provided.",
            "response_format",
        )
    if request.stream_options is not None and not request.stream:
        raise Refused("Stream options can only be defined when `stream=True`.", "stream_options")
    top = request.top_logprobs or 0
    if top and not request.logprobs:
        raise Refused("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")
    if not 0 <= top <= _MAX_LOGPROBS:
        raise Refused(f"`top_logprobs` must be between 0 and {_MAX_LOGPROBS}.", "top_logprobs")
    for name in ("max_tokens", "max_completion_tokens", "n"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise Refused(f"{name} must be at least 1, got {value}.", name)
    if request.n is not None and request.n > _MAX_CHOICES:
        raise Refused(f"n must be at most {_MAX_CHOICES}, got {request.n}.", "n")


def _check_tools(request: ChatRequest) -> None:
    choice = request.tool_choice
    if request.tools == []:
        raise Refused(
            "`tools` must not be an empty array. Either provide at least one tool or omit the"
            " field entirely.",
            "tools",
        )
    if choice is None or choice == "none":
        return
    if request.tools is None:
        raise Refused("When using `tool_choice`, `tools` must be set.", "tool_choice")
    if isinstance(choice, NamedChoice):
        if all(tool.function.name != choice.function.name for tool in request.tools):
            raise Refused(
                "The tool specified in `tool_choice` does not match any of the specified `tools`",
                "tool_choice",
            )
    elif choice not in ("auto", "required"):
        raise Refused(
            f'Invalid value for `tool_choice`: {choice}! Only named tools, "none", "auto" or'
            ' "required" are supported.',
            "tool_choice",
        )


def _check_messages(request: ChatRequest) -> None:
    """The checks of vLLM's content parser and of a strict chat template like Qwen's."""
    if not request.messages:
        raise Refused("No messages provided.")
    for index, message in enumerate(request.messages):
        if message.role not in _ROLES:
            raise Refused("Unexpected message role.")
        if message.role == "system" and index:
            raise Refused("System message must be at the beginning.")
        for part in message.parts():
            if part.type not in _PART_TYPES:
                raise Refused(
                    f"Unsupported chat content part type: {part.type!r}."
                    f" Supported types: {', '.join(_PART_TYPES)}.",
                    "type",
                )


class Completion(msgspec.Struct, frozen=True):
    """One choice: what is said, in order, and why it ends.

    ``stop_reason`` is the stop string that ended it, else ``None``.
    """

    steps: Sequence[Step]
    finish_reason: Literal["stop", "length", "tool_calls"]
    stop_reason: str | None = None

    def tokens(self) -> list[str]:
        """All that was generated, in order."""
        return [token for step in self.steps for token in _tokens(step)]


def _tokens(step: Step) -> list[str]:
    """The tokens of a step; a call's are its name and the words of its arguments."""
    if isinstance(step, Call):
        return [step.name, *split_words(step.arguments)]
    return split_words(step.text)


def _complete(request: ChatRequest, choice: int) -> Completion:
    """What the model says, ended by a stop string or by the token limit."""
    steps = list(speak(request, choice))
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    stop_reason = None
    for at, step in enumerate(steps):
        if isinstance(step, Content):
            found = [(step.text.index(stop), stop) for stop in stops if stop and stop in step.text]
            if found:
                end, stop_reason = min(found)
                steps = [*steps[:at], Content(step.text[:end])]
                break

    limit = request.max_completion_tokens or request.max_tokens
    if limit is not None and len(Completion(steps, "stop").tokens()) > limit:
        return Completion(list(_cut(steps, limit)), "length")
    # A named choice ends with "stop" in vLLM, as it does at OpenAI.
    calls = any(isinstance(step, Call) for step in steps)
    named = isinstance(request.tool_choice, NamedChoice)
    return Completion(steps, "tool_calls" if calls and not named else "stop", stop_reason)


def _cut(steps: Iterable[Step], limit: int) -> Iterator[Step]:
    """The steps as far as their first ``limit`` tokens go."""
    for step in steps:
        kept = _tokens(step)[:limit]
        limit -= len(kept)
        if not kept:
            return
        if isinstance(step, Call):
            yield Call(step.id, step.name, "".join(kept[1:]))
        else:
            yield type(step)("".join(kept))


def write_reply(request: ChatRequest, completions: Sequence[Completion], created: int) -> JSON:
    """The whole reply as vLLM writes it, its nulls included."""
    return {
        "id": f"chatcmpl-{digest(request)}",
        "object": "chat.completion",
        "created": created,
        "model": request.model,
        "choices": [
            {
                "index": index,
                "message": _message(request, completion.steps),
                "logprobs": _logprobs(request, completion.tokens()),
                "finish_reason": completion.finish_reason,
                "stop_reason": completion.stop_reason,
                "token_ids": None,
            }
            for index, completion in enumerate(completions)
        ],
        "service_tier": None,
        "system_fingerprint": None,
        "usage": _usage(request, completions),
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "kv_transfer_params": None,
    }


def _message(request: ChatRequest, steps: Iterable[Step]) -> JSON:
    content = "".join(step.text for step in steps if isinstance(step, Content))
    reasoning = "".join(step.text for step in steps if isinstance(step, Reasoning))
    calls = [
        {
            "id": step.id,
            "type": "function",
            "function": {"name": step.name, "arguments": step.arguments},
        }
        for step in steps
        if isinstance(step, Call)
    ]
    return {
        "role": "assistant",
        # vLLM leaves "" rather than null beside a call that was demanded.
        "content": content or ("" if request.must_call else None),
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        **({"tool_calls": calls} if calls else {}),
        "reasoning": reasoning or None,
    }


def write_stream(
    request: ChatRequest, completions: Sequence[Completion], created: int
) -> Iterator[bytes]:
    """The reply as server-sent events, one for each token; they add up to ``write_reply``."""
    head = {
        "id": f"chatcmpl-{digest(request)}",
        "object": "chat.completion.chunk",
        "created": created,
        "model": request.model,
    }
    streams = [_choice_chunks(request, index, one) for index, one in enumerate(completions)]
    for choices in itertools.zip_longest(*streams):
        for choice in choices:
            if choice is not None:
                yield _event({**head, "choices": [choice]})
    if request.stream_options is not None and request.stream_options.include_usage:
        yield _event({**head, "choices": [], "usage": _usage(request, completions)})
    yield b"data: [DONE]\n\n"


def _choice_chunks(request: ChatRequest, index: int, completion: Completion) -> Iterator[JSON]:
    """The ``choices`` members of a stream that belong to one choice."""
    first = {"role": "assistant", "content": ""}
    yield {"index": index, "delta": first, "logprobs": None, "finish_reason": None}
    ended = {"finish_reason": completion.finish_reason, "stop_reason": completion.stop_reason}
    left = len(completion.tokens())
    for token, delta in _deltas(completion.steps):
        left -= 1
        chunk = {
            "index": index,
            "delta": delta,
            "logprobs": _logprobs(request, [token]),
            "finish_reason": None,
            "token_ids": None,
        }
        # At the limit there is no end-of-text token that a last chunk could be made of.
        yield {**chunk, **ended} if not left and completion.finish_reason == "length" else chunk
    if completion.finish_reason != "length":
        yield {"index": index, "delta": {}, "logprobs": None, **ended, "token_ids": None}


def _deltas(steps: Iterable[Step]) -> Iterator[tuple[str, JSON]]:
    """Each token and its delta. A call's first has its name and no ``arguments``, as in vLLM."""
    calls = itertools.count()
    for step in steps:
        if isinstance(step, Call):
            index = next(calls)
            opening = {"id": step.id, "type": "function", "function": {"name": step.name}}
            yield step.name, {"tool_calls": [{"index": index, **opening}]}
            for word in split_words(step.arguments):
                yield word, {"tool_calls": [{"index": index, "function": {"arguments": word}}]}
        else:
            field = "reasoning" if isinstance(step, Reasoning) else "content"
            for word in split_words(step.text):
                yield word, {field: word}


def _usage(request: ChatRequest, completions: Iterable[Completion]) -> JSON:
    """Counts in words; there are no ``prompt_tokens_details``, as in vLLM's default."""
    prompt = [message.text() for message in request.messages]
    prompt += [
        f"{call.function.name} {call.function.arguments}"
        for message in request.messages
        for call in message.tool_calls or []
    ]
    prompt_tokens = sum(len(text.split()) for text in prompt)
    steps = [step for completion in completions for step in completion.steps]
    completion_tokens = sum(len(_tokens(step)) for step in steps)
    thought = sum(len(_tokens(step)) for step in steps if isinstance(step, Reasoning))
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
        "completion_tokens_details": {"reasoning_tokens": thought},
    }


def _logprobs(request: ChatRequest, tokens: Iterable[str]) -> JSON:
    """Invented log-probabilities, the same for a token wherever it stands."""
    if not request.logprobs:
        return None
    return {"content": [_logprob(token, request.top_logprobs or 0) for token in tokens]}


def _logprob(token: str, top: int) -> JSON:
    def entry(text: str, logprob: float) -> JSON:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    likely = -(zlib.crc32(token.encode()) % 1000) / 1000
    ranked = [entry(f"{token}~{rank}" if rank else token, likely - rank) for rank in range(top)]
    return {**entry(token, likely), "top_logprobs": ranked}


def _event(data: JSON) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


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
