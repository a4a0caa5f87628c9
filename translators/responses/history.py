"""What hosted tools did earlier, as text that any model can read.

The upstream can neither run such tools nor read their items, but a hole in the conversation would
make the model repeat or contradict what was done.

Spec: Responses, "Create a model response", ``input`` items of hosted tools.
"""

import re

from translators.canonical import Image, Message, Part, Role, Text
from translators.context import Context
from translators.wire import JSON, encode

_LONGEST = 20_000
_DATA = re.compile(r'(?<!\\)"data:[^\s",]+;base64,[^"\\]*"')
"""Images and files within what tools answered: a model cannot read them as text."""
_CALLS: dict[str, tuple[str, tuple[str, ...]]] = {
    "web_search_call": ("a web search was run", ("action",)),
    "file_search_call": ("a file search was run", ("queries", "results")),
    "code_interpreter_call": ("code was run", ("code", "outputs")),
    "image_generation_call": ("an image was generated", ("revised_prompt", "error")),
    "computer_call": ("an action on a computer was asked for", ("action", "actions")),
    "mcp_list_tools": ("an MCP server listed its tools", ("server_label", "tools", "error")),
    "mcp_call": (
        "a tool of an MCP server was called",
        ("server_label", "name", "arguments", "output", "error"),
    ),
    "mcp_approval_request": (
        "a call of an MCP tool waits for approval",
        ("server_label", "name", "arguments"),
    ),
    "program": ("a program was run", ("code",)),
    "program_output": ("the program ended", ("result", "status")),
}
_ANSWERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "mcp_approval_response": ("the call of an MCP tool was decided on", ("approve", "reason")),
    "computer_call_output": ("the computer's screen after the action", ()),
}


def is_readable(kind: str) -> bool:
    """Whether items of this type can be told as text."""
    return kind in _CALLS or kind in _ANSWERS


def tell(body: dict[str, JSON], ctx: Context) -> Message:
    """An item as a message: of the assistant for what was called, of the user for answers.

    Data that is left out, and text that is cut, are recorded as lost.
    """
    kind = body["type"]
    is_call = kind in _CALLS
    what, members = _CALLS[kind] if is_call else _ANSWERS[kind]
    told = {name: body[name] for name in members if body.get(name) is not None}
    details, images = _DATA.subn('"(data left out)"', encode(told).decode())
    if (
        images
        or len(details) > _LONGEST
        or (kind == "image_generation_call" and body.get("result"))
    ):
        ctx.lose("items", f"an item '{kind}' is told without its data, and cut if it is long")
    text = f"[{what}: {details[:_LONGEST]}]" if told else f"[{what}]"
    parts: list[Part] = [Text(text)]
    match body.get("output"):
        case {"image_url": str(url)} if kind == "computer_call_output":
            parts.append(Image(url=url))
    return Message(Role.ASSISTANT if is_call else Role.USER, parts)
