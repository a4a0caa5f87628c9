"""Strict checks of the Responses streams that we emit.

Spec: Open Responses 2026-04-24, "Streaming"; OpenAI API reference, "Streaming events".
"""

from collections.abc import Callable

import msgspec

from tests.oracle.resource import Item, check_resource
from translators.sse import SSEDecoder
from translators.wire import JSON, decode

_TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})
_TEXTS = {
    "response.output_text": ("text", "content_index"),
    "response.refusal": ("refusal", "content_index"),
    "response.reasoning_text": ("text", "content_index"),
    "response.reasoning_summary_text": ("text", "summary_index"),
}
"""Event names without ``.delta`` and ``.done`` -> member of ``.done``, and the part's index."""
_INPUTS = {
    "response.function_call_arguments": ("function_call", "arguments"),
    "response.custom_tool_call_input": ("custom_tool_call", "input"),
}
_PART_OF = {
    "response.output_text": "output_text",
    "response.refusal": "refusal",
    "response.reasoning_text": "reasoning_text",
    "response.reasoning_summary_text": "summary_text",
}


class _OpenPart:
    def __init__(self, kind: str, index: int) -> None:
        self.kind = kind
        self.index = index
        self.deltas: list[str] = []
        self.logprobs: list[JSON] = []
        self.annotations: list[JSON] = []
        self.text: str | None = None


class _OpenItem:
    """The item under way; ``parts`` are open ones by the name of their index."""

    def __init__(self, body: JSON) -> None:
        self.body = body
        self.parts: dict[str, _OpenPart] = {}
        self.closed: dict[str, list[JSON]] = {"content_index": [], "summary_index": []}
        self.input: list[str] = []
        self.final_input: str | None = None


