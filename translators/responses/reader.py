"""Streams of a Responses upstream: frames in, events out.

Servers differ in what they repeat: some send texts only in their ``done`` events, some leave the
terminal ``output`` empty. Whatever a later event knows more is streamed then.

Spec: Responses, "Streaming events".
"""

from collections.abc import Callable, Sequence

import msgspec

from translators.canonical import Item, Message, Opaque, Reasoning, Role, ToolCall, ToolKind
from translators.codec import StreamReader
from translators.context import Context
from translators.envelope import error_of
from translators.errors import ErrorInfo, UpstreamProtocolError
from translators.events import (
    AnnotationAdded,
    ArgumentsDelta,
    DeltaRun,
    Event,
    ItemEnd,
    ItemStart,
    PartEnd,
    ReasoningDelta,
    RefusalDelta,
    ResponseEnd,
    ResponseFailed,
    ResponseStart,
    RunKind,
    TextDelta,
    UsageUpdate,
)
from translators.responses import schema
from translators.responses.items import read_item, read_output_item
from translators.responses.response import PARAMS, read_response
from translators.sse import Frame
from translators.token_ids import carried
from translators.unfold import skeleton, unfold_item
from translators.wire import JSON, UNREADABLE, decode, open_as

_Delta = Callable[["_Item", str, dict[str, JSON]], Event]


class _Item:
    """One output item of the upstream; ``sent`` counts the characters of its current part."""

    __slots__ = ("has_ended", "index", "item", "parts", "sent")

    def __init__(self, index: int, item: Item) -> None:
        self.index = index
        self.item = item
        self.parts = 0
        self.sent = 0
        self.has_ended = False


def _text_delta(item: _Item, text: str, frame: dict[str, JSON]) -> Event:
    return TextDelta(item.index, text, frame.get("logprobs") or [])


def _refusal_delta(item: _Item, text: str, frame: dict[str, JSON]) -> Event:
    return RefusalDelta(item.index, text)


def _thought_delta(item: _Item, text: str, frame: dict[str, JSON]) -> Event:
    return ReasoningDelta(item.index, text)


def _summary_delta(item: _Item, text: str, frame: dict[str, JSON]) -> Event:
    return ReasoningDelta(item.index, text, True)


def _arguments_delta(item: _Item, text: str, frame: dict[str, JSON]) -> Event:
    return ArgumentsDelta(item.index, text)


_DELTAS: dict[str, tuple[str, _Delta]] = {
    "response.output_text": ("text", _text_delta),
    "response.refusal": ("refusal", _refusal_delta),
    "response.reasoning_text": ("text", _thought_delta),
    "response.reasoning": ("text", _thought_delta),
    "response.reasoning_summary_text": ("text", _summary_delta),
    "response.function_call_arguments": ("arguments", _arguments_delta),
    "response.custom_tool_call_input": ("input", _arguments_delta),
}
"""Event names without ``.delta`` and ``.done`` -> the member of ``.done``, and the event made."""

_RUNS: dict[str, RunKind] = {
    "response.output_text.delta": TextDelta,
    "response.reasoning_text.delta": ReasoningDelta,
    "response.function_call_arguments.delta": ArgumentsDelta,
}
"""Events that may come in runs -> those made of them."""

_decode_plain = msgspec.json.Decoder(schema.PlainDelta).decode
_ATTEMPTS = 16
"""So many frames in a row may not be plain before a stream is taken for one without such."""

_PARTS = frozenset({"response.content_part.added", "response.reasoning_summary_part.added"})
_TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})


