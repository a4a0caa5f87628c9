"""What the demo reads, and what it refuses as vLLM does."""

import re
from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

JSON: TypeAlias = Any
"""A decoded JSON value."""

MEDIA_TYPES: Final = ("audio_url", "image_url", "input_audio", "video_url")
"""The content parts that are neither text nor reasoning."""


class Part(msgspec.Struct):
    """One content part; members of types other than text and image_url are not read."""

    type: str
    text: str | None = None
    image_url: JSON = None


class FunctionCall(msgspec.Struct):
    """Name and JSON text of a call in the history."""

    name: str
    arguments: str = ""


class ToolCall(msgspec.Struct):
    """An earlier call in the history."""

    function: FunctionCall
    id: str = ""


class Message(msgspec.Struct):
    """One message of the conversation."""

    role: str
    content: str | list[Part] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    def parts(self) -> list[Part]:
        """The content as parts; a string is one text part."""
        if isinstance(self.content, str):
            return [Part("text", self.content)]
        return self.content or []

    def text(self) -> str:
        """The text parts, a line break between them."""
        return "\n".join(part.text for part in self.parts() if part.text is not None)


class Function(msgspec.Struct):
    """What a tool is called and takes; ``parameters`` is a JSON Schema."""

    name: str
    description: str | None = None
    parameters: dict[str, JSON] | None = None


class Tool(msgspec.Struct):
    """A tool that may be called."""

    type: Literal["function"]
    function: Function


class NamedFunction(msgspec.Struct):
    """The function of a named tool choice."""

    name: str


class NamedChoice(msgspec.Struct):
    """A tool choice that names the function to call."""

    function: NamedFunction


class JSONSchema(msgspec.Struct):
    """The schema of a structured answer."""

    schema: dict[str, JSON]


class ResponseFormat(msgspec.Struct):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchema | None = None


class StreamOptions(msgspec.Struct):
    """What a stream carries besides the answer."""

    include_usage: bool | None = None


Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ChatRequest(msgspec.Struct):
    """The part of a chat request that the demo reads; it ignores other members, as vLLM does."""

    model: str
    messages: list[Message]
    tools: list[Tool] | None = None
    tool_choice: str | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Effort | None = None
    include_reasoning: bool = True
    chat_template_kwargs: dict[str, JSON] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def thinks(self) -> bool:
        """Whether reasoning comes before the answer."""
        enabled = (self.chat_template_kwargs or {}).get("enable_thinking") is not False
        return enabled and self.include_reasoning and self.reasoning_effort != "none"

    @property
    def must_call(self) -> bool:
        """Whether the caller demands a tool call, by name or of any tool."""
        return isinstance(self.tool_choice, NamedChoice) or self.tool_choice == "required"


class Refused(Exception):
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
