"""Token ids and log-probs out of vLLM's Chat replies.

Requests ask for them and replies are gathered here, on Chat bodies alone: before a translation,
and where bodies would otherwise be relayed. What was asked for on this account only is taken out
again, and the token ids are put on the message, or in a stream on the delta of the chunk that
brings the ``finish_reason``.

Spec: vLLM, "OpenAI-compatible server", ``return_token_ids`` (since 0.10.2) and
``return_tokens_as_token_ids``; NeMo Gym, ``return_token_id_information``.
"""

import re

import msgspec

from translators.chat import schema
from translators.errors import UnsupportedFeature, UpstreamProtocolError
from translators.token_ids import MEMBERS, REQUIRED, read_token_ids
from translators.wire import JSON, open_as

_SIGN = "token_id:"
_TOKEN = re.compile(rf"{_SIGN}(\d+)")
_PROMPT_MEMBERS = (
    "model",
    "messages",
    "tools",
    "chat_template",
    "chat_template_kwargs",
    "mm_processor_kwargs",
    "media_io_kwargs",
    "add_generation_prompt",
    "continue_final_message",
    "add_special_tokens",
    "required_prefix_token_ids",
)
"""Request members on which the prompt depends and which vLLM's ``/tokenize`` takes."""


class Asked(msgspec.Struct, frozen=True):
    """What a request asks for by itself, and whose reply therefore keeps."""

    logprobs: bool
    token_ids: bool
    usage: bool


class _Entry(msgspec.Struct):
    token: str
    logprob: float


class _Logprobs(msgspec.Struct):
    content: list[_Entry] | None = None


class _Choice(msgspec.Struct):
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None


class _Reply(msgspec.Struct):
    """A whole reply or a chunk."""

    choices: list[_Choice]
    prompt_token_ids: list[int] | None = None
    usage: schema.Usage | None = None


class _Tokenized(msgspec.Struct):
    tokens: list[int]


def ask(request: dict[str, JSON]) -> tuple[dict[str, JSON], Asked]:
    """A request that asks for token ids, and what it asked for before.

    A caller that wants log-probs itself gets them with texts as tokens, as it expects.

    Raises:
        UnsupportedFeature: The request excludes token ids: several choices, or hidden reasoning.
    """
    if request.get("n") not in (None, 1):
        raise UnsupportedFeature("'n': token ids are given for one choice only.", param="n")
    if request.get("include_reasoning") is False:
        raise UnsupportedFeature(
            "'include_reasoning': token ids would show the reasoning that is to be hidden.",
            param="include_reasoning",
        )
    options = request.get("stream_options")
    options = options if isinstance(options, dict) else {}
    asked = Asked(
        logprobs=request.get("logprobs") is True,
        token_ids=request.get("return_token_ids") is True,
        usage=bool(options.get("include_usage")),
    )
    body = {**request, "logprobs": True, "return_token_ids": True}
    if body.get("top_logprobs") is None or not asked.logprobs:
        body["top_logprobs"] = 0
    if not asked.logprobs:
        body["return_tokens_as_token_ids"] = True
    if body.get("stream"):
        body["stream_options"] = {**options, "include_usage": True}
    return body, asked


def ask_for_prompt(request: dict[str, JSON]) -> dict[str, JSON]:
    """The body that asks ``/tokenize`` for a request's prompt, for versions that do not give it."""
    return {name: request[name] for name in _PROMPT_MEMBERS if name in request}


def read_prompt(body: dict[str, JSON]) -> list[int]:
    """The prompt's token ids in a reply of ``/tokenize``.

    Raises:
        UpstreamProtocolError: There are none.
    """
    return open_as(_Tokenized, body, "", UpstreamProtocolError).tokens


