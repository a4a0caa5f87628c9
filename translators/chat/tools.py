"""Tools, tool choice and output format of Chat requests, both ways.

Spec: Chat Completions, "tools", "tool_choice", "response_format".
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
from translators.chat import schema
from translators.chat.freeform import as_function
from translators.chat.grammars import bind_grammar, structured_outputs
from translators.context import Context
from translators.errors import MalformedRequest, UnsupportedFeature
from translators.names import ToolNames
from translators.profiles import HostedTools
from translators.wire import JSON, extra_of, known_members, open_as

_TOOL_MEMBERS = known_members(schema.Tool)
_NO_PARAMETERS: JSON = {"type": "object", "properties": {}}


def read_tools(tools: Sequence[JSON]) -> list[Tool]:
    """Tools of a request; types other than ``function`` and ``custom`` are hosted ones."""
    return [_read_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools)]


def _read_tool(body: JSON, path: str) -> Tool:
    tool = open_as(schema.Tool, body, path)
    extra = extra_of(body, _TOOL_MEMBERS)
    function, custom = tool.function, tool.custom
    if tool.type == "function" and function is not None:
        return _read_function(function, extra)
    if tool.type == "custom" and custom is not None:
        return CustomTool(custom.name, custom.description, _flat_format(custom.format), extra=extra)
    if tool.type in ("function", "custom"):
        param = f"{path}.{tool.type}"
        raise MalformedRequest(f"Missing required parameter: '{param}'.", param=param)
    return HostedTool(tool.type, body, path)


def _read_function(function: schema.FunctionDefinition, extra: dict[str, JSON]) -> FunctionTool:
    return FunctionTool(
        function.name, function.description, function.parameters, function.strict, extra=extra
    )


def read_functions(functions: Sequence[schema.FunctionDefinition]) -> list[Tool]:
    """Tools of the retired ``functions`` member."""
    return [_read_function(function, {}) for function in functions]


def read_web_search(options: JSON) -> list[Tool]:
    """``web_search_options`` as the hosted tool that it stands for."""
    if not isinstance(options, dict):
        return []
    body = {"type": "web_search", **options}
    match options.get("user_location"):
        case {"type": str(kind), "approximate": {**place}}:
            body["user_location"] = {"type": kind, **place}
    return [HostedTool("web_search", body, "web_search_options")]


def _flat_format(custom_format: JSON) -> JSON:
    """A custom tool's format as Responses has it: the grammar's members beside ``type``."""
    match custom_format:
        case {"type": "grammar", "grammar": {**grammar}}:
            return {"type": "grammar", **grammar}
    return custom_format


def _nested_format(custom_format: JSON) -> JSON:
    match custom_format:
        case {"type": "grammar", **grammar} if "grammar" not in grammar:
            return {"type": "grammar", "grammar": grammar}
    return custom_format


def read_tool_choice(choice: JSON, path: str = "tool_choice") -> ToolChoice | None:
    """A request's ``tool_choice``, or the retired ``function_call``."""
    match choice:
        case None:
            return None
        case "auto" | "none" | "required":
            return ToolChoice(choice)
        case {"type": "allowed_tools", "allowed_tools": {"tools": list(tools), **rest}}:
            names = tuple(_read_name(tool, f"{path}.allowed_tools.tools") for tool in tools)
            return ToolChoice(str(rest.get("mode", "auto")), names)
        case {"type": "function" | "custom"} | {"name": _}:
            return ToolChoice("required", (_read_name(choice, path),), forced=True)
    raise MalformedRequest(
        f"Invalid '{path}': expected 'auto', 'none', 'required', a named tool or allowed_tools.",
        param=path,
    )


def _read_name(body: JSON, path: str) -> ToolName:
    match body:
        case {"type": "custom", "custom": {"name": str(name)}}:
            return ToolName(name, ToolKind.CUSTOM)
        case {"function": {"name": str(name)}} | {"name": str(name)}:
            return ToolName(name)
    raise MalformedRequest(f"Invalid '{path}': expected a tool's name.", param=path)


