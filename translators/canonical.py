"""The canonical model: requests and replies in no dialect.

A conversation is a flat, ordered list of items. Dialects that speak in turns (Chat) coalesce
neighbours when they write; the opposite direction would have to invent an order. ``extra`` holds
members that the model has no name for, as decoded JSON.

Items, parts and tools are final, so that ``type(item) is Message`` is the whole question: asking
``isinstance`` of a Struct takes four times as long where the answer is no.
"""

from enum import StrEnum
from typing import final

import msgspec

from translators.dialect import Dialect
from translators.errors import ErrorInfo
from translators.wire import JSON


class Role(StrEnum):
    """Who speaks in a message."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"


ROLES = {role.value: role for role in Role}
ROLE_NAMES = {role: role.value for role in Role}
"""``Role(name)`` and ``role.value`` as tables, which cost a fifth."""


class Status(StrEnum):
    """How far an item got."""

    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"


class StopReason(StrEnum):
    """Why the model stopped; ``Response.raw_stop`` keeps the upstream's own word."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"


class ToolKind(StrEnum):
    """How a tool is declared and called.

    Functions take JSON arguments and custom tools free text; the others are functions that
    Responses knows by their type.
    """

    FUNCTION = "function"
    CUSTOM = "custom"
    LOCAL_SHELL = "local_shell"
    SHELL = "shell"
    APPLY_PATCH = "apply_patch"
    TOOL_SEARCH = "tool_search"


# --- parts -----------------------------------------------------------------------------------


@final
class Text(msgspec.Struct):
    """Text of a message or of a tool's result.

    ``annotations`` are flat, as in Responses; ``logprobs`` are token entries
    (``token``, ``logprob``, ``bytes``, ``top_logprobs``) in the order of the tokens.
    """

    text: str
    annotations: list[JSON] = []
    logprobs: list[JSON] = []


@final
class Refusal(msgspec.Struct):
    """The model's explanation of why it declines."""

    text: str
    logprobs: list[JSON] = []


@final
class Image(msgspec.Struct):
    """An image by URL (``data:`` URLs included) or by file id.

    Here and below, ``param`` is the part's path in the caller's body, for errors.
    """

    url: str | None = None
    file_id: str | None = None
    detail: str | None = None
    param: str = ""


@final
class Audio(msgspec.Struct):
    """Base64 audio; ``format`` is ``wav``, ``mp3``, ..."""

    data: str
    format: str
    param: str = ""


@final
class File(msgspec.Struct):
    """A file by content (``data``: a ``data:`` URL or base64), URL or file id."""

    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    filename: str | None = None
    detail: str | None = None
    param: str = ""


@final
class OpaquePart(msgspec.Struct):
    """A content part that the model has no concept for, such as vLLM's ``video_url``."""

    dialect: Dialect
    kind: str
    body: dict[str, JSON]
    param: str = ""


Part = Text | Refusal | Image | Audio | File | OpaquePart


# --- items -----------------------------------------------------------------------------------


@final
class Message(msgspec.Struct):
    """Something said. ``name`` tells participants of one role apart; ``phase`` is Responses'."""

    role: Role
    parts: list[Part]
    id: str | None = None
    status: Status = Status.COMPLETED
    name: str | None = None
    phase: str | None = None
    extra: dict[str, JSON] = {}


@final
class Reasoning(msgspec.Struct):
    """The model's thoughts before the item that follows.

    ``content`` is raw reasoning, ``summary`` a digest of it, each as a list of texts;
    ``encrypted`` is a blob that only its issuer reads.
    """

    content: list[str] = []
    summary: list[str] = []
    encrypted: str | None = None
    id: str | None = None
    status: Status = Status.COMPLETED
    extra: dict[str, JSON] = {}


@final
class ToolCall(msgspec.Struct):
    """The model asks for a tool.

    ``arguments`` is the text that the model produced: JSON for functions, anything for custom
    tools. It may be invalid or cut, and is never re-encoded.
    """

    call_id: str
    name: str
    arguments: str
    kind: ToolKind = ToolKind.FUNCTION
    namespace: str | None = None
    id: str | None = None
    status: Status = Status.COMPLETED
    extra: dict[str, JSON] = {}


@final
class ToolResult(msgspec.Struct):
    """What a tool answered; matched to its call by ``call_id`` and by nothing else."""

    call_id: str
    parts: list[Part]
    kind: ToolKind = ToolKind.FUNCTION
    id: str | None = None
    extra: dict[str, JSON] = {}


