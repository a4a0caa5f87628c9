"""Requests to Completions upstreams.

Spec: Completions, "Create completion", request body; vLLM, ``CompletionRequest``.
"""

from translators.canonical import Request
from translators.chat.tools import write_format
from translators.completions.fates import REQUEST
from translators.completions.prompt import (
    check_text,
    without_template,
    write_conversation,
    write_raw_prompt,
)
from translators.completions.token_ids import ask
from translators.context import Context
from translators.errors import UnsupportedFeature
from translators.fates import Fate, with_fate
from translators.profiles import Render
from translators.vendor import wants_json
from translators.wire import JSON

_REFUSED = {
    "echo": "the answer would begin with the whole prompt",
    "prompt": "the prompt is made of the conversation",
    "prompt_embeds": "the prompt is made of the conversation",
    "suffix": "the answer is the end of the conversation",
}
"""Completions' own members that a caller of another dialect may not slip in."""

_LOST = with_fate(REQUEST, Fate.LOST)


def write_request(request: Request, ctx: Context) -> dict[str, JSON]:
    """A canonical request as a Completions one.

    It has a ``prompt``, or ``messages`` and other members that only render one: before it is
    sent, ``prompt.ask_for_prompt`` and ``prompt.fill_prompt`` put the prompt in their place.

    Raises:
        UnsupportedFeature: The conversation cannot be told, or a tool has to be called.
    """
    for name, why in _REFUSED.items():
        if request.extra.get(name):
            raise UnsupportedFeature(f"'{name}': {why}.", param=name)
    check_text(request.items)
    extra = request.extra
    body: dict[str, JSON] = {"model": request.model}
    if ctx.profile.render is Render.RAW:
        body["prompt"] = write_raw_prompt(request, ctx)
        extra = without_template(extra, ctx)
        if request.effort is not None:
            ctx.lose("effort", "a raw prompt has no template")
    else:
        body |= write_conversation(request, ctx)
    body |= _write_options(request, ctx)
    for name in ctx.profile.refuses:
        if body.pop(name, None) is not None:
            ctx.lose(name, "the upstream refuses this member")
    body = {**extra, **body}
    return ask(body, ctx) if ctx.token_ids else body


def _write_options(request: Request, ctx: Context) -> dict[str, JSON]:
    """What the answer is to be like."""
    options: dict[str, JSON] = {}
    for name, value in request.knobs.items():
        if name not in _LOST:
            options[name] = value
        elif name != "parallel_tool_calls":  # which says nothing without tools
            ctx.lose(name, _LOST[name])
    if request.verbosity is not None:
        ctx.lose("verbosity", _LOST["verbosity"])
    if request.max_output_tokens is not None:
        options["max_tokens"] = request.max_output_tokens
    if request.choices != 1:
        ctx.choices = request.choices
        options["n"] = request.choices
    if request.logprobs:
        ctx.top_logprobs = request.top_logprobs if isinstance(request.top_logprobs, int) else 0
        options["logprobs"] = request.top_logprobs or 0
    ctx.wants_json = wants_json(request.extra)
    if request.format is not None:
        ctx.wants_json |= request.format.kind != "text"
        options["response_format"] = write_format(request.format)
    if request.stream:
        options["stream"] = True
        if ctx.profile.stream_usage:
            options["stream_options"] = {"include_usage": True}
    return options
