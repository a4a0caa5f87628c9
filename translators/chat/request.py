"""Requests of Chat Completions, both ways.

Spec: Chat Completions, "Create chat completion", request body.
"""

from translators.canonical import (
    ROLES,
    Item,
    Message,
    Part,
    Reasoning,
    Refusal,
    Request,
    Role,
    Text,
    ToolCall,
    ToolKind,
    ToolResult,
)
from translators.chat import schema
from translators.chat.content import read_content
from translators.chat.fates import REQUEST
from translators.chat.tools import (
    read_format,
    read_functions,
    read_tool_choice,
    read_tools,
    read_web_search,
    write_format,
    write_tools,
)
from translators.chat.turns import write_messages
from translators.context import Context
from translators.errors import MalformedRequest, TranslationError, UnsupportedFeature
from translators.fates import Fate, with_fate
from translators.names import ToolNames
from translators.token_ids import MEMBERS as TOKEN_MEMBERS
from translators.token_ids import carry
from translators.vendor import wants_json
from translators.wire import JSON, encode, extra_of, known_members, open_as

_REQUEST_MEMBERS = known_members(schema.CreateChatCompletion) | schema.KNOBS
_MESSAGE_MEMBERS = known_members(schema.Message)
# 'n' is refused by writers, since Completions upstreams take it.
_REFUSED = {name: why for name, why in with_fate(REQUEST, Fate.REFUSED).items() if name != "n"}
_LOST = with_fate(REQUEST, Fate.LOST)
_NEUTRAL: dict[str, JSON] = {"modalities": ["text"]}
"""Values of refused members that ask for nothing."""
_SILENCE = Text("")


def read_request(body: dict[str, JSON], ctx: Context) -> Request:
    """A Chat request as a canonical one.

    Raises:
        MalformedRequest: The body breaks the schema.
        UnsupportedFeature: It asks for audio output.
    """
    wire = open_as(schema.CreateChatCompletion, body, "")
    for name, why in _REFUSED.items():
        if body.get(name) not in (None, _NEUTRAL.get(name)):
            raise UnsupportedFeature(f"'{name}': {why}.", param=name)
    for name, why in _LOST.items():
        if body.get(name) is not None:
            ctx.lose(name, why)
    limit = wire.max_tokens if wire.max_completion_tokens is None else wire.max_completion_tokens
    options = wire.stream_options or schema.StreamOptions()
    return Request(
        model=wire.model,
        items=_read_messages(wire.messages, ctx),
        tools=[
            *read_tools(wire.tools or ()),
            *read_functions(wire.functions or ()),
            *read_web_search(wire.web_search_options),
        ],
        tool_choice=read_tool_choice(wire.tool_choice)
        or read_tool_choice(wire.function_call, "function_call"),
        max_output_tokens=limit,
        logprobs=bool(wire.logprobs),
        top_logprobs=wire.top_logprobs,
        format=read_format(wire.response_format),
        verbosity=wire.verbosity,
        effort=wire.reasoning_effort,
        stream=bool(wire.stream),
        include_usage=bool(options.include_usage),
        choices=1 if wire.n is None else wire.n,
        metadata=wire.metadata,
        store=wire.store,
        knobs={name: v for name, v in body.items() if name in schema.KNOBS and v is not None},
        extra=extra_of(body, _REQUEST_MEMBERS),
    )


def _read_messages(messages: list[JSON], ctx: Context) -> list[Item]:
    items: list[Item] = []
    kinds: dict[str, ToolKind] = {}
    for i, body in enumerate(messages):
        path = f"messages[{i}]"
        message = open_as(schema.Message, body, path)
        parts = read_content(message.content, f"{path}.content")
        extra = extra_of(body, _MESSAGE_MEMBERS)
        match message.role:
            case "assistant":
                turn = _read_turn(message, parts, extra, path, len(items), ctx)
                kinds.update([(x.call_id, x.kind) for x in turn if type(x) is ToolCall])
                items += turn
            case "tool":
                call_id = _required_call_id(message, path)
                kind = kinds.get(call_id) or ToolKind.FUNCTION
                items.append(ToolResult(call_id, parts, kind, extra=extra))
            case "system" | "developer" | "user" as role:
                items.append(Message(ROLES[role], parts, name=message.name, extra=extra))
            case "function":
                items.append(ToolResult(_last_call_id(items), parts, extra=extra))
            case other:
                param = f"{path}.role"
                raise MalformedRequest(
                    f"Invalid '{param}': expected system, developer, user, assistant or tool, "
                    f"not {other!r}.",
                    param=param,
                )
    return items


