"""Replies of Completions, as the Chat replies that they would have been.

Spec: Completions, "The completion object"; vLLM, ``CompletionLogProbs``.
"""

from translators.canonical import Response
from translators.chat import response as chat
from translators.completions import schema
from translators.completions.token_ids import Gatherer
from translators.context import Context
from translators.envelope import is_error
from translators.errors import UpstreamProtocolError
from translators.wire import JSON, extra_of, known_members, open_as

PARAMS = {
    "prompt": "items",
    "messages": "items",
    "max_tokens": "max_output_tokens",
    "response_format": "format",
}
"""Completions' request members -> canonical ones, where the names differ."""

_VENDORS_OWN = {"token_ids", "prompt_token_ids", "routed_experts"}
_CHOICE_MEMBERS = known_members(schema.Choice) - _VENDORS_OWN


def read_response(body: dict[str, JSON], ctx: Context) -> Response:
    """A Completions reply as a canonical one; choices after the first are alternatives.

    There are no more choices than the caller asked for.

    Raises:
        UpstreamProtocolError: The body breaks the schema, has no choice, or lacks token ids.
    """
    if is_error(body, "choices"):
        return chat.read_response(body, ctx)
    wire = open_as(schema.Completion, body, "", UpstreamProtocolError)
    if not wire.choices:
        raise UpstreamProtocolError("The upstream's reply has no choices.", param="choices")
    gatherer = Gatherer() if ctx.token_ids else None
    choices = [read_choice(c, i, "message", ctx, gatherer) for i, c in enumerate(wire.choices)]
    (_, first), *others = sorted(choices, key=lambda choice: choice[0])
    response = chat.read_response({**body, "choices": [first]}, ctx)
    response.alternatives = [
        chat.read_response({"choices": [choice]}, ctx) for _, choice in others[: ctx.choices - 1]
    ]
    return response


def read_choice(
    body: JSON, position: int, member: str, ctx: Context, gatherer: Gatherer | None = None
) -> tuple[int, dict[str, JSON]]:
    """A choice's index, and the same as a Chat choice.

    Args:
        body: The choice.
        position: Its place in ``choices``.
        member: Where Chat has the text: ``message``, or ``delta`` in a chunk.
        ctx: Knows how many log-probs were asked for.
        gatherer: Gathers the token ids of the first choice, if they are wanted.

    Raises:
        UpstreamProtocolError: It breaks the schema, or is complete without its token ids.
    """
    choice = open_as(schema.Choice, body, f"choices[{position}]", UpstreamProtocolError)
    members: dict[str, JSON] = {
        **extra_of(body, _CHOICE_MEMBERS),
        "index": 0,
        member: {"content": choice.text},
        "finish_reason": choice.finish_reason,
    }
    if choice.logprobs is not None and "logprobs" not in ctx.unasked:
        members["logprobs"] = {"content": read_logprobs(choice.logprobs, ctx.top_logprobs)}
    if gatherer is not None and choice.index == 0:
        members = {name: value for name, value in members.items() if name not in ctx.unasked}
        gatherer.take(choice)
        if member == "message" or choice.finish_reason is not None:
            members[member] |= gatherer.token_ids()
    return choice.index, members


def read_logprobs(logprobs: schema.Logprobs, top: int) -> list[JSON]:
    """Log-probs as Chat has them, one entry for each token with the ``top`` likeliest ones.

    A server that gives lists of different lengths is believed as far as the shortest goes.
    """
    tokens, values = logprobs.tokens or (), logprobs.token_logprobs or ()
    others = logprobs.top_logprobs or [None] * len(tokens)
    entries = []
    for token, value, alternatives in zip(tokens, values, others, strict=False):
        ranked = sorted((alternatives or {}).items(), key=lambda pair: pair[1], reverse=True)
        entry = _entry(token, value)
        entry["top_logprobs"] = [_entry(*pair) for pair in ranked[:top]]
        entries.append(entry)
    return entries


def _entry(token: str, logprob: float | None) -> dict[str, JSON]:
    """A token with its bytes; those of a part of a character are not known."""
    is_part = "\N{REPLACEMENT CHARACTER}" in token
    text = None if is_part else list(token.encode("utf-8", "replace"))
    return {"token": token, "logprob": logprob, "bytes": text}
