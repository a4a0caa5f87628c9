"""Whole replies of Responses, both ways.

Spec: Responses, "The response object"; Open Responses 2026-04-24, ``ResponseResource``.
"""

from collections.abc import Sequence

from translators.canonical import Item, Request, Response, StopReason, ToolCall, Usage
from translators.context import Context
from translators.envelope import error_of
from translators.errors import ErrorInfo, UpstreamProtocolError
from translators.responses import schema
from translators.responses.items import read_output_item, write_item
from translators.wire import JSON, extra_of, known_members, open_as

PARAMS = {
    "input": "items",
    "instructions": "items",
    "text.format": "format",
    "text.verbosity": "verbosity",
    "reasoning.effort": "effort",
}
"""Responses' request members -> canonical ones, where the names differ."""

WRITE_PARAMS = {canonical: name for name, canonical in reversed(PARAMS.items())}
WRITE_PARAMS["logprobs"] = "top_logprobs"  # here the number alone asks for them

_REPLY_MEMBERS = known_members(schema.Response) | {
    "object",
    "completed_at",
    "previous_response_id",
    "instructions",
    "tools",
    "tool_choice",
    "truncation",
    "parallel_tool_calls",
    "text",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "top_logprobs",
    "temperature",
    "reasoning",
    "max_output_tokens",
    "max_tool_calls",
    "store",
    "background",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
    "user",
    "conversation",
    "input_messages",
    "output_messages",
    "prompt",
    "billing",
}
_ERROR_CODES = frozenset({"server_error", "rate_limit_exceeded", "invalid_prompt"})


def read_response(body: dict[str, JSON], ctx: Context) -> Response:
    """A Responses reply as a canonical one.

    Raises:
        UpstreamProtocolError: The body breaks the schema.
    """
    fault = UpstreamProtocolError
    wire = open_as(schema.Response, body, "", fault)
    if wire.status is None and wire.output is None and wire.error is None:
        raise fault("it has neither a status nor an output")
    output = [read_output_item(item, f"output[{i}]") for i, item in enumerate(wire.output or ())]
    error = None
    stop = None
    if wire.status in ("failed", "cancelled") or (wire.output is None and wire.error):
        error = error_of({"error": wire.error or f"The response was {wire.status}."}, 200, PARAMS)
    else:
        stop = read_stop(wire, output)
    return Response(
        id=wire.id or ctx.new_id("resp"),
        model=wire.model or "",
        created=int(ctx.now() if wire.created_at is None else wire.created_at),
        output=output,
        stop=stop,
        raw_stop=wire.status,
        usage=read_usage(wire.usage),
        error=error,
        extra=extra_of(body, _REPLY_MEMBERS),
    )


def read_stop(wire: schema.Response, output: Sequence[Item]) -> StopReason:
    """Why the model stopped, from the reply's status and its output.

    Raises:
        UpstreamProtocolError: The status is not that of a reply which has ended.
    """
    if wire.status == "incomplete":
        details = wire.incomplete_details or schema.IncompleteDetails()
        if details.reason == "content_filter":
            return StopReason.CONTENT_FILTER
        return StopReason.LENGTH
    if wire.status not in (None, "completed"):
        raise UpstreamProtocolError(
            f"The upstream's response has the status '{wire.status}'.", param="status"
        )
    called = any(isinstance(item, ToolCall) for item in output)
    return StopReason.TOOL_CALLS if called else StopReason.STOP


def read_usage(usage: JSON) -> Usage | None:
    """Token counts of a reply, ``None`` if it has none.

    Raises:
        UpstreamProtocolError: A count is not a number.
    """
    if usage is None:
        return None
    wire = open_as(schema.Usage, usage, "usage", UpstreamProtocolError)
    given, made = wire.input_tokens or 0, wire.output_tokens or 0
    details = wire.input_tokens_details or schema.InputDetails()
    made_of = wire.output_tokens_details or schema.OutputDetails()
    return Usage(
        input=given,
        output=made,
        total=given + made if wire.total_tokens is None else wire.total_tokens,
        cached=details.cached_tokens,
        cache_write=details.cache_write_tokens,
        reasoning=made_of.reasoning_tokens,
    )


def write_usage(usage: Usage) -> dict[str, JSON]:
    """``usage``; the details are required, so what nobody counted is zero."""
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {
            "cached_tokens": usage.cached or 0,
            "cache_write_tokens": usage.cache_write or 0,
        },
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning or 0},
        "total_tokens": usage.total,
    }


def write_response(response: Response, request: Request, ctx: Context) -> dict[str, JSON]:
    """A canonical reply as a Responses one."""
    skeleton = write_skeleton(ctx.new_id("resp"), response.created, response.model, request, ctx)
    return write_final(skeleton, response, ctx)


def write_skeleton(
    response_id: str, created: int, model: str, request: Request, ctx: Context
) -> dict[str, JSON]:
    """The response object as far as it is known before the model answers.

    Args:
        response_id: The reply's id.
        created: Unix time in seconds.
        model: The upstream's name of the model.
        request: What the caller asked for; its ``echo`` is repeated.
        ctx: The exchange.
    """
    return {
        "id": response_id,
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "model": ctx.public_model or model or request.model,
        "output": [],
        "usage": None,
        **request.echo,
    }


def write_final(skeleton: dict[str, JSON], response: Response, ctx: Context) -> dict[str, JSON]:
    """The response object at its end: completed, incomplete or failed."""
    body = {**response.extra, **skeleton}
    if response.extra.get("service_tier") is not None:
        body["service_tier"] = response.extra["service_tier"]
    body["output"] = [write_item(item, ctx) for item in response.output]
    if response.usage is not None:
        body["usage"] = write_usage(response.usage)
    if response.error is not None:
        body["status"] = "failed"
        body["error"] = write_failure(response.error)
    elif response.stop in (StopReason.LENGTH, StopReason.CONTENT_FILTER):
        is_long = response.stop is StopReason.LENGTH
        body["status"] = "incomplete"
        body["incomplete_details"] = {
            "reason": "max_output_tokens" if is_long else "content_filter"
        }
    else:
        body["status"] = "completed"
        body["completed_at"] = int(ctx.now())
    return body


def write_failure(error: ErrorInfo) -> JSON:
    """``error`` of a failed response; clients act on ``context_length_exceeded``."""
    code = error.code
    if code not in _ERROR_CODES and code != "context_length_exceeded":
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
    return {"code": code, "message": error.message}
