"""Requests of Responses, both ways.

Spec: Responses, "Create a model response", request body.
"""

from translators.canonical import (
    HostedTool,
    Item,
    Message,
    Opaque,
    Reasoning,
    Request,
    Role,
    Text,
    Tool,
    ToolKind,
    ToolResult,
)
from translators.context import Context
from translators.errors import MalformedRequest, UnsupportedFeature
from translators.responses import schema
from translators.responses.items import read_item, write_input_items
from translators.responses.tools import (
    echo_tool,
    read_format,
    read_tool_choice,
    read_tools,
    write_format,
    write_tools,
)
from translators.wire import JSON, extra_of, known_members, open_as

_LOGPROBS = "message.output_text.logprobs"
_SEALED = "reasoning.encrypted_content"
_NEEDS_STATE = {
    "previous_response_id": "No response is stored here; send the whole conversation as input.",
    "conversation": "No conversation is stored here; send the whole conversation as input.",
    "prompt": "No prompt template is stored here; send its text as instructions.",
    "background": "Background mode needs a store, which this server has not.",
}
_WITHOUT_EFFECT = {
    "access_programs": "no such program at this upstream",
    "background_options": "no background mode",
    "context_management": "the context is never compacted",
    "image": "no image compression",
    "moderation": "no moderation",
}
_CONSUMED = frozenset({"truncation", "max_tool_calls", "stream_options", "client_metadata"})
_KNOWN = (
    known_members(schema.CreateResponse) | _NEEDS_STATE.keys() | _WITHOUT_EFFECT.keys() | _CONSUMED
)
_CHAT_SAMPLING = {
    "stop": "a Responses upstream cannot stop at strings",
    "seed": "no place for it in Responses",
    "logit_bias": "no place for it in Responses",
    "presence_penalty": "no place for it in Responses",
    "frequency_penalty": "no place for it in Responses",
}


def read_request(body: dict[str, JSON], ctx: Context) -> Request:
    """A Responses request as a canonical one.

    ``instructions`` become the leading system message.

    Raises:
        MalformedRequest: The body breaks the schema.
        UnsupportedFeature: It needs state that is not kept here.
    """
    wire = open_as(schema.CreateResponse, body, "")
    for name, why in _NEEDS_STATE.items():
        if body.get(name):
            raise UnsupportedFeature(why, param=name)
    include = wire.include or []
    _record_losses(body, include, ctx)
    items, tools = _read_input(wire)
    _open_sealed(items, ctx)
    extra = extra_of(body, _KNOWN)
    knobs = {name: extra.pop(name) for name in schema.KNOBS & extra.keys()}
    text = wire.text or schema.TextOptions()
    reasoning = wire.reasoning or schema.ReasoningOptions()
    wants_logprobs = _LOGPROBS in include or bool(wire.top_logprobs)
    return Request(
        model=wire.model,
        items=items,
        tools=tools,
        tool_choice=read_tool_choice(wire.tool_choice),
        max_output_tokens=wire.max_output_tokens,
        logprobs=wants_logprobs,
        top_logprobs=wire.top_logprobs if wants_logprobs else None,
        format=read_format(text.format),
        verbosity=text.verbosity,
        effort=reasoning.effort,
        stream=bool(wire.stream),
        include_usage=True,
        metadata=wire.metadata,
        store=wire.store,
        knobs=knobs,
        extra=extra,
        echo=_echo(body, wire, knobs),
    )


def _record_losses(body: dict[str, JSON], include: list[str], ctx: Context) -> None:
    for name, why in _WITHOUT_EFFECT.items():
        if body.get(name):
            ctx.lose(name, why)
    if body.get("truncation") == "auto":
        ctx.lose("truncation", "the context is never cut")
    if _SEALED in include and ctx.seal is not None:
        ctx.wants_sealed = True
        include = [value for value in include if value != _SEALED]
    if any(value != _LOGPROBS for value in include):
        ctx.lose("include", "only log-probs and encrypted reasoning can be included")


def _read_input(wire: schema.CreateResponse) -> tuple[list[Item], list[Tool]]:
    items: list[Item] = []
    by_id: dict[str, Item] = {}
    tools = read_tools(wire.tools or ())
    if isinstance(wire.instructions, str) and wire.instructions:
        items.append(Message(Role.SYSTEM, [Text(wire.instructions)]))
    elif isinstance(wire.instructions, list):
        items += [read_item(b, f"instructions[{i}]") for i, b in enumerate(wire.instructions)]
    if isinstance(wire.input, str):
        items.append(Message(Role.USER, [Text(wire.input)]))
        return items, tools
    for i, body in enumerate(wire.input):
        item = read_item(body, f"input[{i}]")
        if isinstance(body.get("id"), str):
            by_id[body["id"]] = item
        match item:
            case Opaque(kind="additional_tools", param=path):
                more = open_as(schema.AdditionalTools, body, path)
                tools += read_tools(more.tools, f"{path}.tools")
            case Opaque(kind="item_reference", param=path):
                items.append(_referred(body, by_id, path))
            case ToolResult(kind=ToolKind.TOOL_SEARCH):
                found = open_as(schema.AdditionalTools, {"tools": [], **body}, f"input[{i}]")
                tools += read_tools(found.tools, f"input[{i}].tools")
                items.append(item)
            case _:
                items.append(item)
    return items, _latest(tools)


