"""Items of Responses, both ways: what a conversation and a reply consist of.

Spec: Responses, "Create a model response", ``input`` items; "The response object", ``output``.
"""

from collections.abc import Callable, Sequence

from translators.canonical import (
    ROLE_NAMES,
    ROLES,
    Item,
    Message,
    Opaque,
    Reasoning,
    Status,
    ToolCall,
    ToolKind,
    ToolResult,
)
from translators.context import Context
from translators.dialect import Dialect
from translators.errors import (
    MalformedRequest,
    TranslationError,
    UnsupportedFeature,
    UpstreamProtocolError,
)
from translators.profiles import ReasoningAs
from translators.responses import builtin, schema
from translators.responses.content import read_content, write_input, write_output
from translators.wire import JSON, encode, extra_of, known_members, open_as

_CALL_PREFIXES = {
    ToolKind.CUSTOM: "ctc",
    ToolKind.LOCAL_SHELL: "lsh",
    ToolKind.SHELL: "sh",
    ToolKind.APPLY_PATCH: "apc",
    ToolKind.TOOL_SEARCH: "tsc",
}
_STATUSES: dict[str | None, Status] = {status.value: status for status in Status}
_STATUSES[None] = Status.COMPLETED
_RESULT_KINDS = {
    "function_call_output": ToolKind.FUNCTION,
    "custom_tool_call_output": ToolKind.CUSTOM,
}
_MESSAGE_MEMBERS = known_members(schema.Message)
_CALL_MEMBERS = known_members(schema.FunctionCall)
_OUTPUT_MEMBERS = known_members(schema.ToolCallOutput)


def read_item(body: JSON, path: str, fault: type[TranslationError] = MalformedRequest) -> Item:
    """One item of ``input`` or ``output``; without a type, what has a role is a message.

    Types that the model has no concept for become ``Opaque``.

    Raises:
        TranslationError: Of class ``fault``; the item breaks its schema.
    """
    if not isinstance(body, dict):
        raise fault(f"Invalid '{path}': expected an object.", param=path)
    kind = body.get("type") or ("message" if "role" in body else None)
    if not isinstance(kind, str):
        raise fault(f"Invalid '{path}': the item has neither a type nor a role.", param=path)
    read = _READERS.get(kind)
    if read is not None:
        return read(body, path, fault)
    if kind in builtin.BY_CALL:
        return builtin.read_call(builtin.BY_CALL[kind], body, path, fault)
    if kind in builtin.BY_OUTPUT:
        return builtin.read_output(builtin.BY_OUTPUT[kind], body, path)
    return Opaque(Dialect.RESPONSES, kind, body, path)


def read_output_item(body: JSON, path: str) -> Item:
    """One item of an upstream's reply; a function call without arguments has an empty object.

    Raises:
        UpstreamProtocolError: The item breaks its schema, or is a call without name or id.
    """
    item = read_item(body, path, UpstreamProtocolError)
    match item:
        case ToolCall(name="") | ToolCall(call_id=""):
            raise UpstreamProtocolError(
                f"Invalid '{path}': the call has no name or no call_id.", param=path
            )
        case ToolCall(kind=ToolKind.FUNCTION, status=Status.COMPLETED, arguments=arguments):
            item.arguments = arguments if arguments.strip() else "{}"
    return item


def _read_message(body: JSON, path: str, fault: type[TranslationError]) -> Message:
    wire = open_as(schema.Message, body, path, fault)
    role = ROLES.get(wire.role)
    if role is None:
        param = f"{path}.role"
        raise fault(
            f"Invalid '{param}': expected user, assistant, system or developer, not '{wire.role}'.",
            param=param,
        )
    return Message(
        role,
        read_content(wire.content, f"{path}.content", fault),
        wire.id,
        _STATUSES.get(wire.status) or Status.COMPLETED,
        wire.name,
        wire.phase,
        extra_of(body, _MESSAGE_MEMBERS),
    )


