"""The prompt of a Completions request: text of our own, or what the upstream renders.

Spec: vLLM, "OpenAI-compatible server", "Tokenizer API"; ``TokenizeChatRequest``.
"""

from collections.abc import Mapping, Sequence

from translators.canonical import (
    Item,
    Message,
    Opaque,
    Refusal,
    Request,
    Role,
    Text,
    ToolResult,
)
from translators.chat.tools import write_tools
from translators.chat.turns import write_messages
from translators.completions import schema
from translators.context import Context
from translators.errors import UnsupportedFeature, UpstreamProtocolError
from translators.names import ToolNames
from translators.wire import JSON, open_as

RENDER_PATH = "/tokenize"
"""Below the server's root."""

TEMPLATE_MEMBERS = frozenset(
    {
        "messages",
        "tools",
        "chat_template",
        "chat_template_kwargs",
        "add_generation_prompt",
        "continue_final_message",
        "add_special_tokens",
        "documents",
        "mm_processor_kwargs",
        "media_io_kwargs",
        "required_prefix_token_ids",
    }
)
"""Members of a Chat request on which its prompt depends."""

_TEMPLATE_ONLY = TEMPLATE_MEMBERS - {"add_special_tokens"}  # which raw prompts know too

_RAW_ROLES = ((Role.USER,), (Role.SYSTEM, Role.USER), (Role.DEVELOPER, Role.USER))


def check_text(items: Sequence[Item]) -> None:
    """Make sure that a conversation is text.

    Raises:
        UnsupportedFeature: It has an image, audio, a file, or an item that we do not know.
    """
    for item in items:
        if isinstance(item, Opaque):
            raise UnsupportedFeature(
                f"An item of type '{item.kind}' cannot be told to a Completions upstream.",
                param=item.param,
            )
        for part in item.parts if isinstance(item, Message | ToolResult) else ():
            if not isinstance(part, Text | Refusal):
                raise UnsupportedFeature(
                    f"'{part.param}': a Completions upstream takes text only.", param=part.param
                )


def write_raw_prompt(request: Request, ctx: Context) -> str:
    """The texts of a user message and of the system message before it, parted by a blank line.

    Raises:
        UnsupportedFeature: There are other messages, or tools.
    """
    if write_tools(request, ToolNames(request.tools), ctx):
        raise UnsupportedFeature(
            "A raw prompt has no tools; only one that the upstream renders can have them.",
            param="tools",
        )
    messages = [item for item in request.items if isinstance(item, Message)]
    roles = tuple(message.role for message in messages)
    if roles not in _RAW_ROLES or len(messages) != len(request.items):
        raise UnsupportedFeature(
            "A raw prompt is one user message, after at most one system message; "
            "only one that the upstream renders can have more turns.",
            param="items",
        )
    if any(message.name is not None or message.extra for message in messages):
        ctx.lose("items", "a raw prompt has the messages' text only")
    texts = ("".join(p.text for p in m.parts if isinstance(p, Text)) for m in messages)
    return "\n\n".join(texts)


def write_conversation(request: Request, ctx: Context) -> dict[str, JSON]:
    """``messages``, ``tools`` and ``chat_template_kwargs``, to be rendered by the upstream.

    Calls in the model's text are not read, so that none can be asked for.

    Raises:
        UnsupportedFeature: A tool has to be called, or something cannot be said in Chat.
    """
    names = ctx.tool_names = ToolNames(request.tools)
    members: dict[str, JSON] = {"messages": write_messages(request.items, names, ctx)}
    tools = write_tools(request, names, ctx)
    is_forced = tools.get("tool_choice", "auto") not in ("auto", "none")
    if is_forced or ctx.bound_tool is not None:
        raise UnsupportedFeature(
            "A Completions upstream cannot be made to call a tool.", param="tool_choice"
        )
    if tools.get("parallel_tool_calls") is False:
        ctx.lose("parallel_tool_calls", "a Completions upstream does not count calls")
    if tools:
        members["tools"] = tools["tools"]
    arguments = _template_arguments(request, ctx)
    if arguments:
        members["chat_template_kwargs"] = arguments
    return members


def _template_arguments(request: Request, ctx: Context) -> JSON:
    """``chat_template_kwargs``, with the effort where vLLM's Chat endpoint would put it."""
    given = request.extra.get("chat_template_kwargs")
    if request.effort is None or not isinstance(given, dict | None):
        return given
    arguments = {**(given or {}), "reasoning_effort": request.effort}
    if ctx.profile.thinking_switch is not None:
        arguments.setdefault(ctx.profile.thinking_switch, request.effort != "none")
    return arguments


def without_template(members: Mapping[str, JSON], ctx: Context) -> dict[str, JSON]:
    """A request's members beside a raw prompt, for which no template is rendered."""
    for name in members:
        if name in _TEMPLATE_ONLY:
            ctx.lose(name, "a raw prompt has no template")
    return {name: value for name, value in members.items() if name not in _TEMPLATE_ONLY}


def ask_for_prompt(body: dict[str, JSON]) -> dict[str, JSON] | None:
    """The body that asks the upstream for a request's prompt, ``None`` if that is there."""
    if "messages" not in body:
        return None
    asked = {name: body[name] for name in body if name in TEMPLATE_MEMBERS or name == "model"}
    documents = asked.pop("documents", None)
    arguments = asked.get("chat_template_kwargs") or {}
    if documents is not None and isinstance(arguments, dict):
        asked["chat_template_kwargs"] = {**arguments, "documents": documents}
    return asked


def fill_prompt(body: dict[str, JSON], answer: dict[str, JSON]) -> dict[str, JSON]:
    """A request with the token ids of its prompt.

    Without a limit of its own it gets the rest of the model's context, as it would in Chat:
    Completions would end after 16 tokens.

    Raises:
        UpstreamProtocolError: The answer has no token ids.
    """
    tokenized = open_as(schema.Tokenized, answer, "", UpstreamProtocolError)
    filled = {name: value for name, value in body.items() if name not in TEMPLATE_MEMBERS}
    filled["prompt"] = tokenized.tokens
    rest = (tokenized.max_model_len or 0) - len(tokenized.tokens)
    if filled.get("max_tokens") is None and rest > 0:
        filled["max_tokens"] = rest
    return filled
