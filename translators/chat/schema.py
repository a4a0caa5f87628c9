"""Wire objects of Chat Completions that we read.

``null`` counts as absent everywhere. Members that only travel are typed ``JSON``: the upstream
judges their values. Vendor members (``reasoning``, ``token_ids``) are those of vLLM and DeepSeek.
"""

import msgspec

from translators.wire import JSON

SIGNED = "extra_content"
"""Member of a tool call in which Google has the signature of the thoughts before it."""


class Function(msgspec.Struct):
    """``function`` of a tool call; ``arguments`` is text, though some servers send an object."""

    name: str | None = None
    arguments: JSON = None


class Custom(msgspec.Struct):
    """``custom`` of a tool call."""

    name: str
    input: str = ""


class ToolCall(msgspec.Struct):
    """An entry of ``tool_calls``."""

    id: str | None = None
    type: str | None = None
    function: Function | None = None
    custom: Custom | None = None
    extra_content: JSON = None


class Message(msgspec.Struct):
    """A message of a request or a reply."""

    role: str | None = None
    content: str | list[JSON] | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    function_call: Function | None = None
    audio: JSON = None
    annotations: list[JSON] | None = None


class ImageURL(msgspec.Struct):
    """``image_url`` of a content part."""

    url: str
    detail: str | None = None


class InputAudio(msgspec.Struct):
    """``input_audio`` of a content part."""

    data: str
    format: str


class FileData(msgspec.Struct):
    """``file`` of a content part."""

    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class ContentPart(msgspec.Struct):
    """A content part of any type that we know."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageURL | str | None = None
    input_audio: InputAudio | None = None
    file: FileData | None = None


class FunctionDefinition(msgspec.Struct):
    """``function`` of a tool."""

    name: str
    description: str | None = None
    parameters: JSON = None
    strict: bool | None = None


class CustomDefinition(msgspec.Struct):
    """``custom`` of a tool; a grammar format is nested in ``grammar``."""

    name: str
    description: str | None = None
    format: JSON = None


class Tool(msgspec.Struct):
    """An entry of ``tools``."""

    type: str = "function"
    function: FunctionDefinition | None = None
    custom: CustomDefinition | None = None


class JSONSchema(msgspec.Struct):
    """``response_format.json_schema``."""

    name: str = "response"
    description: str | None = None
    schema: JSON = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct):
    """``response_format``."""

    type: str
    json_schema: JSONSchema | None = None


class StreamOptions(msgspec.Struct):
    """``stream_options``."""

    include_usage: bool | None = None


class CreateChatCompletion(msgspec.Struct):
    """The request body, but for members that only travel."""

    model: str
    messages: list[JSON]
    tools: list[JSON] | None = None
    tool_choice: JSON = None
    functions: list[FunctionDefinition] | None = None
    function_call: JSON = None
    response_format: ResponseFormat | None = None
    max_completion_tokens: JSON = None
    max_tokens: JSON = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: JSON = None
    reasoning_effort: JSON = None
    verbosity: JSON = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    metadata: JSON = None
    store: JSON = None
    modalities: list[str] | None = None
    audio: JSON = None
    prediction: JSON = None
    web_search_options: JSON = None


class Logprobs(msgspec.Struct):
    """``logprobs`` of a choice."""

    content: list[dict[str, JSON]] | None = None
    refusal: list[dict[str, JSON]] | None = None


class FunctionDelta(msgspec.Struct):
    """``function`` of a call in a chunk; its members come in pieces."""

    name: str | None = None
    arguments: JSON = None


class CustomDelta(msgspec.Struct):
    """``custom`` of a call in a chunk."""

    name: str | None = None
    input: JSON = None


class ToolCallDelta(msgspec.Struct):
    """An entry of ``tool_calls`` in a chunk."""

    index: int | None = None
    id: str | None = None
    function: FunctionDelta | None = None
    custom: CustomDelta | None = None


class TextDelta(msgspec.Struct):
    """A content part in a chunk, which some servers send."""

    text: str | None = None


class Delta(msgspec.Struct):
    """``delta`` of a choice."""

    content: str | list[TextDelta] | None = None
    refusal: str | None = None
    tool_calls: list[ToolCallDelta] | None = None
    function_call: FunctionDelta | None = None
    annotations: list[dict[str, JSON]] | None = None


class ChunkChoice(msgspec.Struct):
    """An entry of ``choices`` in a chunk."""

    index: int | None = None
    delta: Delta | None = None
    message: Delta | None = None
    logprobs: Logprobs | None = None


class Chunk(msgspec.Struct):
    """The members of a chunk whose types matter to its reader."""

    id: str | None = None
    created: int | float | None = None
    model: str | None = None
    choices: list[ChunkChoice] | None = None


class Choice(msgspec.Struct):
    """An entry of ``choices`` in a whole reply."""

    index: int = 0
    message: JSON = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class ChatCompletion(msgspec.Struct):
    """A whole reply."""

    id: str | None = None
    object: JSON = None
    created: int | float | None = None
    model: str | None = None
    choices: list[JSON] | None = None
    usage: JSON = None


class PromptDetails(msgspec.Struct):
    """``usage.prompt_tokens_details``; vLLM says ``created_cache_tokens`` for cache writes."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    created_cache_tokens: int | None = None


class CompletionDetails(msgspec.Struct):
    """``usage.completion_tokens_details``."""

    reasoning_tokens: int | None = None


class Usage(msgspec.Struct):
    """``usage`` of a reply or of a stream's last chunk."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


class PlainMessage(Message, forbid_unknown_fields=True):
    """The message of a plain reply."""


class PlainChoice(msgspec.Struct, forbid_unknown_fields=True):
    """The only choice of a plain reply; the last members are vLLM's."""

    message: PlainMessage
    index: int = 0
    finish_reason: str | None = None
    logprobs: Logprobs | None = None
    stop_reason: None = None
    token_ids: None = None


class PlainCompletion(msgspec.Struct, forbid_unknown_fields=True):
    """A whole reply that has no room for what we have no name for; the last members are vLLM's."""

    choices: tuple[PlainChoice]
    id: str | None = None
    object: JSON = None
    created: int | float | None = None
    model: str | None = None
    usage: Usage | None = None
    service_tier: None = None
    system_fingerprint: None = None
    prompt_logprobs: None = None
    prompt_token_ids: None = None
    kv_transfer_params: None = None


KNOBS = frozenset(
    {
        "temperature",
        "top_p",
        "presence_penalty",
        "frequency_penalty",
        "parallel_tool_calls",
        "stop",
        "seed",
        "logit_bias",
        "service_tier",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "user",
    }
)
"""Request members whose name and meaning Chat shares with other OpenAI dialects."""
