"""What is added to the messages of a Chat request: audio, and candidates for a judge.

NeMo Gym's rows carry both in ``metadata``, because Responses has no place for them.
"""

from collections.abc import Mapping, Sequence

from translators.wire import JSON


def add_audio(messages: Sequence[JSON], urls: Sequence[str]) -> list[JSON]:
    """Messages with audio in front of what the last user message says.

    Args:
        messages: Messages of a Chat request; without one of the user's, one is added.
        urls: ``data:`` URLs, in the order of the parts.
    """
    parts: list[JSON] = [{"type": "audio_url", "audio_url": {"url": url}} for url in urls]
    added = list(messages)
    for i in reversed(range(len(added))):
        message = added[i]
        if isinstance(message, dict) and message.get("role") == "user":
            said = message.get("content")
            if isinstance(said, str):
                said = [{"type": "text", "text": said}]
            said = said if isinstance(said, list) else []
            added[i] = {**message, "content": [*parts, *said]}
            return added
    return [*added, {"role": "user", "content": parts}]


def add_candidates(messages: Sequence[JSON], candidates: Mapping[str, str]) -> list[JSON]:
    """Messages with one more for each candidate: role -> text."""
    return [*messages, *({"role": role, "content": text} for role, text in candidates.items())]


def ends_in_thought(messages: Sequence[JSON]) -> bool:
    """Whether the last message is an assistant's that neither says anything nor calls a tool."""
    last = messages[-1] if messages else None
    return (
        isinstance(last, dict)
        and last.get("role") == "assistant"
        and not last.get("content")
        and not last.get("tool_calls")
    )
