"""What captured calls come to: tokens, tool calls, latencies, endings, errors."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from proxy.capture.reader import CapturedCall, body_of
from translators.wire import JSON

_CALL_ITEMS = "_call"


class CallFacts(msgspec.Struct, frozen=True):
    """One call in short. Unknown counts are ``None``, never 0; durations are in milliseconds."""

    model_call_id: str | None
    dialect: str | None
    upstream: str | None
    model: str | None
    started_at: float | None
    completed_at: float | None
    status_code: int | None
    error_category: str | None
    finish_reasons: list[str]
    tokens_in: int | None
    tokens_out: int | None
    tokens_reasoning: int | None
    tokens_cached: int | None
    tool_calls: list[str]
    latency_ms: float | None
    latency_ttft_ms: float | None


class Spread(msgspec.Struct, frozen=True):
    """A distribution of durations, in milliseconds."""

    mean: float
    p50: float
    p90: float
    max: float


class Summary(msgspec.Struct, frozen=True):
    """Many calls together; a sum is ``None`` if no call knows the count."""

    calls: int
    errors: dict[str, int]
    finish_reasons: dict[str, int]
    models: dict[str, int]
    tokens_in: int | None
    tokens_out: int | None
    tokens_reasoning: int | None
    tokens_cached: int | None
    tool_calls: dict[str, int]
    latency_ms: Spread | None
    latency_ttft_ms: Spread | None
    started_at: float | None
    completed_at: float | None


def facts_of(call: CapturedCall) -> CallFacts:
    """A call in short."""
    reply = body_of(call.response)
    usage = _object(reply.get("usage"))
    given = _object(usage.get("prompt_tokens_details") or usage.get("input_tokens_details"))
    made = _object(usage.get("completion_tokens_details") or usage.get("output_tokens_details"))
    model = reply.get("model") or body_of(call.request).get("model")
    return CallFacts(
        model_call_id=call.model_call_id,
        dialect=call.dialect,
        upstream=None if call.model_ref is None else call.model_ref.name,
        model=model if isinstance(model, str) else None,
        started_at=call.started_at,
        completed_at=call.completed_at,
        status_code=call.status_code,
        error_category=call.error_category,
        finish_reasons=_finish_reasons(reply),
        tokens_in=_count(usage, "prompt_tokens", "input_tokens"),
        tokens_out=_count(usage, "completion_tokens", "output_tokens"),
        tokens_reasoning=_count(made, "reasoning_tokens"),
        tokens_cached=_count(given, "cached_tokens"),
        tool_calls=_tool_calls(reply),
        latency_ms=call.latency_ms,
        latency_ttft_ms=call.latency_ttft_ms,
    )


def sum_up(calls: Sequence[CallFacts]) -> Summary:
    """Calls together."""
    return Summary(
        calls=len(calls),
        errors=_counted(call.error_category for call in calls),
        finish_reasons=_counted(reason for call in calls for reason in call.finish_reasons),
        models=_counted(call.model for call in calls),
        tokens_in=_sum(call.tokens_in for call in calls),
        tokens_out=_sum(call.tokens_out for call in calls),
        tokens_reasoning=_sum(call.tokens_reasoning for call in calls),
        tokens_cached=_sum(call.tokens_cached for call in calls),
        tool_calls=_counted(name for call in calls for name in call.tool_calls),
        latency_ms=_spread(call.latency_ms for call in calls),
        latency_ttft_ms=_spread(call.latency_ttft_ms for call in calls),
        started_at=min((c.started_at for c in calls if c.started_at is not None), default=None),
        completed_at=max(
            (c.completed_at for c in calls if c.completed_at is not None), default=None
        ),
    )


def _finish_reasons(reply: dict[str, JSON]) -> list[str]:
    """``finish_reason`` of each choice; of a response its status, or why it is incomplete."""
    if "choices" in reply:
        found = [choice.get("finish_reason") for choice in _objects(reply["choices"])]
    else:
        details = _object(reply.get("incomplete_details"))
        found = [details.get("reason") or reply.get("status")]
    return [reason for reason in found if isinstance(reason, str)]


def _tool_calls(reply: dict[str, JSON]) -> list[str]:
    """Names of the tools called, in order; hosted tools by the type of their item."""
    names: list[JSON] = []
    for choice in _objects(reply.get("choices")):
        message = _object(choice.get("message"))
        for call in _objects(message.get("tool_calls")):
            names.append(_object(call.get("function") or call.get("custom")).get("name"))
        if function := _object(message.get("function_call")):
            names.append(function.get("name"))
    for item in _objects(reply.get("output")):
        kind = item.get("type")
        if isinstance(kind, str) and kind.endswith(_CALL_ITEMS):
            names.append(item.get("name") or kind)
    return [name if isinstance(name, str) else "" for name in names]


def _count(members: dict[str, JSON], *names: str) -> int | None:
    for name in names:
        value = members.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _object(value: JSON) -> dict[str, JSON]:
    return value if isinstance(value, dict) else {}


def _objects(value: JSON) -> list[dict[str, JSON]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def _counted(words: Iterable[str | None]) -> dict[str, int]:
    """How often each word comes, most frequent first."""
    return dict(Counter(word for word in words if word is not None).most_common())


def _sum(counts: Iterable[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _spread(values: Iterable[float | None]) -> Spread | None:
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    return Spread(
        mean=round(statistics.fmean(known), 2),
        p50=_rank(known, 50),
        p90=_rank(known, 90),
        max=known[-1],
    )


def _rank(ordered: Sequence[float], percent: int) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
