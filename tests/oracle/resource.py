"""The Responses reply object as a strict type, written from the Open Responses specification.

Every member without a default has to be present; only those with ``| None`` may be null. Members
that the specification does not know are allowed.

Spec: Open Responses 2026-04-24, ``ResponseResource``, with OpenAI's custom and built-in
tool calls besides.
"""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from translators.wire import JSON


class TopLogProb(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]


class LogProb(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogProb]


class UrlCitation(msgspec.Struct):
    type: Literal["url_citation"]
    url: str
    title: str
    start_index: int
    end_index: int


class OutputText(msgspec.Struct, tag="output_text"):
    text: str
    annotations: list[UrlCitation]
    logprobs: list[LogProb]


class Refusal(msgspec.Struct, tag="refusal"):
    refusal: str


class SummaryText(msgspec.Struct, tag="summary_text"):
    text: str


class ReasoningText(msgspec.Struct, tag="reasoning_text"):
    text: str


Status = Literal["in_progress", "completed", "incomplete"]


class Message(msgspec.Struct, tag="message"):
    id: str
    status: Status
    role: Literal["assistant"]
    content: list[OutputText | Refusal]
    phase: Literal["commentary", "final_answer"] | UnsetType = UNSET


class FunctionCall(msgspec.Struct, tag="function_call"):
    id: str
    call_id: str
    name: str
    arguments: str
    status: Status
    namespace: str | UnsetType = UNSET


class CustomToolCall(msgspec.Struct, tag="custom_tool_call"):
    id: str
    call_id: str
    name: str
    input: str


class LocalShellCall(msgspec.Struct, tag="local_shell_call"):
    id: str
    call_id: str
    status: Status
    action: dict[str, JSON]


class ShellCall(msgspec.Struct, tag="shell_call"):
    id: str
    call_id: str
    status: Status
    action: dict[str, JSON]


class ApplyPatchCall(msgspec.Struct, tag="apply_patch_call"):
    id: str
    call_id: str
    status: Status
    operation: dict[str, JSON]


class ToolSearchCall(msgspec.Struct, tag="tool_search_call"):
    id: str
    call_id: str
    status: Status
    arguments: dict[str, JSON]
    execution: Literal["client", "server"]


class Reasoning(msgspec.Struct, tag="reasoning"):
    id: str
    summary: list[SummaryText]
    content: list[ReasoningText] | UnsetType = UNSET
    encrypted_content: str | UnsetType = UNSET


BuiltinCall = LocalShellCall | ShellCall | ApplyPatchCall | ToolSearchCall
Item = Message | FunctionCall | CustomToolCall | BuiltinCall | Reasoning


class InputDetails(msgspec.Struct):
    cached_tokens: int
    cache_write_tokens: int


class OutputDetails(msgspec.Struct):
    reasoning_tokens: int


class Usage(msgspec.Struct):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: InputDetails
    output_tokens_details: OutputDetails


class Failure(msgspec.Struct):
    code: str
    message: str


class IncompleteDetails(msgspec.Struct):
    reason: Literal["max_output_tokens", "content_filter"]


class TextFormat(msgspec.Struct, tag="text"):
    pass


class JSONObjectFormat(msgspec.Struct, tag="json_object"):
    pass


class JSONSchemaFormat(msgspec.Struct, tag="json_schema"):
    name: str
    description: str | None
    schema: dict[str, JSON] | None
    strict: bool


class TextOptions(msgspec.Struct):
    format: TextFormat | JSONObjectFormat | JSONSchemaFormat
    verbosity: Literal["low", "medium", "high"] | UnsetType = UNSET


class ReasoningOptions(msgspec.Struct):
    effort: str | None
    summary: str | None


class FunctionTool(msgspec.Struct):
    """Echo of a function tool; other kinds of tools are OpenAI's and not looked at."""

    name: str
    description: str | None
    parameters: dict[str, JSON] | None
    strict: bool | None


class NamedChoice(msgspec.Struct, tag="function"):
    name: str


class CustomChoice(msgspec.Struct, tag="custom"):
    name: str


class AllowedTools(msgspec.Struct, tag="allowed_tools"):
    mode: Literal["none", "auto", "required"]
    tools: list[JSON]


class Resource(msgspec.Struct):
    """All 31 members."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    incomplete_details: IncompleteDetails | None
    model: str
    previous_response_id: str | None
    instructions: str | list[JSON] | None
    output: list[Item]
    error: Failure | None
    tools: list[dict[str, JSON]]
    tool_choice: Literal["none", "auto", "required"] | dict[str, JSON]
    truncation: Literal["auto", "disabled"]
    parallel_tool_calls: bool
    text: TextOptions
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    temperature: float
    reasoning: ReasoningOptions | None
    usage: Usage | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    store: bool
    background: bool
    service_tier: str
    metadata: dict[str, str] | None
    safety_identifier: str | None
    prompt_cache_key: str | None


def check_resource(body: JSON) -> Resource:
    """Check a reply object and return it.

    Raises:
        AssertionError: It breaks the specification.
    """
    try:
        resource = msgspec.convert(body, Resource)
        for tool in resource.tools:
            if tool["type"] == "function":
                msgspec.convert(tool, FunctionTool)
        if isinstance(resource.tool_choice, dict):
            msgspec.convert(resource.tool_choice, NamedChoice | CustomChoice | AllowedTools)
    except msgspec.ValidationError as error:
        raise AssertionError(f"not a legal response: {error}") from error
    finished = resource.status == "completed"
    assert (resource.completed_at is not None) is finished
    assert (resource.incomplete_details is not None) is (resource.status == "incomplete")
    assert (resource.error is not None) is (resource.status == "failed")
    statuses = [item.status for item in resource.output if isinstance(item, Message | FunctionCall)]
    if finished:
        assert set(statuses) <= {"completed"}
    if resource.status == "incomplete":
        assert "incomplete" not in statuses[:-1], "only the last item may be incomplete"
    return resource