class ResponsesReader(StreamReader):
    """Reads the upstream's frames into events."""

    def __init__(self, ctx: Context) -> None:
        """Make a reader for one stream."""
        self._ctx = ctx
        self._is_started = False
        self._is_over = False
        self._items: dict[int, _Item] = {}
        self._unready: dict[int, ToolCall] = {}
        self._run: tuple[str, int] | None = None
        self._attempts = _ATTEMPTS

    def read_run(self, frames: Sequence[Frame]) -> DeltaRun | None:
        """The deltas of the first frames that bring more of what the last one brought."""
        if self._run is None:
            return None
        name, place = self._run
        texts = []
        try:
            for frame in frames:
                body = _decode_plain(frame.data)
                text = body.delta
                if not text or body.type != name or body.output_index != place:
                    break
                texts.append(text)
        except UNREADABLE:
            self._attempts -= 1
        if not texts:
            return None
        self._attempts = _ATTEMPTS
        item = self._items[place]
        item.sent += len("".join(texts))
        return DeltaRun(_RUNS[name], item.index, texts)

    def feed(self, frame: Frame) -> list[Event]:
        """Events of one frame; none after the end.

        Raises:
            UpstreamProtocolError: The frame is not a Responses event.
        """
        self._run = None
        if self._is_over or frame.data == b"[DONE]":
            return []
        body = decode(frame.data, UpstreamProtocolError)
        if not isinstance(body, dict):
            raise UpstreamProtocolError("A frame of the upstream's stream is not an object.")
        kind = body.get("type") or frame.event
        if kind == "error" or (kind is None and ("error" in body or "detail" in body)):
            self._is_over = True
            return [ResponseFailed(error_of(body, 200, PARAMS))]
        if not isinstance(kind, str):
            raise UpstreamProtocolError("A frame of the upstream's stream has no type.")
        if kind.startswith("response."):
            open_as(schema.StreamEvent, body, "", UpstreamProtocolError)
        events: list[Event] = []
        self._start(body, events)
        stem, _, verb = kind.rpartition(".")
        if stem in _DELTAS and verb in ("delta", "done"):
            self._read_delta(stem, body, events)
        elif kind == "response.output_item.added":
            self._add_item(body, events)
        elif kind == "response.output_item.done":
            self._end_item(self._place(body), body.get("item"), events)
        elif kind in _PARTS:
            self._begin_part(body, events)
        elif kind == "response.output_text.annotation.added":
            item = self._find(body, Message(Role.ASSISTANT, []), events)
            if not item.has_ended:
                events.append(TextDelta(item.index, ""))
                events.append(AnnotationAdded(item.index, body.get("annotation")))
        elif kind in _TERMINAL:
            self._end(verb, body.get("response") or {}, events)
        return events

    def finish(self) -> list[Event]:
        """Events of the end of the stream; without a terminal event it was cut."""
        if self._is_over:
            return []
        self._is_over = True
        error = ErrorInfo(
            "The upstream's stream broke off before its end.",
            status=502,
            code="upstream_stream_truncated",
        )
        return [ResponseFailed(error)]

    def _start(self, body: dict[str, JSON], events: list[Event]) -> None:
        if self._is_started:
            return
        self._is_started = True
        response = body.get("response") or {}
        created = response.get("created_at")
        events.append(
            ResponseStart(
                id=response.get("id") or self._ctx.new_id("resp"),
                model=response.get("model") or "",
                created=int(self._ctx.now() if created is None else created),
            )
        )

    def _add_item(self, body: dict[str, JSON], events: list[Event]) -> None:
        item = read_item(body.get("item"), "item", UpstreamProtocolError)
        if isinstance(item, Opaque):
            return
        output_index = body.get("output_index")
        place = output_index if isinstance(output_index, int) else len(self._items)
        if isinstance(item, ToolCall) and not (item.name and item.call_id):
            self._unready[place] = item
        else:
            self._open(place, skeleton(item), events)

    def _place(self, body: dict[str, JSON]) -> int:
        """Where the item of a frame is; without an index it is the last one that is open.

        Some servers leave the index out. Ids are no help: others change them in each frame.
        """
        output_index = body.get("output_index")
        if isinstance(output_index, int):
            return output_index
        still_open = (place for place, item in self._items.items() if not item.has_ended)
        return max(still_open, default=len(self._items))

    def _open(self, place: int, item: Item, events: list[Event]) -> _Item:
        for other in self._items.values():
            if not other.has_ended and not isinstance(other.item, ToolCall):
                self._close(other, events)
        opened = self._items[place] = _Item(len(self._items), item)
        events.append(ItemStart(opened.index, item))
        return opened

    def _find(self, body: dict[str, JSON], like: Item, events: list[Event]) -> _Item:
        """The item that a frame speaks of; one that was never announced begins now."""
        place = self._place(body)
        found = self._items.get(place)
        if found is None:
            return self._open(place, like, events)
        if type(found.item) is not type(like):
            raise UpstreamProtocolError(
                f"The upstream sent '{body.get('type')}' for an item of another type."
            )
        return found

    def _begin_part(self, body: dict[str, JSON], events: list[Event]) -> None:
        item = self._items.get(self._place(body))
        if item is None or item.has_ended:
            return
        item.parts += 1
        item.sent = 0
        if item.parts > 1:
            events.append(PartEnd(item.index))

    def _read_delta(self, stem: str, body: dict[str, JSON], events: list[Event]) -> None:
        """A delta, or what a ``done`` event knows more than the deltas before it.

        A call waits for the event that names it, which knows the whole arguments.
        """
        member, make = _DELTAS[stem]
        delta = body.get("delta")
        place = self._place(body)
        like = _like(stem, body)
        if isinstance(like, ToolCall) and place not in self._items:
            like.call_id = self._unready.get(place, like).call_id
            if not (like.name and like.call_id):
                return
        item = self._find(body, like, events)
        if item.has_ended:
            return
        if delta is None:
            whole = body.get(member) or ""
            delta = whole[item.sent :]
            body = {}
        if delta or body.get("logprobs"):
            item.sent += len(delta)
            events.append(make(item, delta, body))
            if f"{stem}.delta" in _RUNS and self._attempts:
                self._run = f"{stem}.delta", place

    def _end_item(self, place: int, body: JSON, events: list[Event]) -> None:
        final = read_output_item(body, "item")
        opened = self._items.get(place)
        if opened is None:
            if isinstance(final, Opaque):
                self._ctx.lose("output", f"the upstream's item '{final.kind}' cannot be said")
                return
            opened = self._open(place, skeleton(final), events)
        if opened.has_ended:
            return
        if opened.sent == 0 and opened.parts <= 1:
            events += [
                event
                for event in unfold_item(opened.index, final)
                if not isinstance(event, ItemStart | ItemEnd)
            ]
        elif isinstance(final, ToolCall) and len(final.arguments) > opened.sent:
            events.append(ArgumentsDelta(opened.index, final.arguments[opened.sent :]))
        if isinstance(final, Reasoning) and isinstance(opened.item, Reasoning):
            opened.item.encrypted = final.encrypted
        self._close(opened, events, final)

    def _close(self, opened: _Item, events: list[Event], final: Item | None = None) -> None:
        opened.has_ended = True
        if isinstance(final, Message | Reasoning | ToolCall):
            events.append(ItemEnd(opened.index, final.status, carried(final)))
        else:
            events.append(ItemEnd(opened.index))

    def _end(self, verb: str, response: dict[str, JSON], events: list[Event]) -> None:
        """The terminal event; items that no event announced are in its ``output``.

        A failure is one whatever status the response has; else the event's name stands in for a
        status that is missing.
        """
        if verb == "failed" or response.get("status") is None:
            response = {**response, "status": verb}
        self._is_over = True
        for output_index, body in enumerate(response.get("output") or ()):
            opened = self._items.get(output_index)
            if opened is None or not opened.has_ended:
                self._end_item(output_index, body, events)
        for opened in self._items.values():
            if not opened.has_ended:
                self._close(opened, events)
        final = read_response({**response, "output": response.get("output") or []}, self._ctx)
        if final.usage is not None:
            events.append(UsageUpdate(final.usage))
        if final.error is not None:
            events.append(ResponseFailed(final.error))
        elif final.stop is not None:
            events.append(ResponseEnd(final.stop, final.raw_stop, final.extra))


def _like(stem: str, body: dict[str, JSON]) -> Item:
    """The kind of item that a delta belongs to, for streams that do not announce items."""
    call_id = str(body.get("call_id") or body.get("item_id") or "")
    match stem:
        case "response.function_call_arguments":
            return ToolCall(call_id, str(body.get("name") or ""), "")
        case "response.custom_tool_call_input":
            return ToolCall(call_id, str(body.get("name") or ""), "", ToolKind.CUSTOM)
        case "response.output_text" | "response.refusal":
            return Message(Role.ASSISTANT, [])
    return Reasoning()
