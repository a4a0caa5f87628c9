"""Streams of Responses to callers: events in, frames out.

Spec: Responses, "Streaming events"; Open Responses 2026-04-24, "Streaming".
"""

from collections.abc import Callable
from typing import Any

import msgspec

from translators.canonical import (
    Message,
    Opaque,
    Reasoning,
    Refusal,
    Request,
    Status,
    Text,
    ToolCall,
    ToolKind,
)
from translators.codec import StreamWriter
from translators.context import Context
from translators.envelope import write_error
from translators.events import (
    AlternativeEvent,
    AnnotationAdded,
    ArgumentsDelta,
    Assembler,
    DeltaRun,
    Event,
    ItemEnd,
    ItemEvent,
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
from translators.responses.content import write_logprobs, write_output
from translators.responses.items import assign_id, write_item
from translators.responses.open_item import OpenItem
from translators.responses.response import WRITE_PARAMS, write_final, write_skeleton
from translators.sequence import Sequencer
from translators.sse import DONE, encode_frame
from translators.wire import JSON, encode


class ResponsesWriter(StreamWriter):
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
        self._item: OpenItem | None = None
        self._open_index = -1
        as_ = ctx.policy.reasoning_as
        self._raw_as_summary = as_ is not ReasoningAs.CONTENT
        self._raw_as_content = as_ is not ReasoningAs.SUMMARY

    def feed(self, event: Event) -> bytes:
        """The frames of one event, possibly none."""
        return _FEED[type(event)](self, event)

    def write_run(self, run: DeltaRun) -> bytes:
        """The frames of deltas that came at a time."""
        opened = self._item
        if opened is None or opened.run_kind is not run.kind or self._open_index != run.index:
            return super().write_run(run)
        self._assembler.go_on(run)
        return self._write_deltas(opened, run.texts)

    def _in_order(self, event: ItemEvent) -> bytes:
        ready = self._sequencer.feed(event)
        if len(ready) == 1:
            return self._take(ready[0])
        return b"".join([self._take(e) for e in ready])

    def _take(self, event: Event) -> bytes:
        self._assembler.feed(event)
        return _TAKE[type(event)](self, event)

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
        members = {"response": msgspec.Raw(encode(self._skeleton))}  # repeats the caller's tools
        return self._frame("response.created", members) + self._frame(
            "response.in_progress", members
        )

    def _begin(self, event: ResponseStart) -> bytes:
        self._assembler.feed(event)
        return self._start(event)

    def _count(self, event: UsageUpdate) -> bytes:
        self._assembler.feed(event)
        return b""

    def _pass_over(self, event: AlternativeEvent) -> bytes:
        """No Responses caller can ask for several answers."""
        return b""

    def _end(self, event: ResponseEnd) -> bytes:
        self._assembler.feed(event)
        final = write_final(self._skeleton, self._assembler.response, self._ctx)
        return self._frame(f"response.{final['status']}", {"response": final}) + DONE

    def _fail(self, event: ResponseFailed) -> bytes:
        """Say what went wrong twice: some clients read ``error``, some ``response.failed``.

        What is open is closed as incomplete, but for a tool call: clients run a call when its
        item is done, so a broken one is left open and is no part of the output.
        """
        out = b""
        if self._assembler.state is State.IDLE:
            out += self._begin(ResponseStart("", self._request.model, int(self._ctx.now())))
        opened = self._item
        if opened is not None and not isinstance(opened.item, ToolCall):
            out += self._take(ItemEnd(self._open_index, Status.INCOMPLETE))
        self._assembler.feed(event)
        response = self._assembler.response
        if opened is not None and isinstance(opened.item, ToolCall):
            response.output.remove(opened.item)
        nested = write_error(event.error, WRITE_PARAMS)["error"]
        flat = {name: nested[name] for name in ("message", "code", "param")}
        out += self._frame("error", {"error": nested, **flat})
        final = write_final(self._skeleton, response, self._ctx)
        return out + self._frame("response.failed", {"response": final}) + DONE

    # --- items -----------------------------------------------------------------------------

    def _start_item(self, event: ItemStart) -> bytes:
        item = event.item
        item_id = assign_id(item, self._ctx)
        self._item = OpenItem(self._outputs, item, item_id)
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

    def _opened(self) -> OpenItem:
        if self._item is None:
            raise RuntimeError("no output item is open")
        return self._item

    # --- parts -----------------------------------------------------------------------------

    def _open_part(self, opened: OpenItem, kind: type[Text] | type[Refusal]) -> bytes:
        if opened.part is kind:
            return b""
        out = self._close_part(opened)
        opened.part = kind
        opened.content_index += 1
        part = write_output(kind(""), self._ctx)
        return out + self._frame("response.content_part.added", {**opened.at_part(), "part": part})

    def _close_part(self, opened: OpenItem) -> bytes:
        if opened.part is None:
            return b""
        if isinstance(opened.item, Reasoning):
            out = self._close_reasoning(opened, opened.item)
        elif isinstance(opened.item, Message):
            out = self._close_content(opened, opened.item)
        else:
            out = b""
        opened.part = opened.run_kind = None
        return out

    def _end_part(self, event: PartEnd) -> bytes:
        return self._close_part(self._opened())

    def _close_content(self, opened: OpenItem, message: Message) -> bytes:
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
        if event.logprobs:
            members = {"delta": event.text, "logprobs": write_logprobs(event.logprobs)}
            return out + self._frame("response.output_text.delta", {**opened.at_part(), **members})
        if opened.run_kind is None:
            opened.expect_text()
        return out + self._write_deltas(opened, [event.text]) if event.text else out

    def _write_deltas(self, opened: OpenItem, texts: list[str]) -> bytes:
        """The frames of deltas that the open item expects."""
        frames = opened.delta_frames(self._sequence_number, texts)
        self._sequence_number += len(frames)
        return b"".join(frames)

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
        if opened.run_kind is None:
            opened.expect_arguments()
        return self._write_deltas(opened, [event.text])

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
            in_summary, in_content = self._is_in_summary(opened), self._is_in_content(opened)
            opened.expect_reasoning(in_summary=in_summary, in_content=in_content)
        return out + self._write_deltas(opened, [event.text]) if event.text else out

    def _is_in_summary(self, opened: OpenItem) -> bool:
        return opened.is_digest or self._raw_as_summary

    def _is_in_content(self, opened: OpenItem) -> bool:
        return not opened.is_digest and self._raw_as_content

    def _open_reasoning(self, opened: OpenItem) -> bytes:
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

    def _close_reasoning(self, opened: OpenItem, item: Reasoning) -> bytes:
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


_Handler = Callable[[ResponsesWriter, Any], bytes]
_TAKE: dict[type[Event], _Handler] = {
    ItemStart: ResponsesWriter._start_item,
    TextDelta: ResponsesWriter._write_text,
    RefusalDelta: ResponsesWriter._write_refusal,
    AnnotationAdded: ResponsesWriter._write_annotation,
    ReasoningDelta: ResponsesWriter._write_reasoning,
    ArgumentsDelta: ResponsesWriter._write_arguments,
    PartEnd: ResponsesWriter._end_part,
    ItemEnd: ResponsesWriter._end_item,
}
_FEED: dict[type[Event], _Handler] = {
    **dict.fromkeys(_TAKE, ResponsesWriter._in_order),
    ResponseStart: ResponsesWriter._begin,
    UsageUpdate: ResponsesWriter._count,
    AlternativeEvent: ResponsesWriter._pass_over,
    ResponseEnd: ResponsesWriter._end,
    ResponseFailed: ResponsesWriter._fail,
}