def _read_function_call(body: JSON, path: str, fault: type[TranslationError]) -> ToolCall:
    wire = open_as(schema.FunctionCall, body, path, fault)
    arguments = wire.arguments
    if not isinstance(arguments, str):
        arguments = "" if arguments is None else encode(arguments).decode()
    return ToolCall(
        wire.call_id,
        wire.name,
        arguments,
        namespace=wire.namespace,
        id=wire.id,
        status=_STATUSES.get(wire.status) or Status.COMPLETED,
        extra=extra_of(body, _CALL_MEMBERS),
    )


def _read_custom_call(body: JSON, path: str, fault: type[TranslationError]) -> ToolCall:
    wire = open_as(schema.CustomToolCall, body, path, fault)
    return ToolCall(
        wire.call_id,
        wire.name,
        wire.input,
        ToolKind.CUSTOM,
        wire.namespace,
        wire.id,
        _STATUSES.get(wire.status) or Status.COMPLETED,
    )


def _read_result(body: JSON, path: str, fault: type[TranslationError]) -> ToolResult:
    wire = open_as(schema.ToolCallOutput, body, path, fault)
    return ToolResult(
        wire.call_id,
        read_content(wire.output, f"{path}.output", fault),
        _RESULT_KINDS[body["type"]],
        wire.id,
        extra_of(body, _OUTPUT_MEMBERS),
    )


def _read_reasoning(body: JSON, path: str, fault: type[TranslationError]) -> Reasoning:
    wire = open_as(schema.ReasoningItem, body, path, fault)
    return Reasoning(
        [part.text for part in wire.content or ()],
        [part.text for part in wire.summary or ()],
        wire.encrypted_content,
        wire.id,
        _STATUSES.get(wire.status) or Status.COMPLETED,
    )


_READERS: dict[str, Callable[[JSON, str, type[TranslationError]], Item]] = {
    "message": _read_message,
    "function_call": _read_function_call,
    "function_call_output": _read_result,
    "custom_tool_call": _read_custom_call,
    "custom_tool_call_output": _read_result,
    "reasoning": _read_reasoning,
}
"""Readers of items by their ``type``."""


def write_input_items(items: Sequence[Item], ctx: Context) -> list[JSON]:
    """``input`` of a request to a Responses upstream.

    Raises:
        UnsupportedFeature: An item or part cannot be said in Responses.
    """
    written: list[JSON] = []
    for item in items:
        if type(item) is Message:
            if item.name is not None:
                ctx.lose("items", "Responses has no names of participants")
            content = write_input(item.parts, item.role) or ""
            message = {"type": "message", "role": ROLE_NAMES[item.role], "content": content}
            written.append({**item.extra, **message})
        elif type(item) is ToolCall:
            if item.extra:
                _lose_members(item.extra, ctx)
            written.append(_write_call_input(item, ctx))
        elif type(item) is ToolResult:
            if item.extra:
                _lose_members(item.extra, ctx)
            custom = item.kind is ToolKind.CUSTOM
            written.append(
                {
                    "type": "custom_tool_call_output" if custom else "function_call_output",
                    "call_id": item.call_id,
                    "output": write_input(item.parts) or "",
                }
            )
        elif type(item) is Reasoning:
            if ctx.profile.reasoning_field is None:
                ctx.lose("items", "the upstream takes no earlier reasoning")
            else:
                written.append(_write_reasoning_input(item, ctx))
        elif type(item) is Opaque:
            raise UnsupportedFeature(
                f"An item of type '{item.kind}' cannot be sent to a Responses upstream.",
                param=item.param,
            )
    return written


def _lose_members(extra: dict[str, JSON], ctx: Context) -> None:
    for name in extra:
        ctx.lose("items", f"'{name}' of calls and results has no place in Responses")


