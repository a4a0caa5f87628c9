"""Arguments of earlier calls as templates can read them.

Chat templates parse them, and one broken call of the history would make an upstream refuse every
later turn.

Spec: Chat Completions, "messages", ``tool_calls``; Responses, ``input``, ``function_call``.
"""

import msgspec

from translators.canonical import Request, ToolCall, ToolKind
from translators.context import Context
from translators.wire import encode, is_object


def mend_arguments(request: Request, ctx: Context) -> Request:
    """Make empty arguments an empty object; wrap broken ones where the upstream parses them."""
    items = [_mend(item, ctx) if type(item) is ToolCall else item for item in request.items]
    return msgspec.structs.replace(request, items=items)


def _mend(call: ToolCall, ctx: Context) -> ToolCall:
    arguments = _mended(call, ctx)
    if arguments is call.arguments:
        return call
    return msgspec.structs.replace(call, arguments=arguments)


def _mended(call: ToolCall, ctx: Context) -> str:
    if call.kind is ToolKind.CUSTOM:
        return call.arguments
    if not call.arguments.strip():
        return "{}"
    if ctx.profile.parses_arguments and not is_object(call.arguments):
        ctx.lose("items", f"the arguments of call '{call.call_id}' are no JSON object")
        return encode({"_raw": call.arguments}).decode()
    return call.arguments
