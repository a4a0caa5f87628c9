"""What the demo answers: steps as a whole reply or as a stream of chunks."""

import itertools
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from backends.demo.model import Call, Content, Reasoning, Step, digest, speak, split_words
from backends.demo.requests import JSON, ChatRequest, NamedChoice


class Completion(msgspec.Struct, frozen=True):
    """One choice: what is said, in order, and why it ends.

    ``stop_reason`` is the stop string that ended it, else ``None``.
    """

    steps: Sequence[Step]
    finish_reason: Literal["stop", "length", "tool_calls"]
    stop_reason: str | None = None

    def tokens(self) -> list[str]:
        """All that was generated, in order."""
        return [token for step in self.steps for token in _tokens(step)]


def _tokens(step: Step) -> list[str]:
    """The tokens of a step; a call's are its name and the words of its arguments."""
    if isinstance(step, Call):
        return [step.name, *split_words(step.arguments)]
    return split_words(step.text)


def complete(request: ChatRequest, choice: int) -> Completion:
    """What the model says, ended by a stop string or by the token limit."""
    steps = list(speak(request, choice))
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    stop_reason = None
    for at, step in enumerate(steps):
        if isinstance(step, Content):
            found = [(step.text.index(stop), stop) for stop in stops if stop and stop in step.text]
            if found:
                end, stop_reason = min(found)
                steps = [*steps[:at], Content(step.text[:end])]
                break

    limit = request.max_completion_tokens or request.max_tokens
    if limit is not None and len(Completion(steps, "stop").tokens()) > limit:
        return Completion(list(_cut(steps, limit)), "length")
    # A named choice ends with "stop" in vLLM, as it does at OpenAI.
    calls = any(isinstance(step, Call) for step in steps)
    named = isinstance(request.tool_choice, NamedChoice)
    return Completion(steps, "tool_calls" if calls and not named else "stop", stop_reason)


def _cut(steps: Iterable[Step], limit: int) -> Iterator[Step]:
    """The steps as far as their first ``limit`` tokens go."""
    for step in steps:
        kept = _tokens(step)[:limit]
        limit -= len(kept)
        if not kept:
            return
        if isinstance(step, Call):
            yield Call(step.id, step.name, "".join(kept[1:]))
        else:
            yield type(step)("".join(kept))


def write_reply(request: ChatRequest, completions: Sequence[Completion], created: int) -> JSON:
    """The whole reply as vLLM writes it, its nulls included."""
    return {
        "id": f"chatcmpl-{digest(request)}",
        "object": "chat.completion",
        "created": created,
        "model": request.model,
        "choices": [
            {
                "index": index,
                "message": _message(request, completion.steps),
                "logprobs": _logprobs(request, completion.tokens()),
                "finish_reason": completion.finish_reason,
                "stop_reason": completion.stop_reason,
                "token_ids": None,
            }
            for index, completion in enumerate(completions)
        ],
        "service_tier": None,
        "system_fingerprint": None,
        "usage": _usage(request, completions),
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "kv_transfer_params": None,
    }


def _message(request: ChatRequest, steps: Iterable[Step]) -> JSON:
    content = "".join(step.text for step in steps if isinstance(step, Content))
    reasoning = "".join(step.text for step in steps if isinstance(step, Reasoning))
    calls = [
        {
            "id": step.id,
            "type": "function",
            "function": {"name": step.name, "arguments": step.arguments},
        }
        for step in steps
        if isinstance(step, Call)
    ]
    return {
        "role": "assistant",
        # vLLM leaves "" rather than null beside a call that was demanded.
        "content": content or ("" if request.must_call else None),
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        **({"tool_calls": calls} if calls else {}),
        "reasoning": reasoning or None,
    }


def write_stream(
    request: ChatRequest, completions: Sequence[Completion], created: int
) -> Iterator[bytes]:
    """The reply as server-sent events, one for each token; they add up to ``write_reply``."""
    head = {
        "id": f"chatcmpl-{digest(request)}",
        "object": "chat.completion.chunk",
        "created": created,
        "model": request.model,
    }
    streams = [_choice_chunks(request, index, one) for index, one in enumerate(completions)]
    for choices in itertools.zip_longest(*streams):
        for choice in choices:
            if choice is not None:
                yield _event({**head, "choices": [choice]})
    if request.stream_options is not None and request.stream_options.include_usage:
        yield _event({**head, "choices": [], "usage": _usage(request, completions)})
    yield b"data: [DONE]\n\n"


def _choice_chunks(request: ChatRequest, index: int, completion: Completion) -> Iterator[JSON]:
    """The ``choices`` members of a stream that belong to one choice."""
    first = {"role": "assistant", "content": ""}
    yield {"index": index, "delta": first, "logprobs": None, "finish_reason": None}
    ended = {"finish_reason": completion.finish_reason, "stop_reason": completion.stop_reason}
    left = len(completion.tokens())
    for token, delta in _deltas(completion.steps):
        left -= 1
        chunk = {
            "index": index,
            "delta": delta,
            "logprobs": _logprobs(request, [token]),
            "finish_reason": None,
            "token_ids": None,
        }
        # At the limit there is no end-of-text token that a last chunk could be made of.
        yield {**chunk, **ended} if not left and completion.finish_reason == "length" else chunk
    if completion.finish_reason != "length":
        yield {"index": index, "delta": {}, "logprobs": None, **ended, "token_ids": None}


def _deltas(steps: Iterable[Step]) -> Iterator[tuple[str, JSON]]:
    """Each token and its delta. A call's first has its name and no ``arguments``, as in vLLM."""
    calls = itertools.count()
    for step in steps:
        if isinstance(step, Call):
            index = next(calls)
            opening = {"id": step.id, "type": "function", "function": {"name": step.name}}
            yield step.name, {"tool_calls": [{"index": index, **opening}]}
            for word in split_words(step.arguments):
                yield word, {"tool_calls": [{"index": index, "function": {"arguments": word}}]}
        else:
            field = "reasoning" if isinstance(step, Reasoning) else "content"
            for word in split_words(step.text):
                yield word, {field: word}


def _usage(request: ChatRequest, completions: Iterable[Completion]) -> JSON:
    """Counts in words; there are no ``prompt_tokens_details``, as in vLLM's default."""
    prompt = [message.text() for message in request.messages]
    prompt += [
        f"{call.function.name} {call.function.arguments}"
        for message in request.messages
        for call in message.tool_calls or []
    ]
    prompt_tokens = sum(len(text.split()) for text in prompt)
    steps = [step for completion in completions for step in completion.steps]
    completion_tokens = sum(len(_tokens(step)) for step in steps)
    thought = sum(len(_tokens(step)) for step in steps if isinstance(step, Reasoning))
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
        "completion_tokens_details": {"reasoning_tokens": thought},
    }


def _logprobs(request: ChatRequest, tokens: Iterable[str]) -> JSON:
    """Invented log-probabilities, the same for a token wherever it stands."""
    if not request.logprobs:
        return None
    return {"content": [_logprob(token, request.top_logprobs or 0) for token in tokens]}


def _logprob(token: str, top: int) -> JSON:
    def entry(text: str, logprob: float) -> JSON:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    likely = -(zlib.crc32(token.encode()) % 1000) / 1000
    ranked = [entry(f"{token}~{rank}" if rank else token, likely - rank) for rank in range(top)]
    return {**entry(token, likely), "top_logprobs": ranked}


def _event(data: JSON) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"
