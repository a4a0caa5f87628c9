"""Tools, tool choice and output format of Responses requests, both ways.

Spec: Responses, "Create a model response", ``tools``, ``tool_choice``, ``text.format``.
"""

from collections.abc import Sequence

from translators.canonical import (
    CustomTool,
    FunctionTool,
    HostedTool,
    OutputFormat,
    Request,
    Tool,
    ToolChoice,
    ToolKind,
    ToolName,
)
from translators.errors import MalformedRequest
from translators.responses import schema
from translators.responses.builtin import BY_TOOL
from translators.responses.builtin import read_tool as read_builtin
from translators.wire import JSON, extra_of, known_members, open_as

_FUNCTION_MEMBERS = known_members(schema.FunctionTool)
_CUSTOM_MEMBERS = known_members(schema.CustomTool)


def read_tools(
    tools: Sequence[JSON], path: str = "tools", namespace: str | None = None
) -> list[Tool]:
    """Tools of a request, those of namespaces included; unknown types are hosted ones."""
    found: list[Tool] = []
    for i, body in enumerate(tools):
        found += _read_tool(body, f"{path}[{i}]", namespace)
    return found


def _read_tool(body: JSON, path: str, namespace: str | None) -> list[Tool]:
    if isinstance(body, dict) and body.get("type") == "function":
        return [_read_function(body, path, namespace)]
    kind = open_as(schema.Tool, body, path).type
    match kind:
        case "custom":
            custom = open_as(schema.CustomTool, body, path)
            extra = extra_of(body, _CUSTOM_MEMBERS)
            return [CustomTool(custom.name, custom.description, custom.format, namespace, extra)]
        case "namespace":
            group = open_as(schema.NamespaceTool, body, path)
            return read_tools(group.tools, f"{path}.tools", group.name)
    if kind == "tool_search" and body.get("execution") != "client":
        # The server would search among the deferred tools; here they are all offered at once.
        return []
    if kind in BY_TOOL:
        return [read_builtin(BY_TOOL[kind], body)]
    return [HostedTool(kind, body, path)]


def _read_function(body: dict[str, JSON], path: str, namespace: str | None) -> FunctionTool:
    if isinstance(body.get("function"), dict):
        body = {**body["function"], "type": "function"}
    wire = open_as(schema.FunctionTool, body, path)
    return FunctionTool(
        wire.name,
        wire.description,
        wire.parameters,
        wire.strict,
        namespace,
        extra_of(body, _FUNCTION_MEMBERS),
    )


def read_tool_choice(choice: JSON) -> ToolChoice | None:
    """A request's ``tool_choice``; a choice of a hosted tool is kept as it is."""
    match choice:
        case None:
            return None
        case "auto" | "none" | "required":
            return ToolChoice(choice)
        case {"type": "allowed_tools", "tools": list(tools), **rest}:
            names = tuple(_read_name(tool) for tool in tools)
            return ToolChoice(str(rest.get("mode", "auto")), names)
        case {"type": str(kind)} if kind in BY_TOOL:
            return ToolChoice("required", (ToolName(kind, BY_TOOL[kind].kind),), forced=True)
        case {"type": "function" | "custom"}:
            return ToolChoice("required", (_read_name(choice),), forced=True)
        case {"type": str()}:
            return ToolChoice("required", hosted=choice)
    raise MalformedRequest(
        "Invalid 'tool_choice': expected 'auto', 'none', 'required' or an object with a type.",
        param="tool_choice",
    )


def _read_name(body: JSON) -> ToolName:
    match body:
        case {"function": {"name": str(name)}}:
            return ToolName(name)
        case {"name": str(name)}:
            kind = ToolKind.CUSTOM if body.get("type") == "custom" else ToolKind.FUNCTION
            namespace = body.get("namespace")
            return ToolName(name, kind, namespace if isinstance(namespace, str) else None)
        case {"type": str(kind)}:
            return ToolName(kind, BY_TOOL[kind].kind if kind in BY_TOOL else ToolKind.FUNCTION)
    raise MalformedRequest("Invalid 'tool_choice': expected a tool's name.", param="tool_choice")


def write_tools(request: Request) -> dict[str, JSON]:
    """``tools`` and ``tool_choice`` of a request to a Responses upstream.

    ``strict`` is sent as false where the caller was silent: Responses would take silence for
    true, and a Chat caller's optional parameters would become required.
    """
    if not request.tools:
        return {}
    members: dict[str, JSON] = {"tools": [_write_tool(tool) for tool in request.tools]}
    if request.tool_choice is not None:
        members["tool_choice"] = _write_tool_choice(request.tool_choice)
    return members


def _write_tool(tool: Tool) -> JSON:
    if type(tool) is FunctionTool:
        body: dict[str, JSON] = {"type": "function", "name": tool.name}
        if tool.description is not None:
            body["description"] = tool.description
        body["parameters"] = tool.parameters or {"type": "object", "properties": {}}
        body["strict"] = bool(tool.strict)
        return {**tool.extra, **body}
    if type(tool) is CustomTool:
        members = {"description": tool.description, "format": tool.format}
        given = {name: value for name, value in members.items() if value is not None}
        return {**tool.extra, "type": "custom", "name": tool.name, **given}
    return tool.body


def _write_tool_choice(choice: ToolChoice) -> JSON:
    if choice.tools is None:
        return choice.mode
    names = [{"type": tool.kind.value, "name": tool.name} for tool in choice.tools]
    if choice.forced:
        return names[0]
    return {"type": "allowed_tools", "mode": choice.mode, "tools": names}


def echo_tool(tool: JSON) -> JSON:
    """A tool as the reply repeats it: of a function all members are there."""
    if tool.get("type") != "function" or "function" in tool:
        return tool
    return {"description": None, "parameters": None, "strict": None, **tool}


def read_format(text_format: schema.Format | None) -> OutputFormat | None:
    """A request's ``text.format``."""
    match text_format:
        case None:
            return None
        case schema.Format(type="json_schema"):
            return OutputFormat(
                "json_schema",
                text_format.name or "response",
                text_format.schema,
                text_format.strict,
                text_format.description,
            )
        case schema.Format(type="text" | "json_object" as kind):
            return OutputFormat(kind)
    param = "text.format.type"
    raise MalformedRequest(
        f"Invalid '{param}': expected 'text', 'json_object' or 'json_schema'.", param=param
    )


def write_format(output: OutputFormat) -> JSON:
    """``text.format``."""
    members = {
        "type": output.kind,
        "name": output.name,
        "description": output.description,
        "schema": output.schema,
        "strict": output.strict,
    }
    return {name: value for name, value in members.items() if value is not None}