@final
class Opaque(msgspec.Struct):
    """An item that the model has no concept for; ``param`` is its path in the caller's body."""

    dialect: Dialect
    kind: str
    body: dict[str, JSON]
    param: str = ""


Item = Message | Reasoning | ToolCall | ToolResult | Opaque


# --- tools -----------------------------------------------------------------------------------


@final
class FunctionTool(msgspec.Struct):
    """A function whose ``parameters`` are a JSON schema, ``None`` if it takes none."""

    name: str
    description: str | None = None
    parameters: JSON = None
    strict: bool | None = None
    namespace: str | None = None
    extra: dict[str, JSON] = {}
    kind: ToolKind = ToolKind.FUNCTION


@final
class CustomTool(msgspec.Struct):
    """A tool that takes free text; ``format`` is its grammar, flat as in Responses."""

    name: str
    description: str | None = None
    format: JSON = None
    namespace: str | None = None
    extra: dict[str, JSON] = {}


@final
class HostedTool(msgspec.Struct):
    """A tool that the upstream itself would run, such as web search; ``param`` is its path."""

    kind: str
    body: dict[str, JSON]
    param: str


Tool = FunctionTool | CustomTool | HostedTool


class ToolName(msgspec.Struct, frozen=True):
    """A function or custom tool that is called for by name."""

    name: str
    kind: ToolKind = ToolKind.FUNCTION
    namespace: str | None = None


class ToolChoice(msgspec.Struct, frozen=True):
    """Which tools may or must be called.

    ``mode`` is ``auto``, ``none`` or ``required``; ``tools`` limits it to those named. One tool
    and ``forced`` is a named choice. ``hosted`` holds a choice of a tool that the upstream runs.
    """

    mode: str = "auto"
    tools: tuple[ToolName, ...] | None = None
    forced: bool = False
    hosted: JSON = None


# --- request ---------------------------------------------------------------------------------


class OutputFormat(msgspec.Struct, frozen=True):
    """What the text must look like; ``kind`` is ``text``, ``json_object`` or ``json_schema``."""

    kind: str
    name: str | None = None
    schema: JSON = None
    strict: bool | None = None
    description: str | None = None


class Request(msgspec.Struct):
    """One generation.

    Attributes:
        model: Name by which the caller asks for the model.
        items: The conversation, oldest first; instructions are its leading system message.
        max_output_tokens: Limit in tokens, reasoning included.
        logprobs: Whether token log-probs are asked for; ``top_logprobs`` alternatives each.
        effort: Reasoning effort in the caller's word.
        knobs: Members of one name and meaning in all OpenAI dialects (``temperature``, ...).
        include_usage: Whether a Chat caller asked for the usage chunk of a stream.
        choices: How many answers a Chat caller wants to choose from.
        extra: Vendor members, forwarded to an upstream of the OpenAI family as they are.
        echo: What the caller's dialect repeats in its replies; only without it do ``metadata`` and
            ``store`` go to a Chat upstream.
    """

    model: str
    items: list[Item]
    tools: list[Tool] = []
    tool_choice: ToolChoice | None = None
    max_output_tokens: JSON = None
    logprobs: bool = False
    top_logprobs: JSON = None
    format: OutputFormat | None = None
    verbosity: JSON = None
    effort: JSON = None
    stream: bool = False
    include_usage: bool = False
    choices: int = 1
    metadata: JSON = None
    store: JSON = None
    knobs: dict[str, JSON] = {}
    extra: dict[str, JSON] = {}
    echo: dict[str, JSON] = {}


# --- reply -----------------------------------------------------------------------------------


class Usage(msgspec.Struct, frozen=True):
    """Token counts. Details that the upstream does not give are ``None``.

    ``cached`` and ``cache_write`` are part of ``input``, ``reasoning`` is part of ``output``.
    """

    input: int
    output: int
    total: int
    cached: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None


class Response(msgspec.Struct):
    """One reply.

    Attributes:
        id: The upstream's id.
        model: The upstream's name of the model.
        created: Unix time in seconds.
        output: Items in the order in which the model produced them.
        stop: Why the model stopped, ``None`` if it failed.
        raw_stop: The upstream's own word for ``stop``.
        error: Why the model failed.
        extra: Vendor members of the reply.
        alternatives: Further answers to the same request, without usage of their own.
    """

    id: str
    model: str
    created: int
    output: list[Item]
    stop: StopReason | None = None
    raw_stop: str | None = None
    usage: Usage | None = None
    error: ErrorInfo | None = None
    extra: dict[str, JSON] = {}
    alternatives: list["Response"] = []