def write_tools(request: Request, names: ToolNames, ctx: Context) -> dict[str, JSON]:
    """``tools``, ``tool_choice`` and ``parallel_tool_calls`` of a request.

    Where no tool is left, none of them is sent: vLLM refuses an empty list and a choice without
    tools. An upstream that does not know ``allowed_tools`` is given the allowed ones alone. Where
    a grammar binds the answer, the tools are there to be read and ``structured_outputs`` is sent.

    Raises:
        UnsupportedFeature: A tool cannot be offered by this upstream.
    """
    choice = request.tool_choice
    if choice is not None and choice.hosted is not None:
        raise UnsupportedFeature(
            "The upstream cannot run the tool that has to be called.", param="tool_choice"
        )
    tools = _without_hosted(request.tools, ctx)
    if choice is not None and choice.tools is not None and not ctx.profile.allowed_tools:
        allowed = {(tool.namespace, tool.name) for tool in choice.tools}
        if not choice.forced:
            tools = [tool for tool in tools if (tool.namespace, tool.name) in allowed]
        elif not any((tool.namespace, tool.name) in allowed for tool in tools):
            raise MalformedRequest(
                f"Tool choice '{choice.tools[0].name}' is not among the tools.",
                param="tool_choice",
            )
    if not tools:
        if choice is not None and choice.mode == "required":
            raise MalformedRequest(
                "Tool choice 'required' needs at least one tool.", param="tool_choice"
            )
        return {}
    bound = None if ctx.profile.custom_tools else bind_grammar(request, tools, ctx)
    members: dict[str, JSON] = {"tools": [_write_tool(tool, names, ctx) for tool in tools]}
    if bound is not None:
        members["tool_choice"] = "none"
        members["structured_outputs"] = structured_outputs(bound)
    elif choice is not None:
        members["tool_choice"] = _write_tool_choice(choice, len(tools), names, ctx)
    if "parallel_tool_calls" in request.knobs:
        members["parallel_tool_calls"] = request.knobs["parallel_tool_calls"]
    return members


def _without_hosted(tools: Sequence[Tool], ctx: Context) -> list[FunctionTool | CustomTool]:
    sayable: list[FunctionTool | CustomTool] = []
    for tool in tools:
        if type(tool) is not HostedTool:
            sayable.append(tool)
        elif ctx.policy.hosted_tools is HostedTools.DROP:
            ctx.lose(tool.param, f"the upstream cannot run the tool '{tool.kind}'")
        else:
            raise UnsupportedFeature(
                f"The upstream cannot run the tool '{tool.kind}'; "
                "only function tools can be offered.",
                param=tool.param,
            )
    return sayable


def _write_tool(tool: FunctionTool | CustomTool, names: ToolNames, ctx: Context) -> JSON:
    for member in tool.extra:
        ctx.lose("tools", f"'{member}' of the tool '{tool.name}' has no place in Chat")
    name = names.flat(tool.name, tool.namespace)
    if type(tool) is FunctionTool:
        return {"type": "function", "function": _write_function(tool, name)}
    if ctx.profile.custom_tools:
        return {"type": "custom", "custom": _write_custom(tool, name)}
    is_bound = ctx.bound_tool == ToolName(tool.name, ToolKind.CUSTOM, tool.namespace)
    return {"type": "function", "function": as_function(tool, name, is_bound=is_bound)}


def _write_function(tool: FunctionTool, name: str) -> dict[str, JSON]:
    function: dict[str, JSON] = {"name": name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = _NO_PARAMETERS if tool.parameters is None else tool.parameters
    if tool.strict is not None:
        function["strict"] = tool.strict
    return function


def _write_custom(tool: CustomTool, name: str) -> dict[str, JSON]:
    custom: dict[str, JSON] = {"name": name}
    if tool.description is not None:
        custom["description"] = tool.description
    if tool.format is not None:
        custom["format"] = _nested_format(tool.format)
    return custom


def _write_tool_choice(choice: ToolChoice, offered: int, names: ToolNames, ctx: Context) -> JSON:
    if choice.tools is None:
        return choice.mode
    if choice.forced:
        return _write_name(choice.tools[0], names, ctx)
    if ctx.profile.allowed_tools:
        allowed = [_write_name(tool, names, ctx) for tool in choice.tools]
        return {
            "type": "allowed_tools",
            "allowed_tools": {"mode": choice.mode, "tools": allowed},
        }
    if choice.mode == "required" and offered == 1:
        return _write_name(choice.tools[0], names, ctx)
    return choice.mode


def _write_name(tool: ToolName, names: ToolNames, ctx: Context) -> JSON:
    is_custom = tool.kind is ToolKind.CUSTOM and ctx.profile.custom_tools
    kind = (ToolKind.CUSTOM if is_custom else ToolKind.FUNCTION).value
    return {"type": kind, kind: {"name": names.flat(tool.name, tool.namespace)}}


def read_format(response_format: schema.ResponseFormat | None) -> OutputFormat | None:
    """A request's ``response_format``."""
    match response_format:
        case None:
            return None
        case schema.ResponseFormat(type="json_schema", json_schema=schema.JSONSchema() as nested):
            return OutputFormat(
                "json_schema", nested.name, nested.schema, nested.strict, nested.description
            )
        case schema.ResponseFormat(type="text" | "json_object" as kind):
            return OutputFormat(kind)
    param = "response_format"
    raise MalformedRequest(
        f"Invalid '{param}': expected type 'text', 'json_object' or 'json_schema'.", param=param
    )


def write_format(output: OutputFormat) -> JSON:
    """``response_format``."""
    if output.kind != "json_schema":
        return {"type": output.kind}
    members = {
        "name": output.name,
        "description": output.description,
        "schema": output.schema,
        "strict": output.strict,
    }
    nested = {name: value for name, value in members.items() if value is not None}
    return {"type": "json_schema", "json_schema": nested}