def _write_call_input(call: ToolCall, ctx: Context) -> JSON:
    """A call without ``id`` and ``status``, which nobody but its issuer gives it."""
    if call.kind in builtin.BY_KIND:
        written = builtin.write_call(builtin.BY_KIND[call.kind], call, "")
        return {name: v for name, v in written.items() if name not in ("id", "status")}
    is_custom = call.kind is ToolKind.CUSTOM
    kind = "custom_tool_call" if is_custom else "function_call"
    return {"type": kind, **_call_members(call, ctx)}


def _write_reasoning_input(item: Reasoning, ctx: Context) -> JSON:
    return {
        "type": "reasoning",
        "id": item.id or ctx.new_id("rs"),
        "summary": [{"type": "summary_text", "text": text} for text in item.summary],
        "content": [{"type": "reasoning_text", "text": text} for text in item.content],
    }


def assign_id(item: Item, ctx: Context) -> str:
    """Give an item of a reply its id, unless it has one; its prefix fits the type."""
    match item:
        case Message(id=None):
            item.id = ctx.new_id("msg")
        case Reasoning(id=None):
            item.id = ctx.new_id("rs")
        case ToolCall(id=None):
            item.id = ctx.new_id(_CALL_PREFIXES.get(item.kind, "fc"))
        case Opaque(body=body):
            return str(body.get("id"))
    return item.id or ""


def write_item(item: Item, ctx: Context) -> dict[str, JSON]:
    """One item of ``output``."""
    match item:
        case Message():
            body: dict[str, JSON] = {
                "id": assign_id(item, ctx),
                "type": "message",
                "status": item.status.value,
                "role": item.role.value,
                "content": [write_output(part, ctx) for part in item.parts],
            }
            if item.phase is not None:
                body["phase"] = item.phase
            return {**item.extra, **body}
        case Reasoning():
            return _write_reasoning(item, ctx)
        case ToolCall():
            return {**item.extra, **write_call(item, ctx)}
        case ToolResult():
            raise TypeError("a reply holds no tool results")
        case Opaque():
            return item.body


def write_call(call: ToolCall, ctx: Context) -> dict[str, JSON]:
    """A ``function_call``, ``custom_tool_call`` or built-in tool's call item."""
    if call.kind in builtin.BY_KIND:
        return builtin.write_call(builtin.BY_KIND[call.kind], call, assign_id(call, ctx))
    return {
        "id": assign_id(call, ctx),
        "type": "custom_tool_call" if call.kind is ToolKind.CUSTOM else "function_call",
        "status": call.status.value,
        **_call_members(call, ctx),
    }


def _call_members(call: ToolCall, ctx: Context) -> dict[str, JSON]:
    """What the model said, of a function's or custom tool's call."""
    members: dict[str, JSON] = {
        "call_id": call.call_id,
        "name": call.name,
        "input" if call.kind is ToolKind.CUSTOM else "arguments": call.arguments,
    }
    if call.namespace is not None:
        members["namespace"] = call.namespace
    if (call.namespace, call.name) in ctx.plain_tools:
        members["encrypted_function_args"] = []
    return members


def _write_reasoning(item: Reasoning, ctx: Context) -> dict[str, JSON]:
    """A reasoning item; raw reasoning goes where the operator wants it.

    The item has no status: some servers refuse one when the item is replayed.
    """
    as_summary = ctx.policy.reasoning_as is not ReasoningAs.CONTENT
    as_content = ctx.policy.reasoning_as is not ReasoningAs.SUMMARY
    summary = item.summary or (item.content if as_summary else [])
    body: dict[str, JSON] = {
        "id": assign_id(item, ctx),
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": text} for text in summary],
    }
    if as_content:
        body["content"] = [{"type": "reasoning_text", "text": text} for text in item.content]
    if item.encrypted is not None:
        body["encrypted_content"] = item.encrypted
    elif ctx.wants_sealed and ctx.seal is not None and any(item.content):
        item.encrypted = body["encrypted_content"] = ctx.seal.seal("\n".join(item.content))
    return {**item.extra, **body}