class ResponsesStreamChecker:
    """Follows a stream event by event and raises ``AssertionError`` at the first fault."""

    def __init__(self) -> None:
        self.items: list[JSON] = []
        self.final: JSON = None
        self._created: JSON = None
        self._item: _OpenItem | None = None
        self._has_error = False
        self._count = 0
        self._handlers: dict[str, Callable[[JSON], None]] = {
            "response.output_item.added": self._add_item,
            "response.output_item.done": self._end_item,
            "response.content_part.added": self._add_part,
            "response.reasoning_summary_part.added": self._add_part,
            "response.content_part.done": self._end_part,
            "response.reasoning_summary_part.done": self._end_part,
            "response.output_text.annotation.added": self._annotate,
        }

    def feed(self, body: JSON) -> None:
        kind = body["type"]
        assert body["sequence_number"] == self._count
        self._count += 1
        assert self.final is None, f"{kind} after the end"
        if self._count <= 2:
            self._begin(kind, body["response"])
            return
        if kind in _TERMINAL:
            self._end(kind, body["response"])
            return
        assert not self._has_error, f"{kind} after the error"
        if kind == "error":
            self._has_error = True
            assert {"type", "code", "message", "param"} <= body["error"].keys()
            assert body["message"] == body["error"]["message"]
            return
        stem, _, verb = kind.rpartition(".")
        if stem in _TEXTS:
            self._text(stem, verb, body)
        elif stem in _INPUTS:
            self._input(stem, verb, body)
        else:
            self._handlers[kind](body)

    # --- the response ----------------------------------------------------------------------

    def _begin(self, kind: str, response: JSON) -> None:
        assert kind == ("response.created", "response.in_progress")[self._count - 1]
        check_resource(response)
        assert response["status"] == "in_progress"
        assert response["output"] == []
        assert self._created in (None, response)
        self._created = response

    def _end(self, kind: str, response: JSON) -> None:
        self.final = response
        check_resource(response)
        assert kind == f"response.{response['status']}"
        assert (kind == "response.failed") is self._has_error
        if self._item is not None:
            assert kind == "response.failed", "an item is left open"
            assert "call_id" in self._item.body
        assert response["output"] == self.items
        for name in ("id", "created_at", "model", "object"):
            assert response[name] == self._created[name]

    # --- items -----------------------------------------------------------------------------

    def _add_item(self, body: JSON) -> None:
        item = body["item"]
        assert self._item is None, "two items are open"
        assert body["output_index"] == len(self.items)
        msgspec.convert(item, Item)
        if item["type"] != "reasoning":
            assert item["status"] == "in_progress"
        for name in ("content", "summary"):
            assert not item.get(name)
        for name in ("arguments", "input"):
            assert item.get(name, "") in ("", {})
        assert item["id"] not in [other["id"] for other in self.items]
        self._item = _OpenItem(item)

    def _end_item(self, body: JSON) -> None:
        opened, final = self._at(body, by_id=False), body["item"]
        msgspec.convert(final, Item)
        assert not opened.parts, "a part is left open"
        for name in ("id", "type", "call_id", "name", "namespace", "role"):
            assert final.get(name) == opened.body.get(name)
        assert final.get("status") != "in_progress"
        match final["type"]:
            case "message":
                assert final["content"] == opened.closed["content_index"]
            case "reasoning":
                assert final["summary"] == opened.closed["summary_index"]
                assert final.get("content", []) == opened.closed["content_index"]
            case "function_call":
                assert final["arguments"] == opened.final_input
            case "custom_tool_call":
                assert final["input"] == opened.final_input
        self.items.append(final)
        self._item = None

    def _at(self, body: JSON, *, by_id: bool = True) -> _OpenItem:
        assert self._item is not None, "no item is open"
        assert body["output_index"] == len(self.items)
        if by_id:
            assert body["item_id"] == self._item.body["id"]
        return self._item

    # --- parts -----------------------------------------------------------------------------

    def _add_part(self, body: JSON) -> None:
        opened, part = self._at(body), body["part"]
        name = "summary_index" if "summary_index" in body else "content_index"
        assert name not in opened.parts, "two parts are open"
        assert body[name] == len(opened.closed[name])
        assert not part.get("text") and not part.get("refusal")
        opened.parts[name] = _OpenPart(part["type"], body[name])

    def _end_part(self, body: JSON) -> None:
        opened, part = self._at(body), body["part"]
        name = "summary_index" if "summary_index" in body else "content_index"
        ended = opened.parts.pop(name)
        assert body[name] == ended.index
        assert part["type"] == ended.kind
        assert part["refusal" if ended.kind == "refusal" else "text"] == ended.text
        assert part.get("annotations", []) == ended.annotations
        if "logprobs" in part:
            assert part["logprobs"] == ended.logprobs
        opened.closed[name].append(part)

    def _text(self, stem: str, verb: str, body: JSON) -> None:
        member, name = _TEXTS[stem]
        part = self._at(body).parts[name]
        assert body[name] == part.index
        assert part.kind == _PART_OF[stem]
        assert part.text is None, "the text was done"
        if verb == "delta":
            part.deltas.append(body["delta"])
            part.logprobs += body.get("logprobs", [])
            assert body["delta"] or body.get("logprobs"), "an empty delta"
        else:
            part.text = body[member]
            assert "".join(part.deltas) == part.text
        if part.kind == "output_text":
            assert "logprobs" in body

    def _annotate(self, body: JSON) -> None:
        part = self._at(body).parts["content_index"]
        assert body["content_index"] == part.index
        assert body["annotation_index"] == len(part.annotations)
        part.annotations.append(body["annotation"])

    def _input(self, stem: str, verb: str, body: JSON) -> None:
        kind, member = _INPUTS[stem]
        opened = self._at(body)
        assert opened.body["type"] == kind
        assert opened.final_input is None, "the input was done"
        if verb == "delta":
            assert body["delta"], "an empty delta"
            opened.input.append(body["delta"])
        else:
            opened.final_input = body[member]
            assert "".join(opened.input) == opened.final_input


def check_responses_stream(stream: bytes) -> JSON:
    """Check a whole stream and return the terminal event's response.

    Raises:
        AssertionError: It breaks the specification.
    """
    decoder = SSEDecoder()
    frames = decoder.feed(stream)
    assert decoder.finish() == [], "the last frame is not closed"
    checker = ResponsesStreamChecker()
    is_done = False
    for frame in frames:
        assert not is_done, "a frame after [DONE]"
        if frame.data == b"[DONE]":
            is_done = True
            continue
        body = decode(frame.data)
        assert frame.event == body["type"]
        checker.feed(body)
    assert checker.final is not None, "no terminal event"
    assert is_done, "no [DONE]"
    return checker.final
