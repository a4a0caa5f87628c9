"""Streams of Responses to callers: events in, frames out.

Spec: Responses, "Streaming events"; Open Responses 2026-04-24, "Streaming".
"""

from collections.abc import Callable

from translators.canonical import (
    Item,
    Message,
    Opaque,
    Reasoning,
    Refusal,
    Request,
    Status,
    StopReason,
    Text,
    ToolCall,
    ToolKind,
)
from translators.context import Context
from translators.envelope import write_error
from translators.errors import ErrorInfo
from translators.events import (
    AlternativeEvent,
    AnnotationAdded,
    ArgumentsDelta,
    Assembler,
    Event,
    ItemEnd,
    ItemStart,
    PartEnd,
    ReasoningDelta,
    RefusalDelta,
    ResponseEnd,
    ResponseFailed,
    ResponseStart,
    State,
    TextDelta,
    UsageUpdate,
)
from translators.profiles import ReasoningAs
from translators.responses.builtin import BY_KIND
from translators.responses.content import write_logprobs, write_output
from translators.responses.items import assign_id, write_item
from translators.responses.response import WRITE_PARAMS, write_final, write_skeleton
from translators.sequence import Sequencer
from translators.sse import DONE, encode_frame
from translators.wire import JSON, encode


class _OpenItem:
    """The output item under way: its place, and the parts that are open in it."""

    __slots__ = (
        "content_index",
        "is_digest",
        "item",
        "item_id",
        "output_index",
        "part",
        "summary_index",
        "text_delta",
    )

    def __init__(self, output_index: int, item: Item, item_id: str) -> None:
        self.output_index = output_index
        self.item = item
        self.item_id = item_id
        self.content_index = -1
        self.summary_index = -1
        self.part: type[Text] | type[Refusal] | type[Reasoning] | None = None
        self.is_digest = False
        self.text_delta: tuple[bytes, bytes] | None = None

    def at(self) -> dict[str, JSON]:
        return {"item_id": self.item_id, "output_index": self.output_index}

    def at_part(self) -> dict[str, JSON]:
        return {**self.at(), "content_index": self.content_index}

    def at_summary(self) -> dict[str, JSON]:
        return {**self.at(), "summary_index": self.summary_index}


