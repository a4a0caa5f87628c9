"""Wire objects of Completions that we read.

``null`` counts as absent everywhere. Members that only travel are typed ``JSON``.
"""

import msgspec

from translators.wire import JSON


class Logprobs(msgspec.Struct):
    """``logprobs`` of a choice: lists with one entry for each token.

    An entry of ``top_logprobs`` maps tokens to log-probs. It has the token itself and as many
    others as were asked for, among which may be the token again.
    """

    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class Choice(msgspec.Struct):
    """An entry of ``choices``, in a whole reply and in a chunk."""

    index: int = 0
    text: str | None = None
    logprobs: Logprobs | None = None
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    routed_experts: JSON = None


class Completion(msgspec.Struct):
    """A whole reply, or a chunk."""

    id: str | None = None
    created: int | float | None = None
    model: str | None = None
    choices: list[JSON] | None = None


class Tokenized(msgspec.Struct):
    """The reply of vLLM's ``/tokenize``."""

    tokens: list[int]
    max_model_len: int | None = None
