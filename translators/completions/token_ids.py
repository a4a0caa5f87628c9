"""Token ids and log-probs out of vLLM's Completions replies, for models that give them.

Requests ask for them, and what a caller did not ask for itself is taken out of replies again. The
token ids then are members of the Chat message, or of the delta that brings the ``finish_reason``,
where those of a Chat upstream are.

Spec: vLLM, ``CompletionRequest.return_token_ids``, ``CompletionResponseChoice``.
"""

from translators.completions import schema
from translators.context import Context
from translators.errors import UnsupportedFeature, UpstreamProtocolError
from translators.token_ids import REQUIRED, read_token_ids
from translators.wire import JSON


def ask(body: dict[str, JSON], ctx: Context) -> dict[str, JSON]:
    """A request that asks for token ids; ``ctx`` notes what it did not ask for before.

    Raises:
        UnsupportedFeature: It asks for several choices.
    """
    if ctx.choices != 1:
        raise UnsupportedFeature("'n': token ids are given for one choice only.", param="n")
    asked = {"logprobs": "logprobs" in body, "token_ids": bool(body.get("return_token_ids"))}
    asked["prompt_token_ids"] = asked["token_ids"]
    unasked = {name for name, is_asked in asked.items() if not is_asked}
    ctx.unasked = frozenset({*unasked, "routed_experts"})
    return {"logprobs": 0, **body, "return_token_ids": True}


class Gatherer:
    """Gathers the token ids of the one choice of a reply, whole or in chunks."""

    def __init__(self) -> None:
        """Gather for one reply."""
        self._prompt: list[int] | None = None
        self._generated: list[int] = []
        self._probs: list[float | None] = []
        self._experts: JSON = None
        self._has_text = False

    def take(self, choice: schema.Choice) -> None:
        """Note what a choice brings, or a piece of it."""
        self._has_text = self._has_text or bool(choice.text)
        if choice.prompt_token_ids is not None:
            self._prompt = choice.prompt_token_ids
        if choice.routed_experts is not None:
            self._experts = choice.routed_experts
        self._generated += choice.token_ids or ()
        if choice.logprobs is not None:
            self._probs += choice.logprobs.token_logprobs or ()

    def token_ids(self) -> dict[str, JSON]:
        """The token members of the message, once all of it was taken; none if it says nothing.

        Raises:
            UpstreamProtocolError: They are incomplete.
        """
        if self._has_text and (self._prompt is None or not self._generated):
            missing = "prompt_token_ids" if self._prompt is None else "token_ids"
            raise UpstreamProtocolError(f"The upstream gave no token ids: '{missing}' is missing.")
        if self._prompt is None:
            return {}
        found: dict[str, JSON] = dict(
            zip(REQUIRED, (self._prompt, self._generated, self._probs), strict=True)
        )
        if self._experts is not None:
            found["routed_experts"] = self._experts
        return read_token_ids(found, "the upstream's reply", UpstreamProtocolError)
