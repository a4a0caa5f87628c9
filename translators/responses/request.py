"""Requests of Responses, both ways.

Spec: Responses, "Create a model response", request body.
"""

from translators.canonical import Request
from translators.context import Context
from translators.errors import UnsupportedFeature
from translators.fates import Fate, with_fate
from translators.responses import schema
from translators.responses.compaction import without_tools
from translators.responses.fates import REQUEST
from translators.responses.inputs import read_input
from translators.responses.items import write_input_items
from translators.responses.tools import (
    echo_tool,
    read_format,
    read_tool_choice,
    write_format,
    write_tools,
)
from translators.wire import JSON, extra_of, open_as

_LOGPROBS = "message.output_text.logprobs"
_SEALED = "reasoning.encrypted_content"
_NEUTRAL = {"n": 1}
"""Values of refused members that ask for nothing."""
_REFUSED = with_fate(REQUEST, Fate.REFUSED)
_LOST = with_fate(REQUEST, Fate.LOST)
_KNOWN = frozenset(REQUEST)
_ECHOED: dict[str, JSON] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": None,
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": None,
    "safety_identifier": None,
    "service_tier": "default",
    "store": None,
    "background": None,
    "temperature": 1.0,
    "text": None,
    "tool_choice": "auto",
    "tools": None,
    "top_logprobs": 0,
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "truncation": "disabled",
    "user": None,
}
"""Members that a reply repeats, in the order in which it does, with the API's defaults."""
_STATELESS: dict[str, JSON] = {"previous_response_id": None, "store": False, "background": False}
"""What replies say of these, whatever was asked for: nothing is stored."""
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
    if not _REFUSED.keys().isdisjoint(body):
        _refuse(body)
    include = wire.include or []
    _record_losses(body, include, ctx)
    given = read_input(wire, ctx)
    knobs = {name: v for name, v in body.items() if name in schema.KNOBS and v is not None}
    text = wire.text or schema.TextOptions()
    reasoning = wire.reasoning or schema.ReasoningOptions()
    wants_logprobs = _LOGPROBS in include or bool(wire.top_logprobs)
    request = Request(
        model=wire.model,
        items=given.items,
        tools=given.tools,
        tool_choice=read_tool_choice(wire.tool_choice),
        max_output_tokens=wire.max_output_tokens,
        logprobs=wants_logprobs,
        top_logprobs=wire.top_logprobs if wants_logprobs else None,
        format=read_format(text.format),
        verbosity=given.verbosity or text.verbosity,
        effort=given.effort or reasoning.effort,
        stream=bool(wire.stream),
        include_usage=True,
        metadata=wire.metadata,
        store=wire.store,
        knobs=knobs,
        extra=extra_of(body, _KNOWN),
        echo=_echo(body, wire),
    )
    return without_tools(request) if ctx.compacts else request


def _refuse(body: dict[str, JSON]) -> None:
    for name, why in _REFUSED.items():
        if body.get(name) not in (None, False, "", _NEUTRAL.get(name)):
            raise UnsupportedFeature(f"'{name}': {why}.", param=name)


def _record_losses(body: dict[str, JSON], include: list[str], ctx: Context) -> None:
    if not _LOST.keys().isdisjoint(body):
        for name, why in _LOST.items():
            if body.get(name):
                ctx.lose(name, why)
    reasoning = body.get("reasoning") or {}
    if reasoning.get("context") == "current_turn":
        ctx.lose("reasoning.context", "reasoning of all turns is kept")
    if reasoning.get("mode") == "pro":
        ctx.lose("reasoning.mode", "the upstream has one mode")
    if body.get("truncation") == "auto":
        ctx.lose("truncation", "the context is never cut")
    if _SEALED in include and ctx.seal is not None:
        ctx.wants_sealed = True
        include = [value for value in include if value != _SEALED]
    if not {_LOGPROBS}.issuperset(include):
        ctx.lose("include", "only log-probs and encrypted reasoning can be included")


def _echo(body: dict[str, JSON], wire: schema.CreateResponse) -> dict[str, JSON]:
    """What a reply repeats of its request, with the API's defaults for what it left out."""
    given = {name: v for name, v in body.items() if name in _ECHOED and v is not None}
    echo = {**_ECHOED, "metadata": {}, **given, **_STATELESS}
    echo["text"] = _echo_text(given.get("text") or {})
    echo["tools"] = [echo_tool(tool) for tool in wire.tools or ()]
    echo["top_logprobs"] = wire.top_logprobs or 0
    if wire.reasoning is not None:
        echo["reasoning"] = {"effort": None, "summary": None, **given["reasoning"]}
    choice = echo["tool_choice"]
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        echo["tool_choice"] = {"mode": "auto", **choice}
    if echo["service_tier"] == "auto":
        echo["service_tier"] = "default"
    return echo


def _echo_text(text: dict[str, JSON]) -> dict[str, JSON]:
    given = {name: value for name, value in text.items() if value is not None}
    given["format"] = _echo_format(given.get("format") or {"type": "text"})
    return given


def _echo_format(text_format: dict[str, JSON]) -> dict[str, JSON]:
    if text_format.get("type") != "json_schema":
        return text_format
    return {
        **text_format,
        "description": text_format.get("description"),
        "strict": bool(text_format.get("strict")),
    }


def write_request(request: Request, ctx: Context) -> dict[str, JSON]:
    """A canonical request as a Responses one, which the upstream is told not to store.

    Raises:
        UnsupportedFeature: An item, part or option cannot be said in Responses.
    """
    if request.choices != 1:
        raise UnsupportedFeature("'n': a Responses upstream gives one choice only.", param="n")
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
        ctx.wants_json = request.format.kind != "text"
        text["format"] = write_format(request.format)
    if request.verbosity is not None:
        text["verbosity"] = request.verbosity
    if text:
        body["text"] = text
    reasoning = _write_reasoning(request)
    if reasoning:
        body["reasoning"] = reasoning
    if (most := request.echo.get("max_tool_calls")) is not None:
        body["max_tool_calls"] = most
    if request.metadata is not None:
        body["metadata"] = request.metadata
    if request.stream:
        body["stream"] = True
    for name in ctx.profile.refuses:
        if body.pop(name, None) is not None:
            ctx.lose(name, "the upstream refuses this member")
    return {**request.extra, **body}


def _write_reasoning(request: Request) -> dict[str, JSON]:
    """The effort, and the summary that a Responses caller asked for."""
    echoed = request.echo.get("reasoning") or {}
    summary = echoed.get("summary") or echoed.get("generate_summary")  # its older name
    reasoning = {"effort": request.effort, "summary": summary}
    return {name: value for name, value in reasoning.items() if value is not None}


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