class ResponsesWriter:
    """Writes events as Responses frames, one output item open at a time."""

    def __init__(self, request: Request, ctx: Context) -> None:
        """Make a writer for the reply to ``request``."""
        self._request = request
        self._ctx = ctx
        self._sequencer = Sequencer()
        self._assembler = Assembler()
        self._sequence_number = 0
        self._skeleton: dict[str, JSON] = {}
        self._outputs = 0
        self._item: _OpenItem | None = None
        self._open_index = -1
        as_ = ctx.policy.reasoning_as
        self._raw_as_summary = as_ is not ReasoningAs.CONTENT
        self._raw_as_content = as_ is not ReasoningAs.SUMMARY
        self._handlers: dict[type[Event], Callable[..., bytes]] = {
            ResponseStart: self._start,
            ItemStart: self._start_item,
            TextDelta: self._write_text,
            RefusalDelta: self._write_refusal,
            AnnotationAdded: self._write_annotation,
            ReasoningDelta: self._write_reasoning,
            ArgumentsDelta: self._write_arguments,
            PartEnd: self._end_part,
            ItemEnd: self._end_item,
        }

    def feed(self, event: Event) -> bytes:
        """The frames of one event, possibly none."""
        match event:
            case TextDelta():  # the most frequent one first
                pass
            case ResponseStart():
                return self._take(event)
            case UsageUpdate():
                self._assembler.feed(event)
                return b""
            case ResponseEnd():
                self._assembler.feed(event)
                return self._end(event.stop)
            case ResponseFailed(error=error):
                return self._fail(error)
            case AlternativeEvent():
                return b""  # no Responses caller can ask for several answers
        ready = self._sequencer.feed(event)
        if len(ready) == 1:
            return self._take(ready[0])
        return b"".join([self._take(e) for e in ready])

    def _take(self, event: Event) -> bytes:
        self._assembler.feed(event)
        return self._handlers[type(event)](event)

    def _frame(self, kind: str, members: dict[str, JSON]) -> bytes:
        body = {"type": kind, "sequence_number": self._sequence_number, **members}
        self._sequence_number += 1
        return encode_frame(kind, encode(body))

    # --- the response ----------------------------------------------------------------------

    def heartbeat(self) -> bytes:
        """A sign of life that clients count: they take no notice of comments.

        Before the upstream has said anything it is the beginning of the response.
        """
        if not self._skeleton:
            return self._start(ResponseStart("", "", int(self._ctx.now())))
        return self._frame("response.in_progress", {"response": self._skeleton})

    def _start(self, event: ResponseStart) -> bytes:
        if self._skeleton:
            return b""
        self._skeleton = write_skeleton(
            self._ctx.new_id("resp"), event.created, event.model, self._request, self._ctx
        )
        members = {"response": self._skeleton}
        return self._frame("response.created", members) + self._frame(
            "response.in_progress", members
        )

    def _end(self, stop: StopReason) -> bytes:
        final = write_final(self._skeleton, self._assembler.response, self._ctx)
        return self._frame(f"response.{final['status']}", {"response": final}) + DONE

    def _fail(self, error: ErrorInfo) -> bytes:
        """Say what went wrong twice: some clients read ``error``, some ``response.failed``.

        What is open is closed as incomplete, but for a tool call: clients run a call when its
        item is done, so a broken one is left open and is no part of the output.
        """
        out = b""
        if self._assembler.state is State.IDLE:
            out += self._start(self._begin())
        opened = self._item
        if opened is not None and not isinstance(opened.item, ToolCall):
            out += self._take(ItemEnd(self._open_index, Status.INCOMPLETE))
        self._assembler.feed(ResponseFailed(error))
        response = self._assembler.response
        if opened is not None and isinstance(opened.item, ToolCall):
            response.output.remove(opened.item)
        nested = write_error(error, WRITE_PARAMS)["error"]
        flat = {name: nested[name] for name in ("message", "code", "param")}
        out += self._frame("error", {"error": nested, **flat})
        final = write_final(self._skeleton, response, self._ctx)
        return out + self._frame("response.failed", {"response": final}) + DONE

    def _begin(self) -> ResponseStart:
        start = ResponseStart("", self._request.model, int(self._ctx.now()))
        self._assembler.feed(start)
        return start

    # --- items -----------------------------------------------------------------------------

    def _start_item(self, event: ItemStart) -> bytes:
        item = event.item
        item_id = assign_id(item, self._ctx)
        self._item = _OpenItem(self._outputs, item, item_id)
        self._open_index = event.index
        self._outputs += 1
        body = write_item(item, self._ctx)
        if not isinstance(item, Opaque | Reasoning):
            body["status"] = "in_progress"
        return self._frame(
            "response.output_item.added",
            {"output_index": self._item.output_index, "item": body},
        )

    def _end_item(self, event: ItemEnd) -> bytes:
        opened = self._opened()
        out = self._close_part(opened)
        match opened.item:
            case ToolCall(kind=ToolKind.CUSTOM, arguments=text):
                out += self._frame(
                    "response.custom_tool_call_input.done", {**opened.at(), "input": text}
                )
            case ToolCall(kind=ToolKind.FUNCTION, arguments=text, name=name):
                out += self._frame(
                    "response.function_call_arguments.done",
                    {**opened.at(), "name": name, "arguments": text},
                )
        body = write_item(opened.item, self._ctx)
        out += self._frame(
            "response.output_item.done", {"output_index": opened.output_index, "item": body}
        )
        self._item = None
        return out

    def _opened(self) -> _OpenItem:
        if self._item is None:
            raise RuntimeError("no output item is open")
        return self._item

    # --- parts -----------------------------------------------------------------------------

    def _open_part(self, opened: _OpenItem, kind: type[Text] | type[Refusal]) -> bytes:
        if opened.part is kind:
            return b""
        out = self._close_part(opened)
        opened.part = kind
        opened.content_index += 1
        opened.text_delta = None
        part = write_output(kind(""), self._ctx)
        return out + self._frame("response.content_part.added", {**opened.at_part(), "part": part})

    def _close_part(self, opened: _OpenItem) -> bytes:
        if opened.part is None:
            return b""
        if isinstance(opened.item, Reasoning):
            out = self._close_reasoning(opened, opened.item)
        elif isinstance(opened.item, Message):
            out = self._close_content(opened, opened.item)
        else:
            out = b""
        opened.part = None
        return out

    def _end_part(self, event: PartEnd) -> bytes:
        return self._close_part(self._opened())

    def _close_content(self, opened: _OpenItem, message: Message) -> bytes:
        part = write_output(message.parts[opened.content_index], self._ctx)
        if part["type"] == "refusal":
            done = self._frame(
                "response.refusal.done", {**opened.at_part(), "refusal": part["refusal"]}
            )
        else:
            text = {"text": part["text"], "logprobs": part["logprobs"]}
            done = self._frame("response.output_text.done", {**opened.at_part(), **text})
        return done + self._frame("response.content_part.done", {**opened.at_part(), "part": part})

    def _write_text(self, event: TextDelta) -> bytes:
        opened = self._opened()
        out = self._open_part(opened, Text)
        if not event.logprobs:
            return out + self._text_delta(opened, event.text) if event.text else out
        members = {"delta": event.text, "logprobs": write_logprobs(event.logprobs)}
        return out + self._frame("response.output_text.delta", {**opened.at_part(), **members})

    def _text_delta(self, opened: _OpenItem, text: str) -> bytes:
        """The most frequent frame: only number and text are encoded, which saves 1.5 us of 2."""
        if opened.text_delta is None:
            place = encode(opened.at_part())[1:-1]
            opened.text_delta = (
                b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta",'
                b'"sequence_number":',
                b',%b,"delta":' % place,
            )
        number = self._sequence_number
        self._sequence_number += 1
        head, place = opened.text_delta
        return b'%b%d%b%b,"logprobs":[]}\n\n' % (head, number, place, encode(text))

    def _write_refusal(self, event: RefusalDelta) -> bytes:
        opened = self._opened()
        out = self._open_part(opened, Refusal)
        return out + self._frame(
            "response.refusal.delta", {**opened.at_part(), "delta": event.text}
        )

    def _write_annotation(self, event: AnnotationAdded) -> bytes:
        opened = self._opened()
        message = opened.item
        last = message.parts[-1] if isinstance(message, Message) else None
        position = len(last.annotations) - 1 if isinstance(last, Text) else 0
        members = {"annotation_index": position, "annotation": event.annotation}
        return self._frame("response.output_text.annotation.added", {**opened.at_part(), **members})

    def _write_arguments(self, event: ArgumentsDelta) -> bytes:
        opened = self._opened()
        kind = opened.item.kind if isinstance(opened.item, ToolCall) else ToolKind.FUNCTION
        if kind in BY_KIND:
            return b""
        name = "custom_tool_call_input" if kind is ToolKind.CUSTOM else "function_call_arguments"
        return self._frame(f"response.{name}.delta", {**opened.at(), "delta": event.text})

    # --- reasoning -------------------------------------------------------------------------

    def _write_reasoning(self, event: ReasoningDelta) -> bytes:
        """Raw reasoning goes to the summary, to the content or to both; a digest stays one."""
        opened = self._opened()
        out = b""
        if opened.part is None or opened.is_digest is not event.summary:
            out += self._close_part(opened)
            opened.part = Reasoning
            opened.is_digest = event.summary
            out += self._open_reasoning(opened)
        if not event.text:
            return out
        delta = {"delta": event.text}
        if self._is_in_summary(opened):
            members = {**opened.at_summary(), **delta}
            out += self._frame("response.reasoning_summary_text.delta", members)
        if self._is_in_content(opened):
            out += self._frame("response.reasoning_text.delta", {**opened.at_part(), **delta})
        return out

    def _is_in_summary(self, opened: _OpenItem) -> bool:
        return opened.is_digest or self._raw_as_summary

    def _is_in_content(self, opened: _OpenItem) -> bool:
        return not opened.is_digest and self._raw_as_content

    def _open_reasoning(self, opened: _OpenItem) -> bytes:
        out = b""
        if self._is_in_summary(opened):
            opened.summary_index += 1
            part = {"type": "summary_text", "text": ""}
            members = {**opened.at_summary(), "part": part}
            out += self._frame("response.reasoning_summary_part.added", members)
        if self._is_in_content(opened):
            opened.content_index += 1
            part = {"type": "reasoning_text", "text": ""}
            out += self._frame("response.content_part.added", {**opened.at_part(), "part": part})
        return out

    def _close_reasoning(self, opened: _OpenItem, item: Reasoning) -> bytes:
        out = b""
        text = (item.summary if opened.is_digest else item.content)[-1]
        if self._is_in_summary(opened):
            at = opened.at_summary()
            part = {"type": "summary_text", "text": text}
            out += self._frame("response.reasoning_summary_text.done", {**at, "text": text})
            out += self._frame("response.reasoning_summary_part.done", {**at, "part": part})
        if self._is_in_content(opened):
            part = {"type": "reasoning_text", "text": text}
            out += self._frame("response.reasoning_text.done", {**opened.at_part(), "text": text})
            out += self._frame("response.content_part.done", {**opened.at_part(), "part": part})
        return out
