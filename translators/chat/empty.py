"""A Chat reply in which nothing is said, for requests that the model cannot or may not answer.

Spec: Chat Completions, "The chat completion object", "The chat completion chunk object".
"""

from translators.canonical import StopReason
from translators.sse import DONE, encode_frame
from translators.wire import JSON, encode


def write_empty(
    reply_id: str, created: int, model: JSON, stop: StopReason, *, is_stream: bool
) -> bytes:
    """The body of an empty reply, as JSON or as a stream.

    It has no ``usage``: the prompt was never counted, and nothing was generated.

    Args:
        reply_id: Its id.
        created: Unix time in seconds.
        model: The model's name.
        stop: Why there is nothing.
        is_stream: Whether it is to be a stream.
    """
    head = {"id": reply_id, "created": created, "model": model}
    message = {"role": "assistant", "content": ""}
    end = {"index": 0, "logprobs": None, "finish_reason": stop.value}
    if not is_stream:
        choice = {**end, "message": {**message, "refusal": None}}
        return encode({**head, "object": "chat.completion", "choices": [choice]})
    head["object"] = "chat.completion.chunk"
    choices = [{**end, "delta": message, "finish_reason": None}, {**end, "delta": {}}]
    frames = [encode_frame(None, encode({**head, "choices": [choice]})) for choice in choices]
    return b"".join(frames) + DONE
