"""``input`` of Responses requests: items, and the tools and options that arrive as items.

Spec: Responses, "Create a model response", ``input``.
"""

import msgspec

from translators.canonical import (
    HostedTool,
    Item,
    Message,
    Opaque,
    Reasoning,
    Role,
    Text,
    Tool,
    ToolKind,
)
from translators.context import Context
from translators.errors import MalformedRequest
from translators.responses import schema
from translators.responses.agents import read_agent_message, take_marks_off
from translators.responses.builtin import BY_KIND
from translators.responses.compaction import read_compaction, read_trigger
from translators.responses.history import is_readable, tell
from translators.responses.items import read_item
from translators.responses.tools import read_tools
from translators.token_ids import MEMBERS as TOKEN_MEMBERS
from translators.token_ids import carry, read_token_ids
from translators.wire import JSON, open_as

_FOUND_TOOLS = BY_KIND[ToolKind.TOOL_SEARCH].output
_ENCRYPTED = "encrypted_function_args"
_RARE = TOKEN_MEMBERS | {_ENCRYPTED, "tools"}
"""Members that few items have, so that one look suffices for the others."""


class Input(msgspec.Struct):
    """What a request's ``instructions``, ``input`` and ``tools`` come to.

    ``effort`` and ``verbosity`` are those of the last ``configuration_update`` item, if any.
    """

    items: list[Item] = []
    tools: list[Tool] = []
    effort: JSON = None
    verbosity: JSON = None


def read_input(wire: schema.CreateResponse, ctx: Context) -> Input:
    """Items and tools of a request.

    Raises:
        MalformedRequest: An item breaks its schema, or refers to one that is not there.
    """
    given = Input(tools=read_tools(wire.tools or ()))
    if isinstance(wire.instructions, str) and wire.instructions:
        given.items.append(Message(Role.SYSTEM, [Text(wire.instructions)]))
    elif isinstance(wire.instructions, list):
        given.items += [read_item(b, f"instructions[{i}]") for i, b in enumerate(wire.instructions)]
    if isinstance(wire.input, str):
        given.items.append(Message(Role.USER, [Text(wire.input)]))
    elif wire.input is not None:
        _read_items(wire.input, given, ctx)
    elif not given.items:
        raise MalformedRequest("Missing required parameter: 'input'.", param="input")
    given.tools = _latest(given.tools)
    take_marks_off(given.tools, ctx)
    _open_sealed(given.items, ctx)
    return given


def _read_items(bodies: list[JSON], given: Input, ctx: Context) -> None:
    by_id: dict[str, Item] = {}
    for i, body in enumerate(bodies):
        path = f"input[{i}]"
        item = read_item(body, path)
        has_rare = not _RARE.isdisjoint(body)
        if has_rare:
            carry(item, read_token_ids(body, path))
        if type(item) is Opaque and is_readable(item.kind):
            item = tell(body, ctx)
        if has_rare:
            _read_rare(body, path, given, ctx)
        item_id = body.get("id")
        if item_id is not None and isinstance(item_id, str):
            by_id.setdefault(item_id, item)
        if type(item) is Opaque:
            _take_opaque(item, given, by_id, ctx, is_last=i == len(bodies) - 1)
        else:
            given.items.append(item)


def _read_rare(body: dict[str, JSON], path: str, given: Input, ctx: Context) -> None:
    """Read what few items have besides token ids."""
    if body.get(_ENCRYPTED):
        ctx.lose(path, "arguments that are encrypted are sent, but only their issuer reads them")
    if body.get("type") == _FOUND_TOOLS:
        _add_tools(body, path, given)


def _take_opaque(
    item: Opaque, given: Input, by_id: dict[str, Item], ctx: Context, *, is_last: bool
) -> None:
    """Take an item that stands for tools, options, or other items."""
    match item.kind:
        case "additional_tools":
            _add_tools(item.body, item.param, given)
        case "configuration_update":
            _configure(item.body, item.param, given)
        case "agent_message":
            given.items.append(read_agent_message(item))
        case "compaction":
            given.items.append(read_compaction(item, ctx))
        case "compaction_trigger":
            given.items.append(read_trigger(item, is_last, ctx))
        case "item_reference":
            given.items.append(_referred(item, by_id))
        case _:
            given.items.append(item)


def _add_tools(body: dict[str, JSON], path: str, given: Input) -> None:
    found = open_as(schema.AdditionalTools, {"tools": [], **body}, path)
    given.tools += read_tools(found.tools, f"{path}.tools")


def _configure(body: dict[str, JSON], path: str, given: Input) -> None:
    update = open_as(schema.ConfigurationUpdate, body, path)
    if update.reasoning is not None and update.reasoning.effort is not None:
        given.effort = update.reasoning.effort
    if update.text is not None and update.text.verbosity is not None:
        given.verbosity = update.text.verbosity


def _referred(reference: Opaque, by_id: dict[str, Item]) -> Item:
    item = by_id.get(str(reference.body.get("id")))
    if item is None or isinstance(item, Opaque):
        raise MalformedRequest(
            "No item with this id is in the input, and none is stored here.",
            param=f"{reference.param}.id",
        )
    return item


def _latest(tools: list[Tool]) -> list[Tool]:
    """Tools without repetitions: what an item declares anew replaces what was declared before."""
    found: dict[object, Tool] = {}
    for i, tool in enumerate(tools):
        key = i if type(tool) is HostedTool else (tool.namespace, tool.name)
        found[key] = tool
    return list(found.values())


def _open_sealed(items: list[Item], ctx: Context) -> None:
    """Give reasoning that we sealed its raw text back; a foreign blob stays closed."""
    if ctx.seal is None:
        return
    for item in items:
        if type(item) is Reasoning and item.encrypted is not None and not item.content:
            text = ctx.seal.open(item.encrypted)
            if text is not None:
                item.content, item.encrypted = [text], None
