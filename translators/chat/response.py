"""Whole replies of Chat Completions, both ways.

Spec: Chat Completions, "The chat completion object".
"""

from collections.abc import Mapping, Sequence

import msgspec

from translators.canonical import (
    Item,
    Message,
    Opaque,
    Reasoning,
    Refusal,
    Request,
    Response,
    Role,
    Status,
    StopReason,
    Text,
    ToolCall,
    ToolKind,
    Usage,
)
from translators.chat import schema
from translators.chat.content import part_thoughts, read_content
from translators.chat.freeform import unwrap
from translators.chat.grammars import text_as_call
from translators.chat.request import read_assistant
from translators.chat.usage import read_usage, usage_of, write_usage
from translators.context import Context
from translators.envelope import error_of, is_error
from translators.errors import UpstreamProtocolError
from translators.profiles import ChatReasoning, ThinkTags
from translators.think import split
from translators.token_ids import MEMBERS as TOKEN_MEMBERS
from translators.token_ids import carried, carry, read_token_ids
from translators.wire import JSON, UNREADABLE, extra_of, is_json, known_members, open_as

_REPLY_MEMBERS = known_members(schema.ChatCompletion)
_CHOICE_MEMBERS = known_members(schema.Choice)
_MESSAGE_MEMBERS = known_members(schema.Message) | TOKEN_MEMBERS
_NO_LOGPROBS = schema.Logprobs()
_decode_plain = msgspec.json.Decoder(schema.PlainCompletion).decode
_VENDOR_CHOICE_MEMBERS = frozenset({"stop_reason", "token_ids", "routed_experts"})

STOP_REASONS = {
    "stop": StopReason.STOP,
    "eos": StopReason.STOP,
    "end_turn": StopReason.STOP,
    "stop_sequence": StopReason.STOP,
    "length": StopReason.LENGTH,
    "max_tokens": StopReason.LENGTH,
    "model_length": StopReason.LENGTH,
    "repetition": StopReason.LENGTH,
    "tool_calls": StopReason.TOOL_CALLS,
    "function_call": StopReason.TOOL_CALLS,
    "tool_use": StopReason.TOOL_CALLS,
    "content_filter": StopReason.CONTENT_FILTER,
    "refusal": StopReason.CONTENT_FILTER,
    "safety": StopReason.CONTENT_FILTER,
}
"""What servers put into ``finish_reason``; any other word means that something went wrong."""

PARAMS = {
    "messages": "items",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "response_format": "format",
    "reasoning_effort": "effort",
}
"""Chat's request members -> canonical ones, where the names differ."""

WRITE_PARAMS = {canonical: name for name, canonical in reversed(PARAMS.items())}


def read_response(body: dict[str, JSON], ctx: Context) -> Response:
    """A Chat reply as a canonical one; its first choice is the reply.

    Raises:
        UpstreamProtocolError: The body breaks the schema or has no choice.
    """
    fault = UpstreamProtocolError
    if is_error(body, "choices"):
        error = error_of(body, 200, PARAMS)
        return Response("", "", int(ctx.now()), [], error=error)
    wire = open_as(schema.ChatCompletion, body, "", fault)
    if not wire.choices:
        raise fault("The upstream's reply has no choices.", param="choices")
    choice = open_as(schema.Choice, wire.choices[0], "choices[0]", fault)
    message = open_as(schema.Message, choice.message, "choices[0].message", fault)
    response = _response(wire, choice, message, choice.message, read_usage(wire.usage), ctx)
    response.extra = (
        extra_of(body, _REPLY_MEMBERS)
        | extra_of(wire.choices[0], _CHOICE_MEMBERS)
        | extra_of(choice.message, _MESSAGE_MEMBERS)
    )
    return response


def read_plain(body: bytes, ctx: Context) -> Response | None:
    """A reply without vendor members from its JSON text, ``None`` if it has to be read in full.

    It is decoded into types that have no room for more, so that nothing is overlooked. Saves a
    third of reading a reply of 1 KB.

    Raises:
        UpstreamProtocolError: It ended for no reason that is known.
    """
    try:
        wire = _decode_plain(body.decode())  # members of calls are passed over as bytes
    except UNREADABLE:
        return None
    choice = wire.choices[0]
    usage = None if wire.usage is None else usage_of(wire.usage)
    return _response(wire, choice, choice.message, {}, usage, ctx)


