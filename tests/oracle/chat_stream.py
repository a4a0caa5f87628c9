"""Strict checks of the Chat Completions streams that we emit.

Spec: Chat Completions, "The chat completion chunk object".
"""

from translators.sse import SSEDecoder
from translators.wire import JSON, decode

_BASE = ("id", "object", "created", "model")
_REASONS = frozenset({"stop", "length", "tool_calls", "content_filter"})


class ChatStreamChecker:
    """Follows a stream chunk by chunk and raises ``AssertionError`` at the first fault.

    What it says is choice 0; ``others`` has those of higher indexes.
    """

    def __init__(self, *, wants_usage: bool) -> None:
        self.content = ""
        self.reasoning = ""
        self.refusal = ""
        self.calls: list[JSON] = []
        self.finish_reason: str | None = None
        self.usage: JSON = None
        self.error: JSON = None
        self.others: dict[int, ChatStreamChecker] = {}
        self._wants_usage = wants_usage
        self._base: JSON = None

    def feed(self, body: JSON) -> None:
        assert self.error is None, "a chunk after the error"
        if "error" in body:
            assert {"message", "type", "param", "code"} == body["error"].keys()
            self.error = body["error"]
            return
        assert self.usage is None, "a chunk after the usage"
        base = {name: body[name] for name in _BASE}
        assert body["object"] == "chat.completion.chunk"
        assert isinstance(body["created"], int)
        is_first = self._base is None
        assert is_first or base == self._base
        self._base = base
        if not body["choices"]:
            assert self._wants_usage, "usage that nobody asked for"
            assert all(each.finish_reason is not None for each in (self, *self.others.values()))
            self.usage = body["usage"]
            assert body["usage"]["total_tokens"] >= 0
            return
        (choice,) = body["choices"]
        if index := choice["index"]:
            other = self.others.setdefault(index, ChatStreamChecker(wants_usage=False))
            other.feed({**body, "choices": [{**choice, "index": 0}]})
            return
        assert self.finish_reason is None, "a choice after its end"
        self.finish_reason = choice["finish_reason"]
        assert self.finish_reason is None or self.finish_reason in _REASONS
        delta = choice["delta"]
        assert (delta.get("role") == "assistant") is is_first
        self._read(delta)

    def _read(self, delta: JSON) -> None:
        self.content += delta.get("content") or ""
        self.refusal += delta.get("refusal") or ""
        self.reasoning += delta.get("reasoning") or delta.get("reasoning_content") or ""
        for entry in delta.get("tool_calls", ()):
            index = entry["index"]
            kind = "custom" if "custom" in entry else "function"
            member = "input" if kind == "custom" else "arguments"
            if index == len(self.calls):
                assert entry["id"] and entry["type"] == kind and entry[kind]["name"]
                self.calls.append({**entry, kind: {**entry[kind]}})
            else:
                assert entry.keys() == {"index", kind}, "id or type is repeated"
                assert entry[kind].keys() == {member}, "the name is repeated"
                self.calls[index][kind][member] += entry[kind][member]


def check_chat_stream(stream: bytes, *, wants_usage: bool) -> ChatStreamChecker:
    """Check a whole stream and return what it says.

    Raises:
        AssertionError: It breaks the specification.
    """
    decoder = SSEDecoder()
    frames = decoder.feed(stream)
    assert decoder.finish() == [], "the last frame is not closed"
    checker = ChatStreamChecker(wants_usage=wants_usage)
    done = 0
    for frame in frames:
        assert frame.event is None
        assert not done, "a frame after [DONE]"
        if frame.data == b"[DONE]":
            done += 1
        else:
            checker.feed(decode(frame.data))
    assert done == (0 if checker.error else 1)
    for each in (checker, *checker.others.values()):
        assert (each.finish_reason is None) is (checker.error is not None)
    return checker
