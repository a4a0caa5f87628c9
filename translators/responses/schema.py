"""Wire objects of Responses that we read.

``null`` counts as absent everywhere, and ids and statuses of replayed items are optional, as
clients send them so.
"""

import msgspec

from translators.wire import JSON


class ContentPart(msgspec.Struct):
    """A content part of any type that we know, of input or output."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: JSON = None
    file_id: str | None = None
    file_url: str | None = None
    file_data: str | None = None
    filename: str | None = None
    detail: str | None = None
    input_audio: JSON = None
    annotations: list[JSON] | None = None
    logprobs: list[dict[str, JSON]] | None = None


class Message(msgspec.Struct):
    """A message; ``type`` may be absent."""

    role: str
    content: str | list[JSON] | None = None
    type: str | None = None
    id: str | None = None
    status: str | None = None
    phase: str | None = None
    name: str | None = None


class FunctionCall(msgspec.Struct):
    """``function_call``; ``arguments`` is text, though some clients replay an object."""

    call_id: str
    name: str
    arguments: JSON = None
    type: str | None = None
    id: str | None = None
    namespace: str | None = None
    status: str | None = None


class CustomToolCall(msgspec.Struct):
    """``custom_tool_call``."""

    call_id: str
    name: str
    input: str
    type: str | None = None
    id: str | None = None
    namespace: str | None = None
    status: str | None = None


class ToolCallOutput(msgspec.Struct):
    """``function_call_output`` and ``custom_tool_call_output``."""

    call_id: str
    output: JSON = None
    type: str | None = None
    id: str | None = None
    status: str | None = None


class ReasoningText(msgspec.Struct):
    """A part of a reasoning item's ``summary`` or ``content``."""

    text: str
    type: str | None = None


class ReasoningItem(msgspec.Struct):
    """``reasoning``."""

    summary: list[ReasoningText] | None = None
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None
    type: str | None = None
    id: str | None = None
    status: str | None = None


class AdditionalTools(msgspec.Struct):
    """``additional_tools``: tools that arrive as an input item."""

    tools: list[JSON]


class FunctionTool(msgspec.Struct):
    """A function tool; members that Chat nests in ``function`` are on top."""

    type: str
    name: str
    description: str | None = None
    parameters: JSON = None
    strict: bool | None = None
    defer_loading: bool | None = None


class CustomTool(msgspec.Struct):
    """A custom tool."""

    type: str
    name: str
    description: str | None = None
    format: JSON = None


class NamespaceTool(msgspec.Struct):
    """A named group of function and custom tools."""

    type: str
    name: str
    tools: list[JSON]
    description: str | None = None


class Tool(msgspec.Struct):
    """The discriminator of any tool."""

    type: str


class Format(msgspec.Struct):
    """``text.format``."""

    type: str
    name: str | None = None
    schema: JSON = None
    strict: bool | None = None
    description: str | None = None


class TextOptions(msgspec.Struct):
    """``text``."""

    format: Format | None = None
    verbosity: JSON = None


class ReasoningOptions(msgspec.Struct):
    """``reasoning``."""

    effort: JSON = None
    summary: JSON = None
    generate_summary: JSON = None


class ConfigurationUpdate(msgspec.Struct):
    """``configuration_update``: options that hold from here on."""

    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None


class CreateResponse(msgspec.Struct):
    """The request body, but for members that only travel."""

    model: str
    input: str | list[JSON] | None = None
    instructions: str | list[JSON] | None = None
    tools: list[JSON] | None = None
    tool_choice: JSON = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None
    max_output_tokens: JSON = None
    stream: bool | None = None
    store: bool | None = None
    metadata: JSON = None


class IncompleteDetails(msgspec.Struct):
    """``incomplete_details``."""

    reason: str | None = None


class Response(msgspec.Struct):
    """A whole reply."""

    id: str | None = None
    created_at: int | float | None = None
    model: str | None = None
    status: str | None = None
    output: list[JSON] | None = None
    error: JSON = None
    incomplete_details: IncompleteDetails | None = None
    usage: JSON = None


class ResponseHead(msgspec.Struct):
    """The members of a stream's ``response`` that are read from its first frame."""

    id: str | None = None
    created_at: int | float | None = None
    model: str | None = None
    output: list[JSON] | None = None


class StreamEvent(msgspec.Struct):
    """The members of stream events whose types matter to their reader."""

    output_index: int | None = None
    delta: str | None = None
    text: str | None = None
    refusal: str | None = None
    arguments: str | None = None
    input: str | None = None
    logprobs: list[dict[str, JSON]] | None = None
    response: ResponseHead | None = None


class PlainDelta(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A delta that brings nothing but its text; it has no room for more."""

    type: str
    delta: str
    output_index: int
    item_id: str | None = None
    content_index: int | None = None
    sequence_number: int | None = None
    logprobs: tuple[()] | None = None
    obfuscation: str | None = None


class InputDetails(msgspec.Struct):
    """``usage.input_tokens_details``."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class OutputDetails(msgspec.Struct):
    """``usage.output_tokens_details``."""

    reasoning_tokens: int | None = None


class Usage(msgspec.Struct):
    """``usage``."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    input_tokens_details: InputDetails | None = None
    output_tokens_details: OutputDetails | None = None


KNOBS = frozenset(
    {
        "temperature",
        "top_p",
        "presence_penalty",
        "frequency_penalty",
        "parallel_tool_calls",
        "service_tier",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "user",
    }
)
"""Request members whose name and meaning Responses shares with other OpenAI dialects."""
