"""What several agents of one client say to each other.

Codex marks parameters of its collaboration tools as encrypted: OpenAI gives it ciphertext there,
which only OpenAI can turn into text again, for the model of another agent. Other upstreams know no
such mark. For them it is taken off, and the calls say that nothing in them is encrypted, so that
the client hands the text on as text.

Spec: Responses (beta), "Create a model response", ``agent_message``; Codex, "multi_agent_v2".
"""

from collections.abc import Iterable

from translators.canonical import FunctionTool, Message, Opaque, Role, Text, Tool
from translators.context import Context
from translators.responses.content import read_content
from translators.wire import JSON

_MARK = "encrypted"


def take_marks_off(tools: Iterable[Tool], ctx: Context) -> None:
    """Take the mark off the tools' parameters; the context notes the tools that had one."""
    for tool in tools:
        if type(tool) is FunctionTool and isinstance(tool.parameters, dict):
            properties = tool.parameters.get("properties")
            if isinstance(properties, dict) and _marked(properties):
                plain = {name: _without_mark(schema) for name, schema in properties.items()}
                tool.parameters = {**tool.parameters, "properties": plain}
                ctx.plain_tools.add((tool.namespace, tool.name))


def _marked(properties: dict[str, JSON]) -> list[JSON]:
    return [s for s in properties.values() if isinstance(s, dict) and _MARK in s]


def _without_mark(schema: JSON) -> JSON:
    if not isinstance(schema, dict):
        return schema
    return {name: value for name, value in schema.items() if name != _MARK}


def read_agent_message(item: Opaque) -> Message:
    """An ``agent_message`` as a message of the user that names who wrote to whom.

    Encrypted content stays a part of its own, which no other upstream than its issuer takes.
    """
    author, recipient = item.body.get("author"), item.body.get("recipient")
    parts = read_content(item.body.get("content"), f"{item.param}.content")
    return Message(Role.USER, [Text(f"[message from {author} to {recipient}]"), *parts])