def _response(
    wire: schema.ChatCompletion | schema.PlainCompletion,
    choice: schema.Choice | schema.PlainChoice,
    message: schema.Message,
    vendor: Mapping[str, JSON],
    usage: Usage | None,
    ctx: Context,
) -> Response:
    """A reply of which all is known but vendor members, of which the message's may be needed."""
    output = _read_output(message, choice, ctx)
    if ctx.bound_tool is not None:
        output = text_as_call(output, ctx)
    carry(output[-1], read_token_ids(vendor, "choices[0].message", UpstreamProtocolError))
    stop = read_stop(choice.finish_reason, output)
    if was_cut(stop, output, usage, ctx):
        stop = StopReason.LENGTH
    last = output[-1]
    if stop is StopReason.LENGTH and isinstance(last, Message | Reasoning | ToolCall):
        last.status = Status.INCOMPLETE
    return Response(
        id=wire.id or ctx.new_id("chatcmpl"),
        model=wire.model or "",
        created=int(ctx.now() if wire.created is None else wire.created),
        output=output,
        stop=stop,
        raw_stop=choice.finish_reason,
        usage=usage,
    )


def think_tags(ctx: Context) -> ThinkTags:
    """Where to look for reasoning in the text; nowhere in one that a grammar binds throughout.

    Servers that leave reasoning in the text have no reasoning parser, so theirs bind it from the
    first token on.
    """
    return ctx.profile.think_tags if ctx.bound_tool is None else ThinkTags.OFF


def _read_output(
    message: schema.Message, choice: schema.Choice | schema.PlainChoice, ctx: Context
) -> list[Item]:
    fault = UpstreamProtocolError
    tags = think_tags(ctx)
    if tags is not ThinkTags.OFF and isinstance(message.content, str):
        is_open = tags is ThinkTags.OPENED
        thought, answer = split(message.content, is_open=is_open, is_json=ctx.wants_json)
        thought = (message.reasoning or message.reasoning_content or "") + thought
        message = msgspec.structs.replace(message, content=answer, reasoning=thought)
    if isinstance(message.content, list):
        thoughts, content = part_thoughts(message.content, ctx)
        thought = message.reasoning or message.reasoning_content or thoughts
        message = msgspec.structs.replace(message, content=content, reasoning=thought)
    items = read_assistant(message, "choices[0].message", fault)
    parts = read_content(message.content, "choices[0].message.content", fault)
    logprobs = choice.logprobs or _NO_LOGPROBS
    has_calls = any(isinstance(item, ToolCall) for item in items)
    text = "".join(part.text for part in parts if isinstance(part, Text))
    if not text or (has_calls and not text.strip() and not ctx.token_ids):
        parts = [part for part in parts if not isinstance(part, Text)]
    for part in parts:
        if isinstance(part, Text):
            part.logprobs = logprobs.content or []
            part.annotations = [flat_annotation(a) for a in message.annotations or ()]
            break
    if message.refusal:
        parts.append(Refusal(message.refusal, logprobs.refusal or []))
    if not parts and not items:
        parts.append(Text(""))
    if parts:
        first = items and isinstance(items[0], Reasoning)
        items.insert(1 if first else 0, Message(Role.ASSISTANT, parts))
    for item in items:
        if isinstance(item, ToolCall):
            restore_name(item, ctx)
    return items


def restore_name(call: ToolCall, ctx: Context) -> None:
    """Give a call from the upstream the name and kind by which the caller knows its tool."""
    tool = ctx.tool_names.restore(call.name)
    call.name, call.namespace = tool.name, tool.namespace
    if call.kind is ToolKind.FUNCTION:
        call.kind = tool.kind
        if tool.kind is ToolKind.CUSTOM:
            call.arguments = unwrap(call.arguments)
    if not call.call_id:
        call.call_id = ctx.new_id("call")


def read_stop(finish_reason: str | None, output: Sequence[Item]) -> StopReason:
    """Why the model stopped; a missing reason is inferred from the output.

    Raises:
        UpstreamProtocolError: The word means none of the known reasons, as vLLM's ``abort``.
    """
    if finish_reason is None:
        called = any(isinstance(item, ToolCall) for item in output)
        return StopReason.TOOL_CALLS if called else StopReason.STOP
    stop = STOP_REASONS.get(finish_reason)
    if stop is None:
        raise UpstreamProtocolError(
            f"The upstream ended the reply with finish_reason '{finish_reason}'.",
            param="choices[0].finish_reason",
        )
    return stop


def was_cut(stop: StopReason, output: Sequence[Item], usage: Usage | None, ctx: Context) -> bool:
    """Whether a call was cut by the token limit although the upstream says ``tool_calls``.

    vLLM reports so when a stream's limit falls into a call. Broken arguments alone prove
    nothing: a model may write them so.
    """
    if stop is not StopReason.TOOL_CALLS or usage is None or ctx.output_limit is None:
        return False
    last = output[-1] if output else None
    return (
        isinstance(last, ToolCall)
        and last.kind is ToolKind.FUNCTION
        and usage.output >= ctx.output_limit
        and not is_json(last.arguments)
    )


def flat_annotation(annotation: JSON) -> JSON:
    """A citation as Responses has it: the members of ``url_citation`` beside ``type``."""
    match annotation:
        case {"type": "url_citation" as kind, "url_citation": {**citation}}:
            return {"type": kind, **citation}
    return annotation