def _open_sealed(items: list[Item], ctx: Context) -> None:
    """Give reasoning that we sealed its raw text back; a foreign blob stays closed."""
    if ctx.seal is None:
        return
    for item in items:
        if isinstance(item, Reasoning) and item.encrypted is not None and not item.content:
            text = ctx.seal.open(item.encrypted)
            if text is not None:
                item.content, item.encrypted = [text], None


def _referred(body: dict[str, JSON], by_id: dict[str, Item], path: str) -> Item:
    item = by_id.get(body.get("id") or "")
    if item is None or isinstance(item, Opaque):
        raise MalformedRequest(
            "No item with this id is in the input, and none is stored here.", param=f"{path}.id"
        )
    return item


def _latest(tools: list[Tool]) -> list[Tool]:
    """Tools without repetitions: what an item declares anew replaces what was declared before."""
    found: dict[object, Tool] = {}
    for i, tool in enumerate(tools):
        key = i if isinstance(tool, HostedTool) else (tool.namespace, tool.name)
        found[key] = tool
    return list(found.values())


def _echo(
    body: dict[str, JSON], wire: schema.CreateResponse, knobs: dict[str, JSON]
) -> dict[str, JSON]:
    """What a reply repeats of its request, with the API's defaults for what it left out.

    ``store`` is false whatever was asked for: nothing is stored.
    """
    given = {name: value for name, value in body.items() if value is not None}
    text = dict(given.get("text") or {})
    text = {name: value for name, value in text.items() if value is not None}
    text.setdefault("format", {"type": "text"})
    reasoning = given.get("reasoning")
    if reasoning is not None:
        reasoning = {"effort": None, "summary": None, **reasoning}
    choice = given.get("tool_choice", "auto")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        choice = {"mode": "auto", **choice}
    tier = knobs.get("service_tier")
    return {
        "instructions": given.get("instructions"),
        "max_output_tokens": given.get("max_output_tokens"),
        "max_tool_calls": given.get("max_tool_calls"),
        "metadata": given.get("metadata", {}),
        "parallel_tool_calls": knobs.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "prompt_cache_key": given.get("prompt_cache_key"),
        "reasoning": reasoning,
        "safety_identifier": given.get("safety_identifier"),
        "service_tier": "default" if tier in (None, "auto") else tier,
        "store": False,
        "background": False,
        "temperature": knobs.get("temperature", 1.0),
        "text": text,
        "tool_choice": choice,
        "tools": [echo_tool(tool) for tool in wire.tools or ()],
        "top_logprobs": wire.top_logprobs or 0,
        "top_p": knobs.get("top_p", 1.0),
        "presence_penalty": knobs.get("presence_penalty", 0.0),
        "frequency_penalty": knobs.get("frequency_penalty", 0.0),
        "truncation": given.get("truncation", "disabled"),
        "user": given.get("user"),
    }


def write_request(request: Request, ctx: Context) -> dict[str, JSON]:
    """A canonical request as a Responses one, which the upstream is told not to store.

    Raises:
        UnsupportedFeature: An item, part or option cannot be said in Responses.
    """
    if request.n != 1:
        raise UnsupportedFeature("A Responses upstream gives one choice only.", param="n")
    body: dict[str, JSON] = {
        "model": request.model,
        "input": write_input_items(request.items, ctx),
        "store": bool(request.store),
    }
    body |= _write_knobs(request, ctx)
    body |= write_tools(request)
    if request.max_output_tokens is not None:
        body["max_output_tokens"] = _limit(request.max_output_tokens, ctx)
    if request.logprobs:
        body["include"] = [_LOGPROBS]
        body["top_logprobs"] = request.top_logprobs or 0
    text = {}
    if request.format is not None:
        text["format"] = write_format(request.format)
    if request.verbosity is not None:
        text["verbosity"] = request.verbosity
    if text:
        body["text"] = text
    if request.effort is not None:
        body["reasoning"] = {"effort": request.effort}
    if request.metadata is not None:
        body["metadata"] = request.metadata
    if request.stream:
        body["stream"] = True
    for name in ctx.profile.refuses:
        if body.pop(name, None) is not None:
            ctx.lose(name, "the upstream refuses this member")
    return {**request.extra, **body}


def _write_knobs(request: Request, ctx: Context) -> dict[str, JSON]:
    knobs = dict(request.knobs)
    if not request.tools:
        knobs.pop("parallel_tool_calls", None)
    if ctx.profile.sampling_extras:
        return knobs
    for name, why in _CHAT_SAMPLING.items():
        value = knobs.pop(name, None)
        if value and name == "stop":
            raise UnsupportedFeature(f"'stop': {why}.", param=name)
        if value:
            ctx.lose(name, why)
    return knobs


def _limit(limit: JSON, ctx: Context) -> JSON:
    minimum = ctx.profile.minimum_output_tokens
    if isinstance(limit, int) and limit < minimum:
        ctx.lose("max_output_tokens", f"raised to {minimum}, the upstream's minimum")
        return minimum
    return limit