def _read_turn(
    message: schema.Message,
    parts: list[Part],
    extra: dict[str, JSON],
    path: str,
    place: int,
    ctx: Context,
) -> list[Item]:
    """The items of an assistant message, of which the first has this place among all."""
    if message.refusal is not None:
        parts.append(Refusal(message.refusal))
    if message.audio is not None:
        raise UnsupportedFeature(
            "Earlier audio answers cannot be translated.", param=f"{path}.audio"
        )
    items = read_assistant(message, path)
    for i, item in enumerate(items, place):
        if type(item) is ToolCall and not item.call_id:
            item.call_id = f"call_{i}"
    if items:  # many clients send "" with their calls
        parts = [part for part in parts if part != _SILENCE]
    if parts or not items:
        said = Message(Role.ASSISTANT, parts, name=message.name, extra=extra)
        items.insert(1 if items and type(items[0]) is Reasoning else 0, said)
    elif extra:
        carry(items[-1], {name: v for name, v in extra.items() if name in TOKEN_MEMBERS})
        for name in [name for name in extra if name not in TOKEN_MEMBERS]:
            ctx.lose(f"{path}.{name}", "no place for it in a turn that says nothing")
    return items


def _required_call_id(message: schema.Message, path: str) -> str:
    if message.tool_call_id is None:
        param = f"{path}.tool_call_id"
        raise MalformedRequest(f"Missing required parameter: '{param}'.", param=param)
    return message.tool_call_id


def read_assistant(
    message: schema.Message, path: str, fault: type[TranslationError] = MalformedRequest
) -> list[Item]:
    """Reasoning and tool calls of an assistant message, without what it says."""
    items: list[Item] = []
    reasoning = message.reasoning or message.reasoning_content
    if reasoning:
        items.append(Reasoning(content=[reasoning]))
    for i, call in enumerate(message.tool_calls or ()):
        items.append(_read_call(call, f"{path}.tool_calls[{i}]", fault))
    if message.function_call is not None and message.function_call.name is not None:
        arguments = read_arguments(message.function_call.arguments)
        items.append(ToolCall("", message.function_call.name, arguments))
    return items


def _read_call(call: schema.ToolCall, path: str, fault: type[TranslationError]) -> ToolCall:
    custom, function = call.custom, call.function
    extra = {} if call.extra_content is None else {schema.SIGNED: call.extra_content}
    if custom is not None:
        kind = ToolKind.CUSTOM
        return ToolCall(call.id or "", custom.name, custom.input, kind, extra=extra)
    if function is not None and function.name:
        arguments = read_arguments(function.arguments)
        return ToolCall(call.id or "", function.name, arguments, extra=extra)
    raise fault(f"Invalid '{path}': the call has no function name.", param=path)


def read_arguments(arguments: JSON) -> str:
    """Arguments as JSON text: an object is encoded, blank text is an empty object."""
    if arguments is None:
        return "{}"
    if not isinstance(arguments, str):
        return encode(arguments).decode()
    return arguments if arguments.strip() else "{}"


def _last_call_id(before: list[Item]) -> str:
    calls = (item.call_id for item in reversed(before) if type(item) is ToolCall)
    return next(calls, "call_function")


def write_request(request: Request, ctx: Context) -> dict[str, JSON]:
    """A canonical request as a Chat one.

    Members of ``extra`` go out as they are, but never replace one that we write.

    Raises:
        UnsupportedFeature: A tool or a content part cannot be said to this upstream, or several
            choices are asked for.
    """
    if request.choices != 1:
        raise UnsupportedFeature("'n': only one choice of a Chat upstream is read.", param="n")
    names = ctx.tool_names = ToolNames(request.tools)
    body: dict[str, JSON] = {
        "model": request.model,
        "messages": write_messages(request.items, names, ctx),
    }
    body |= request.knobs
    body.pop("parallel_tool_calls", None)  # it goes with the tools, if there are any
    body |= write_tools(request, names, ctx)
    if request.max_output_tokens is not None:
        if isinstance(request.max_output_tokens, int):
            ctx.output_limit = request.max_output_tokens
        body[ctx.profile.token_limit_field] = request.max_output_tokens
    if request.logprobs:
        body["logprobs"] = True
        if request.top_logprobs is not None:
            body["top_logprobs"] = request.top_logprobs
    ctx.wants_json = wants_json(request.extra)
    if request.format is not None and ctx.bound_tool is None:  # else the answer has no text
        ctx.wants_json |= request.format.kind != "text"
        body["response_format"] = write_format(request.format)
    if request.verbosity is not None:
        body["verbosity"] = request.verbosity
    if request.effort is not None:
        body["reasoning_effort"] = request.effort
    if request.stream:
        body["stream"] = True
        if ctx.profile.stream_usage:
            body["stream_options"] = {"include_usage": True}
    if not request.echo:  # else the reply repeats these, and nothing is stored
        if request.metadata is not None:
            body["metadata"] = request.metadata
        if request.store is not None:
            body["store"] = request.store
    for name in ctx.profile.refuses:
        if body.pop(name, None) is not None:
            ctx.lose(name, "the upstream refuses this member")
    return {**request.extra, **body}
