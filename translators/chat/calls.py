"""Tool calls of a Chat stream: fragments in, calls out, whatever servers do to indexes and ids."""

from collections.abc import Sequence

from translators.canonical import ToolCall, ToolKind
from translators.chat.freeform import InputDecoder
from translators.chat.response import restore_name
from translators.chat.schema import SIGNED
from translators.context import Context
from translators.errors import UpstreamProtocolError
from translators.events import ArgumentsDelta, Event, ItemEnd, ItemStart
from translators.wire import JSON, encode, is_json


class _Call:
    """One call under way; ``item_index`` is ``None`` until its name is known.

    ``decoder`` turns a function's arguments into a custom tool's text.
    """

    __slots__ = ("call_id", "decoder", "extra", "is_closed", "item_index", "kind", "name", "pieces")

    def __init__(self, call_id: str) -> None:
        self.call_id = call_id
        self.name = ""
        self.kind = ToolKind.FUNCTION
        self.pieces: list[str] = []
        self.item_index: int | None = None
        self.is_closed = False
        self.decoder: InputDecoder | None = None
        self.extra: dict[str, JSON] = {}

    def delta(self, text: str) -> list[Event]:
        """The event of more arguments, none if they bring no text yet."""
        if self.decoder is not None:
            text = self.decoder.feed(text)
        return [ArgumentsDelta(_index(self), text)] if text else []

    def rest(self) -> list[Event]:
        """The event of what is still owed when the call is complete."""
        text = ""
        if self.decoder is not None:
            text = self.decoder.finish(self.arguments())
        elif self.kind is ToolKind.FUNCTION and not self.arguments().strip():
            text = "{}"
            self.pieces.append(text)
        return [ArgumentsDelta(_index(self), text)] if text else []

    def arguments(self) -> str:
        return "".join(self.pieces)


class CallReader:
    """Reads ``delta.tool_calls`` into events.

    A call is announced when its name is known for certain: at once if it is a declared tool's,
    else with its first argument. It stays open until the stream ends, because arguments that
    parse may still go on; only when something else begins is a complete call closed before.
    """

    def __init__(self, ctx: Context) -> None:
        """Make a reader for one stream."""
        self._ctx = ctx
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}

    def __len__(self) -> int:
        """How many calls have begun."""
        return len(self._calls)

    def feed(self, entry: dict[str, JSON], next_index: int) -> list[Event]:
        """Events of one entry of ``tool_calls``.

        Args:
            entry: A ``schema.ToolCallDelta`` as JSON; ``""`` and ``null`` count as absent.
            next_index: Index for an item that starts now.

        Raises:
            UpstreamProtocolError: The entry continues a call that was closed.
        """
        custom = entry.get("custom")
        body = custom or entry.get("function") or {}
        name = body.get("name") or ""
        piece = body.get("input") if custom else body.get("arguments")
        text = piece if isinstance(piece, str) else "" if piece is None else encode(piece).decode()
        call = self._find(entry.get("index"), entry.get("id") or "", name)
        if custom:
            call.kind = ToolKind.CUSTOM
        if (signed := entry.get(SIGNED)) is not None:
            call.extra[SIGNED] = signed
        events: list[Event] = []
        if call.item_index is None:
            if name != call.name:
                call.name += name
            if text:
                call.pieces.append(text)
            if call.name and (call.pieces or self._ctx.tool_names.is_whole(call.name)):
                events += self._start(call, next_index)
        elif text:
            if call.is_closed:
                raise UpstreamProtocolError(
                    f"The upstream went on with the call of '{call.name}' after it was complete."
                )
            call.pieces.append(text)
            events += call.delta(text)
        return events

    def plain_call(self, item_index: int) -> int | None:
        """The upstream's index of a call whose arguments go on as they come, if it has one."""
        for index, call in self._by_index.items():
            if call.item_index == item_index and call.decoder is None and not call.is_closed:
                return index
        return None

    def go_on(self, index: int, texts: Sequence[str]) -> None:
        """Take more arguments of a plain call."""
        self._by_index[index].pieces += texts

    def finish(self, next_index: int) -> list[Event]:
        """Announce and complete what is left; the calls stay open.

        Raises:
            UpstreamProtocolError: A call never got a name.
        """
        events: list[Event] = []
        for call in self._calls:
            if call.item_index is None:
                if not call.name:
                    raise UpstreamProtocolError("The upstream streamed a tool call without a name.")
                events += self._start(call, next_index)
                next_index += 1
            if not call.is_closed:
                events += call.rest()
        return events

    def close_complete(self) -> list[Event]:
        """End the calls whose arguments are whole, as something else begins after them."""
        events: list[Event] = []
        for call in self._calls:
            if call.item_index is None or call.is_closed or not is_json(call.arguments()):
                continue
            events += call.rest()
            call.is_closed = True
            events.append(ItemEnd(call.item_index))
        return events

    def open_indexes(self) -> list[int]:
        """Indexes of the items that are still open, oldest first."""
        return [
            call.item_index
            for call in self._calls
            if call.item_index is not None and not call.is_closed
        ]

    def last(self) -> ToolCall | None:
        """The call that began last, with its arguments so far."""
        if not self._calls:
            return None
        call = self._calls[-1]
        return ToolCall(call.call_id, call.name, call.arguments(), call.kind)

    def _find(self, index: JSON, call_id: str, name: str) -> _Call:
        call: _Call | None
        if isinstance(index, int):
            call = self._by_index.get(index)
            if call is None or self._is_another(call, call_id, name):
                call = self._by_index[index] = self._begin(call_id)
            return call
        known = (call for call in self._calls if call_id and call.call_id == call_id)
        call = next(known, None)
        if call is None:
            last = self._calls[-1] if self._calls and not call_id else None
            call = last if last is not None and not (name and last.pieces) else None
        return call or self._begin(call_id)

    def _is_another(self, call: _Call, call_id: str, name: str) -> bool:
        """Whether an index was reused; some servers merely make up a new id for each chunk."""
        if not call_id or not name or call_id == call.call_id:
            return False
        return name != call.name or is_json(call.arguments())

    def _begin(self, call_id: str) -> _Call:
        call = _Call(call_id)
        self._calls.append(call)
        return call

    def _start(self, call: _Call, index: int) -> list[Event]:
        events = self.close_complete()
        item = ToolCall(call.call_id, call.name, "", call.kind, extra=call.extra)
        restore_name(item, self._ctx)
        call.call_id = item.call_id
        call.item_index = index
        events.append(ItemStart(index, item))
        if item.kind is ToolKind.CUSTOM and call.kind is ToolKind.FUNCTION:
            call.decoder = InputDecoder()
        return events + call.delta(call.arguments())


def _index(call: _Call) -> int:
    assert call.item_index is not None
    return call.item_index
