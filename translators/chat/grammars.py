"""Custom tools whose grammar binds what the model writes, on upstreams that know functions only.

An upstream's structured outputs bind the text of an answer, not the text inside a function's
arguments. Where a custom tool with a grammar has to be called, the model is therefore asked for
the tool's text alone, and the text of the answer is the call's input. Elsewhere a grammar is told
in the tool's description and no more.

Spec: Responses, "tools", ``custom``, ``format``; vLLM, "Structured outputs".
"""

from collections.abc import Sequence

from translators.canonical import (
    CustomTool,
    Item,
    Message,
    Request,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolKind,
    ToolName,
)
from translators.codec import StreamReader
from translators.context import Context
from translators.errors import MalformedRequest, UpstreamProtocolError
from translators.events import (
    AnnotationAdded,
    ArgumentsDelta,
    Event,
    ItemStart,
    RefusalDelta,
    TextDelta,
)
from translators.sse import Frame
from translators.wire import JSON

_MEMBERS = {"lark": "grammar", "regex": "regex"}
"""Syntax of a custom tool's grammar -> member of ``structured_outputs``."""


def read_grammar(tool: CustomTool) -> tuple[str, str] | None:
    """Syntax (``lark`` or ``regex``) and definition of a tool's grammar, ``None`` if it has none.

    Raises:
        MalformedRequest: The format is neither free text nor such a grammar.
    """
    match tool.format:
        case None | {"type": "text"}:
            return None
        case {"type": "grammar", "definition": str(text), **rest}:
            syntax = rest.get("syntax", "lark")
            if isinstance(syntax, str) and syntax in _MEMBERS:
                return syntax, text
    raise MalformedRequest(
        f"Invalid format of the tool '{tool.name}': expected type 'text', or type 'grammar' with "
        "a 'definition' and the syntax 'lark' or 'regex'.",
        param="tools",
    )


def bind_grammar(request: Request, tools: Sequence[Tool], ctx: Context) -> CustomTool | None:
    """The tool whose grammar binds the answer, ``None`` if there is no such tool.

    The context notes it for the reply. Grammars of other tools that the model may call are
    recorded as lost.

    Args:
        request: A request for an upstream without custom tools.
        tools: Those of its tools that are offered.
        ctx: The exchange.
    """
    grammars = [t for t in tools if isinstance(t, CustomTool) and read_grammar(t) is not None]
    if not grammars:
        return None
    choice = request.tool_choice or ToolChoice()
    callable_ = [tool for tool in grammars if _may_be_called(tool, choice)]
    is_only = choice.forced or (choice.mode == "required" and len(tools) == 1)
    can_bind = ctx.profile.structured_outputs and "structured_outputs" not in request.extra
    if is_only and callable_ and can_bind:
        tool = callable_[0]
        ctx.bound_tool = ToolName(tool.name, ToolKind.CUSTOM, tool.namespace)
        return tool
    for tool in callable_:
        ctx.lose("tools", f"the grammar of '{tool.name}' is told in its description only")
    return None


def _may_be_called(tool: CustomTool, choice: ToolChoice) -> bool:
    if choice.mode == "none":
        return False
    return choice.tools is None or any(
        (name.namespace, name.name) == (tool.namespace, tool.name) for name in choice.tools
    )


def structured_outputs(tool: CustomTool) -> JSON:
    """The member ``structured_outputs`` that binds an answer to a tool's grammar."""
    grammar = read_grammar(tool)
    assert grammar is not None
    syntax, definition = grammar
    return {_MEMBERS[syntax]: definition}


def text_as_call(output: list[Item], ctx: Context) -> list[Item]:
    """The items of a reply whose text is the input of the bound tool."""
    turned: list[Item] = []
    for item in output:
        if isinstance(item, Message) and all(isinstance(part, Text) for part in item.parts):
            text = "".join(part.text for part in item.parts if isinstance(part, Text))
            turned.append(_begin_call(text, ctx))
        else:
            turned.append(item)
    return turned


def _begin_call(text: str, ctx: Context) -> ToolCall:
    tool = ctx.bound_tool
    assert tool is not None
    return ToolCall(ctx.new_id("call"), tool.name, text, ToolKind.CUSTOM, tool.namespace)


class BoundReader(StreamReader):
    """Reads a stream whose text is the input of the bound tool: its messages become calls."""

    def __init__(self, reader: StreamReader, ctx: Context) -> None:
        """Make a reader for one stream out of one that reads the text as a message."""
        self._reader = reader
        self._ctx = ctx
        self._message: ItemStart | None = None
        self._call_index: int | None = None

    def feed(self, frame: Frame) -> list[Event]:
        """Events of one frame.

        Raises:
            UpstreamProtocolError: The frame breaks the dialect's schema, or refuses in the middle
                of the tool's input.
        """
        return self._turn(self._reader.feed(frame))

    def finish(self) -> list[Event]:
        """Events of the end of the bytes; a failure if the stream is not whole."""
        return self._turn(self._reader.finish())

    def _turn(self, events: list[Event]) -> list[Event]:
        return [turned for event in events for turned in self._turn_one(event)]

    def _turn_one(self, event: Event) -> list[Event]:
        match event:
            case ItemStart(item=Message()):
                self._message = event  # held back until it says or refuses something
                return []
            case TextDelta(index=index, text=text) if self._message is not None:
                self._message, self._call_index = None, index
                return [ItemStart(index, _begin_call("", self._ctx)), *_more(index, text)]
            case TextDelta(index=index, text=text) if index == self._call_index:
                return _more(index, text)
            case RefusalDelta() if self._message is not None:
                message, self._message = self._message, None
                return [message, event]
            case RefusalDelta(index=index) if index == self._call_index:
                raise UpstreamProtocolError("The upstream refused in the middle of a tool's input.")
            case AnnotationAdded(index=index) if index == self._call_index:
                return []
        return [event]


def _more(index: int, text: str) -> list[Event]:
    return [ArgumentsDelta(index, text)] if text else []