def nested_annotation(annotation: JSON) -> JSON:
    """A citation as Chat has it."""
    match annotation:
        case {"type": "url_citation", **rest} if "url_citation" not in rest:
            return {"type": "url_citation", "url_citation": rest}
    return annotation


def write_response(response: Response, request: Request, ctx: Context) -> dict[str, JSON]:
    """A canonical reply as a Chat one, each alternative as a choice.

    Vendor members of alternatives stand in their choices, unless the reply has the same.
    """
    extra, choice = split_extra(response.extra)
    choices = [_write_choice(0, response, choice, ctx)]
    for index, other in enumerate(response.alternatives, 1):
        own = {k: v for k, v in other.extra.items() if k not in extra or extra[k] != v}
        choices.append(_write_choice(index, other, own, ctx))
    body = {
        "id": response.id,
        "object": "chat.completion",
        "created": response.created,
        "model": ctx.public_model or response.model or request.model,
        "choices": choices,
    }
    if response.usage is not None:
        body["usage"] = write_usage(response.usage)
    return {**extra, **body}


def _write_choice(
    index: int, response: Response, extra: Mapping[str, JSON], ctx: Context
) -> dict[str, JSON]:
    message, logprobs = _write_message(response.output, ctx)
    return {
        **extra,
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": write_stop(response.stop, response.output),
    }


def split_extra(extra: Mapping[str, JSON]) -> tuple[dict[str, JSON], dict[str, JSON]]:
    """Vendor members of a reply: those of the reply itself, and those that vLLM has in choices."""
    choice = {name: extra[name] for name in extra if name in _VENDOR_CHOICE_MEMBERS}
    return {name: extra[name] for name in extra if name not in choice}, choice


def write_stop(stop: StopReason | None, output: Sequence[Item]) -> str:
    """``finish_reason``; a reply that calls tools says so, also where it merely stopped."""
    if stop is StopReason.STOP or stop is None:
        called = any(isinstance(item, ToolCall) for item in output)
        return StopReason.TOOL_CALLS.value if called else StopReason.STOP.value
    return stop.value


def _write_message(output: Sequence[Item], ctx: Context) -> tuple[JSON, JSON]:
    texts: list[str] = []
    refusals: list[str] = []
    thoughts: list[str] = []
    calls: list[JSON] = []
    annotations: list[JSON] = []
    logprobs: dict[str, list[JSON]] = {}
    extra: dict[str, JSON] = {}
    for item in output:
        extra |= carried(item)
        match item:
            case Reasoning():
                thoughts.append("\n".join(item.content or item.summary))
            case Message():
                extra |= item.extra
                for part in item.parts:
                    if isinstance(part, Text):
                        texts.append(part.text)
                        annotations += [nested_annotation(a) for a in part.annotations]
                        if part.logprobs:
                            logprobs.setdefault("content", []).extend(part.logprobs)
                    elif isinstance(part, Refusal):
                        refusals.append(part.text)
                        if part.logprobs:
                            logprobs.setdefault("refusal", []).extend(part.logprobs)
            case ToolCall():
                calls.append(write_call(item, ctx))
            case Opaque(kind=kind):
                ctx.lose("output", f"the upstream's item '{kind}' cannot be said")
    message: dict[str, JSON] = {
        "role": "assistant",
        "content": "".join(texts) if texts else None,
        "refusal": "".join(refusals) if refusals else None,
    }
    thought = "\n".join(filter(None, thoughts))
    if thought:
        message |= reasoning_members(thought, ctx)
    if annotations:
        message["annotations"] = annotations
    if calls:
        message["tool_calls"] = calls
    both = {"content": logprobs.get("content"), "refusal": logprobs.get("refusal")}
    return {**extra, **message}, both if logprobs else None


def reasoning_members(text: JSON, ctx: Context) -> Mapping[str, JSON]:
    """Reasoning under the member names that the operator chose for Chat callers."""
    match ctx.policy.chat_reasoning:
        case ChatReasoning.BOTH:
            return {"reasoning": text, "reasoning_content": text}
        case ChatReasoning() as name:
            return {name.value: text}


def write_call(call: ToolCall, ctx: Context) -> dict[str, JSON]:
    """An entry of ``tool_calls``."""
    signed = {name: call.extra[name] for name in (schema.SIGNED,) if name in call.extra}
    name = ctx.tool_names.flat(call.name, call.namespace)
    if call.kind is ToolKind.CUSTOM:
        custom = {"name": name, "input": call.arguments}
        return {"id": call.call_id, "type": "custom", "custom": custom, **signed}
    function = {"name": name, "arguments": call.arguments}
    return {"id": call.call_id, "type": "function", "function": function, **signed}
