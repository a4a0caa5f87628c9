"""Tool calls and their results, brought together as upstreams demand it.

An upstream refuses a call that is not followed at once by its result, and a result without a
call; a conversation that lost one of them, by compaction or a broken stream, would be refused for
ever. Calls and results belong together by ``call_id`` alone.
"""

from collections import deque
from collections.abc import Sequence

import msgspec

from translators.canonical import (
    Item,
    Message,
    Opaque,
    Reasoning,
    Request,
    Role,
    Text,
    ToolCall,
    ToolResult,
)
from translators.context import Context
from translators.errors import MalformedRequest
from translators.profiles import Orphans

NO_OUTPUT = "[no output recorded]"
"""What stands for the result of a call that has none."""


def pair_results(request: Request, ctx: Context) -> Request:
    """Put each result behind the turn of its call; make up for what is missing.

    A call without a result gets a placeholder, a result without a call becomes a labelled user
    message; both are recorded.

    Raises:
        MalformedRequest: Something is missing, and the operator wants that refused.
    """
    if _is_paired(request.items):
        return request
    return msgspec.structs.replace(request, items=_pair(request.items, ctx))


def _is_paired(items: Sequence[Item]) -> bool:
    """Whether nothing has to change, as is nearly always so."""
    open_calls: list[str] = []
    for item in items:
        if type(item) is ToolCall:
            open_calls.append(item.call_id)
        elif type(item) is ToolResult:
            if item.call_id not in open_calls:
                return False
            open_calls.remove(item.call_id)
        elif open_calls and type(item) is not Opaque:
            return False
    return not open_calls


def _pair(items: Sequence[Item], ctx: Context) -> list[Item]:
    results: dict[str, deque[ToolResult]] = {}
    for item in items:
        if isinstance(item, ToolResult):
            results.setdefault(item.call_id, deque()).append(item)
    called = {item.call_id for item in items if isinstance(item, ToolCall)}
    paired: list[Item] = []
    turn: list[ToolCall] = []
    for item in items:
        match item:
            case ToolCall():
                turn.append(item)
                paired.append(item)
            case Reasoning() | Message(role=Role.ASSISTANT):
                # Still the same turn, as far as its calls have no results yet.
                paired.append(item)
            case ToolResult():
                _answer(turn, results, paired, ctx)
                if item.call_id not in called or _is_left(item, results):
                    paired.append(_as_message(item, ctx))
            case _:
                _answer(turn, results, paired, ctx)
                paired.append(item)
    _answer(turn, results, paired, ctx)
    return paired


def _answer(
    turn: list[ToolCall],
    results: dict[str, deque[ToolResult]],
    paired: list[Item],
    ctx: Context,
) -> None:
    """End a turn: append the results of its calls."""
    for call in turn:
        found = results.get(call.call_id)
        if found:
            paired.append(found.popleft())
            continue
        what = f"the tool call '{call.call_id}' has no output"
        _note(what, ctx)
        paired.append(ToolResult(call.call_id, [Text(NO_OUTPUT)], call.kind))
    turn.clear()


def _is_left(result: ToolResult, results: dict[str, deque[ToolResult]]) -> bool:
    """Whether a result was not taken by a call before it; if so it is taken now."""
    left = results.get(result.call_id)
    if left and left[0] is result:
        left.popleft()
        return True
    return False


def _as_message(result: ToolResult, ctx: Context) -> Message:
    _note(f"the output of '{result.call_id}' has no tool call before it", ctx)
    label = Text(f"Output of tool call {result.call_id}, which was not asked for here:")
    return Message(Role.USER, [label, *result.parts])


def _note(what: str, ctx: Context) -> None:
    if ctx.policy.orphans is Orphans.REFUSE:
        raise MalformedRequest(f"{what[0].upper()}{what[1:]}.", param="items")
    ctx.lose("items", f"{what}; repaired")