class Gatherer:
    """Gathers the token ids of one reply, whole or in chunks; only choice 0 is there.

    The sources, in their order: token members on the message itself; ``prompt_token_ids`` of the
    reply and ``token_ids`` of the choice; tokens ``token_id:<int>`` in the log-probs, and the
    prompt by ``/tokenize``.
    """

    def __init__(self, asked: Asked) -> None:
        """Gather for a request that asked for this by itself."""
        self._asked = asked
        self._given: dict[str, JSON] = {}
        self._experts: JSON = None
        self._prompt: list[int] | None = None
        self._generated: list[int] | None = None
        self._entries: list[_Entry] | None = None
        self._usage = schema.Usage()

    @property
    def lacks_prompt(self) -> bool:
        """Whether ``/tokenize`` has to be asked, once the reply is whole."""
        return not self._given and self._prompt is None and self._generated is None

    def take(self, body: dict[str, JSON]) -> dict[str, JSON]:
        """Note what a reply or chunk brings; the same body without what was not asked for.

        Raises:
            UpstreamProtocolError: A member has a wrong type.
        """
        reply = open_as(_Reply, body, "", UpstreamProtocolError)
        if reply.prompt_token_ids is not None:
            self._prompt = reply.prompt_token_ids
        if reply.usage is not None:
            self._usage = reply.usage
        for choice in reply.choices[:1]:
            if choice.token_ids is not None:
                self._generated = self._generated or []
                self._generated += choice.token_ids
            if choice.logprobs is not None and choice.logprobs.content is not None:
                self._entries = self._entries or []
                self._entries += choice.logprobs.content
        body = {**body, "choices": [self._strip(choice) for choice in body["choices"]]}
        if not self._asked.token_ids:
            body.pop("prompt_token_ids", None)
        return body

    def _strip(self, choice: dict[str, JSON]) -> dict[str, JSON]:
        choice = dict(choice)
        name = carrier(choice)
        said = choice.get(name)
        if isinstance(said, dict) and not MEMBERS.isdisjoint(said):
            self._given |= read_token_ids(said, f"choices[0].{name}", UpstreamProtocolError)
            choice[name] = {k: v for k, v in said.items() if k not in MEMBERS}
        if choice.get("routed_experts") is not None:
            self._experts = choice.pop("routed_experts")
        if not self._asked.token_ids:
            choice.pop("token_ids", None)
        if not self._asked.logprobs and "logprobs" in choice:
            choice["logprobs"] = None
        return choice

    def token_ids(self, tokenized: list[int] | None = None) -> dict[str, JSON]:
        """The token members of the reply, once all of it was taken.

        Args:
            tokenized: What ``/tokenize`` said, if the reply lacks its prompt.

        Raises:
            UpstreamProtocolError: A source is incomplete, or contradicts another one.
        """
        prompt, generated = self._prompt, self._generated
        if (prompt is None) is not (generated is None):
            missing = "prompt_token_ids" if prompt is None else "choices[0].token_ids"
            raise UpstreamProtocolError(f"The upstream gave token ids without '{missing}'.")
        experts = {} if self._experts is None else {"routed_experts": self._experts}
        if self._given:
            _agree("prompt_token_ids", prompt, self._given["prompt_token_ids"])
            _agree("generation_token_ids", generated, self._given["generation_token_ids"])
            return {**experts, **self._given}
        if self._entries is None:
            raise UpstreamProtocolError(
                "The upstream gave no log-probs, although it was asked for them with token ids."
            )
        if generated is None:
            prompt, generated = tokenized, self._sampled(_named(self._entries), tokenized)
        elif [entry.token for entry in self._entries] != [f"{_SIGN}{id_}" for id_ in generated]:
            # Texts, or a contradiction; to look for it in all replies costs 0.2 us per token more.
            _agree("choices[0].token_ids", _named(self._entries), generated)
        probs = [entry.logprob for entry in self._entries]
        found = dict(zip(REQUIRED, (prompt, generated, probs), strict=True))
        return read_token_ids({**found, **experts}, "the upstream's reply", UpstreamProtocolError)

    def _sampled(self, named: list[int] | None, prompt: list[int] | None) -> list[int]:
        """The token ids in the log-probs, if the upstream's counts bear them and the prompt out.

        Versions that know no other way leave tokens out of streams where a parser waits for more.
        """
        if named is None:
            why = " as the caller asked for log-probs itself" if self._asked.logprobs else ""
            raise UpstreamProtocolError(f"The upstream gave no token ids{why}.")
        for what, counted, ids in (
            ("generated", self._usage.completion_tokens, named),
            ("prompt", self._usage.prompt_tokens, prompt),
        ):
            if counted is not None and ids is not None and counted != len(ids):
                raise UpstreamProtocolError(
                    f"The upstream counts {counted} {what} tokens, but gave {len(ids)} ids."
                )
        return named


def carrier(choice: dict[str, JSON]) -> str:
    """The member of a choice that holds what was said: ``message``, or ``delta`` in a chunk."""
    return "message" if choice.get("message") is not None else "delta"


def _named(entries: list[_Entry]) -> list[int] | None:
    """The token ids that stand for texts in log-probs, ``None`` where texts do."""
    found = [_TOKEN.fullmatch(entry.token) for entry in entries]
    ids = [int(match[1]) for match in found if match is not None]
    return ids if len(ids) == len(entries) else None


def _agree(what: str, ids: JSON, others: JSON) -> None:
    """Compare two sources, if there are two.

    Raises:
        UpstreamProtocolError: They differ.
    """
    if ids is not None and ids != others:
        raise UpstreamProtocolError(f"The upstream gave two different '{what}' for one reply.")
