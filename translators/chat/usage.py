"""``usage`` of Chat replies, both ways.

Spec: Chat Completions, "The chat completion object", ``usage``.
"""

from translators.canonical import Usage
from translators.chat import schema
from translators.errors import UpstreamProtocolError
from translators.wire import JSON, open_as

_NO_PROMPT_DETAILS = schema.PromptDetails()
_NO_COMPLETION_DETAILS = schema.CompletionDetails()


def read_usage(usage: JSON) -> Usage | None:
    """Token counts of a reply, ``None`` if it has none.

    ``prompt_tokens_details.cached_tokens`` is part of ``prompt_tokens``, so it is copied, not
    subtracted.

    Raises:
        UpstreamProtocolError: A count is not a number.
    """
    if usage is None:
        return None
    return usage_of(open_as(schema.Usage, usage, "usage", UpstreamProtocolError))


def usage_of(wire: schema.Usage) -> Usage:
    """Token counts of a reply that has them; see ``read_usage``."""
    prompt = wire.prompt_tokens_details or _NO_PROMPT_DETAILS
    completion = wire.completion_tokens_details or _NO_COMPLETION_DETAILS
    written = prompt.cache_write_tokens
    given, made = wire.prompt_tokens or 0, wire.completion_tokens or 0
    return Usage(
        input=given,
        output=made,
        total=given + made if wire.total_tokens is None else wire.total_tokens,
        cached=prompt.cached_tokens,
        cache_write=prompt.created_cache_tokens if written is None else written,
        reasoning=completion.reasoning_tokens,
    )


def write_usage(usage: Usage) -> dict[str, JSON]:
    """``usage``; details that nobody counted are left out."""
    body: dict[str, JSON] = {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.total,
    }
    prompt = {"cached_tokens": usage.cached, "cache_write_tokens": usage.cache_write}
    prompt = {name: count for name, count in prompt.items() if count is not None}
    if prompt:
        body["prompt_tokens_details"] = prompt
    if usage.reasoning is not None:
        body["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning}
    return body
