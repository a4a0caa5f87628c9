"""A Completions reply in which nothing is said; see ``translators.chat.empty``.

Spec: Completions, "The completion object".
"""

from translators.canonical import StopReason
from translators.sse import DONE, encode_frame
from translators.wire import JSON, encode


def write_empty(
    reply_id: str, created: int, model: JSON, stop: StopReason, *, is_stream: bool
) -> bytes:
    """The body of an empty reply, as JSON or as a stream."""
    choice = {"index": 0, "text": "", "logprobs": None, "finish_reason": stop.value}
    head = {"id": reply_id, "object": "text_completion", "created": created, "model": model}
    body = encode({**head, "choices": [choice]})
    return encode_frame(None, body) + DONE if is_stream else body
