"""Tools that Responses names by their type, run by the client: shells, patches, tool search.

On a chat model each is a function, and its calls come back as the items that the client knows.
Their arguments are the JSON of the item's own member (``action``, ``operation``, ``arguments``).

Spec: Responses, "tools": ``local_shell``, ``shell``, ``apply_patch``, ``tool_search``, and the
items of their calls and outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass

from translators.canonical import FunctionTool, Part, Status, Text, ToolCall, ToolKind, ToolResult
from translators.errors import MalformedRequest, TranslationError, UpstreamProtocolError
from translators.names import flatten
from translators.wire import JSON, decode, encode


@dataclass(frozen=True)
class Builtin:
    """One such tool.

    Attributes:
        kind: Its kind; the value is the tool's ``type`` and the function's name.
        call: ``type`` of its call items.
        output: ``type`` of its output items.
        member: Member of a call item that holds what the model asks for.
        description: What the model is told of it.
        parameters: JSON schema of the function's arguments.
        complete: Makes the member's value of the model's arguments, whatever they are.
        read_output: Makes the text for the model of an output item.
        can_be_cut: Whether a call item's status may be ``incomplete``.
    """

    kind: ToolKind
    call: str
    output: str
    member: str
    description: str
    parameters: JSON
    complete: Callable[[JSON], JSON]
    read_output: Callable[[JSON], str]
    can_be_cut: bool = True


def _local_action(value: JSON) -> JSON:
    members = value if isinstance(value, dict) else {}
    raw = [value] if isinstance(value, str) and value else []
    command = members.get("command", raw)
    if isinstance(command, str):
        command = ["bash", "-lc", command]
    return {**members, "type": "exec", "command": command, "env": members.get("env") or {}}


def _shell_action(value: JSON) -> JSON:
    members = value if isinstance(value, dict) else {}
    raw = [value] if isinstance(value, str) and value else []
    commands = members.get("commands", raw)
    commands = [commands] if isinstance(commands, str) else commands
    limits = {"max_output_length": None, "timeout_ms": None}
    return {**limits, **members, "commands": commands}


def _operation(value: JSON) -> JSON:
    if isinstance(value, dict):
        inner = value.get("operation")
        return inner if isinstance(inner, dict) else {"type": "update_file", "path": "", **value}
    return {"type": "update_file", "path": "", "diff": value if isinstance(value, str) else ""}


def _search_arguments(value: JSON) -> JSON:
    return value if isinstance(value, dict) else {}


def _local_output(body: JSON) -> str:
    return str(body.get("output") or "")


def _shell_output(body: JSON) -> str:
    """The outputs of all commands: what they wrote, and how they ended."""
    output = body.get("output")
    if isinstance(output, str):
        return output
    texts = []
    for one in output if isinstance(output, list) else ():
        if not isinstance(one, dict):
            continue
        both = (one.get("stdout"), one.get("stderr"))
        texts += [text for text in both if isinstance(text, str) and text]
        match one.get("outcome"):
            case {"type": "exit", "exit_code": code}:
                texts.append(f"[exit code {code}]")
            case {"type": "timeout"}:
                texts.append("[timed out]")
    return "\n".join(text.rstrip("\n") for text in texts)


def _patch_output(body: JSON) -> str:
    status, output = body.get("status") or "completed", body.get("output")
    return f"{status}: {output}" if output else str(status)


def _search_output(body: JSON) -> str:
    found = ", ".join(_callable_names(body.get("tools"), None))
    return f"Tools that can be called now: {found}" if found else "No tools were found."


def _callable_names(tools: JSON, namespace: str | None) -> list[str]:
    """Names of tools, those inside namespaces included, as a chat model knows them."""
    names: list[str] = []
    for tool in tools if isinstance(tools, list) else ():
        match tool:
            case {"type": "namespace", "name": str(name), "tools": inner}:
                names += _callable_names(inner, name)
            case {"name": str(name)}:
                names.append(flatten(name, namespace))
    return names


def _object(required: list[str], **properties: JSON) -> JSON:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


_STRINGS: JSON = {"type": "array", "items": {"type": "string"}}

BUILTINS = (
    Builtin(
        kind=ToolKind.LOCAL_SHELL,
        call="local_shell_call",
        output="local_shell_call_output",
        member="action",
        description="Runs a command on the user's machine and returns its output.",
        parameters=_object(
            ["command"],
            command={**_STRINGS, "description": "The command and its arguments."},
            working_directory={"type": "string"},
            env={"type": "object", "additionalProperties": {"type": "string"}},
            timeout_ms={"type": "integer"},
        ),
        complete=_local_action,
        read_output=_local_output,
    ),
    Builtin(
        kind=ToolKind.SHELL,
        call="shell_call",
        output="shell_call_output",
        member="action",
        description="Runs shell commands and returns their outputs.",
        parameters=_object(
            ["commands"],
            commands={**_STRINGS, "description": "Command lines, run one after the other."},
            timeout_ms={"type": "integer"},
            max_output_length={"type": "integer"},
        ),
        complete=_shell_action,
        read_output=_shell_output,
    ),
    Builtin(
        kind=ToolKind.APPLY_PATCH,
        call="apply_patch_call",
        output="apply_patch_call_output",
        member="operation",
        description="Creates, updates or deletes one file.",
        parameters=_object(
            ["type", "path"],
            type={"type": "string", "enum": ["create_file", "update_file", "delete_file"]},
            path={"type": "string"},
            diff={
                "type": "string",
                "description": "V4A diff; for a new file each line begins with '+'. "
                "Left out when a file is deleted.",
            },
        ),
        complete=_operation,
        read_output=_patch_output,
        can_be_cut=False,
    ),
    Builtin(
        kind=ToolKind.TOOL_SEARCH,
        call="tool_search_call",
        output="tool_search_output",
        member="arguments",
        description="Searches for more tools; those found can be called afterwards.",
        parameters=_object(["query"], query={"type": "string"}),
        complete=_search_arguments,
        read_output=_search_output,
    ),
)
BY_KIND = {builtin.kind: builtin for builtin in BUILTINS}
BY_TOOL = {builtin.kind.value: builtin for builtin in BUILTINS}
BY_CALL = {builtin.call: builtin for builtin in BUILTINS}
BY_OUTPUT = {builtin.output: builtin for builtin in BUILTINS}


def read_tool(builtin: Builtin, body: dict[str, JSON]) -> FunctionTool:
    """A tool of a request as a function; its own description and schema win."""
    return FunctionTool(
        builtin.kind.value,
        body.get("description") or builtin.description,
        body.get("parameters") or builtin.parameters,
        kind=builtin.kind,
    )


def read_call(
    builtin: Builtin,
    body: dict[str, JSON],
    path: str,
    fault: type[TranslationError] = MalformedRequest,
) -> ToolCall:
    """A call item.

    Raises:
        TranslationError: Of class ``fault``; the item has no id, or misses its member.
    """
    call_id = body.get("call_id") or body.get("id")
    value = body.get(builtin.member)
    if not isinstance(call_id, str) or value is None:
        missing = "call_id" if value is not None else builtin.member
        param = f"{path}.{missing}"
        raise fault(f"Missing required parameter: '{param}'.", param=param)
    arguments = encode(_asked(builtin, value)).decode()
    return ToolCall(call_id, builtin.kind.value, arguments, builtin.kind, id=body.get("id"))


def _asked(builtin: Builtin, value: JSON) -> JSON:
    """What the model itself had said: the members of its function, without empty ones."""
    known = builtin.parameters["properties"]
    if builtin.kind is ToolKind.TOOL_SEARCH or not isinstance(value, dict):
        return value
    return {name: v for name, v in value.items() if name in known and v not in (None, {})}


def read_output(builtin: Builtin, body: dict[str, JSON], path: str) -> ToolResult:
    """An output item; ``local_shell_call_output`` names its call in ``id``.

    Raises:
        MalformedRequest: The item names no call.
    """
    call_id = body.get("call_id") or body.get("id")
    if not isinstance(call_id, str):
        param = f"{path}.call_id"
        raise MalformedRequest(f"Missing required parameter: '{param}'.", param=param)
    parts: list[Part] = [Text(builtin.read_output(body))]
    return ToolResult(call_id, parts, builtin.kind, body.get("id"))


def write_call(builtin: Builtin, call: ToolCall, item_id: str) -> dict[str, JSON]:
    """A call item; arguments that are not what the member should hold are made to fit."""
    status = call.status
    if status is Status.INCOMPLETE and not builtin.can_be_cut:
        status = Status.COMPLETED
    body: dict[str, JSON] = {
        "id": item_id,
        "type": builtin.call,
        "status": status.value,
        "call_id": call.call_id,
        builtin.member: builtin.complete(_parse(call.arguments)),
    }
    if builtin.kind is ToolKind.TOOL_SEARCH:
        body["execution"] = "client"
    return body


def _parse(arguments: str) -> JSON:
    try:
        return decode(arguments.encode("utf-8", "replace"), UpstreamProtocolError)
    except UpstreamProtocolError:
        return arguments
