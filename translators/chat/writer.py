"""Streams of Chat Completions to callers: events in, chunks out.

Spec: Chat Completions, "The chat completion chunk object".
"""

from collections.abc import Mapping

from translators.canonical import (
    Item,
    Reasoning,
    Request,
    StopReason,
    ToolCall,
    ToolKind,
    Usage,
)
from translators.chat.response import (
    WRITE_PARAMS,
    nested_annotation,
    reasoning_members,
    split_extra,
    write_call,
)
from translators.chat.usage import write_usage
from translators.codec import StreamWriter
from translators.context import Context
from translators.envelope import write_error
from translators.events import (
    AlternativeEvent,
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
    TextDelta,
    UsageUpdate,
)
from translators.sse import DONE, GAP, cut_frame, encode_frame
from translators.token_ids import MEMBERS as TOKEN_MEMBERS
from translators.wire import JSON, encode


class ChatWriter(StreamWriter):
    """Writes events as chunks, of one choice unless there are alternatives."""

    def __init__(self, request: Request, ctx: Context, *, index: int = 0) -> None:
        """Make a writer for choice ``index`` of the reply to ``request``.

        That of choice 0 writes the others too, and the end of the stream.
        """
        self._request = request
        self._ctx = ctx
        self._index = index
        self._alternatives: dict[int, ChatWriter] = {}
        self._base: dict[str, JSON] = {}
        self._calls: dict[int, int] = {}
        self._items: dict[int, Item] = {}
        self._summaries: dict[int, bool] = {}
        self._deltas: dict[tuple[type[Event], int], list[bytes]] = {}
        self._has_reasoned = False
        self._gap = ""
        self._usage: Usage | None = None
        self._token_ids: dict[str, JSON] = {}

    def feed(self, event: Event) -> bytes:
        """The frames of one event, possibly none."""
        match event:
            case TextDelta(text=text, logprobs=logprobs):
                if logprobs:
                    both = {"content": logprobs, "refusal": None}
                    return self._chunk({"content": text}, logprobs=both)
                return self._write_delta(event, text) if text else b""
            case ReasoningDelta():
                return self._write_reasoning(event)
            case ArgumentsDelta(text=text):
                return self._write_delta(event, text)
            case RefusalDelta(text=text, logprobs=logprobs):
                probs = {"content": None, "refusal": logprobs} if logprobs else None
                return self._chunk({"refusal": text}, logprobs=probs)
            case AnnotationAdded(annotation=annotation):
                return self._chunk({"annotations": [nested_annotation(annotation)]})
            case ItemStart(index=index, item=item):
                self._items[index] = item
                self._deltas.clear()  # an upstream may have announced another item here before
                if isinstance(item, ToolCall):
                    return self._start_call(index, item)
                if isinstance(item, Reasoning) and self._has_reasoned:
                    self._gap = "\n"
            case PartEnd(index=index):
                if isinstance(self._items.get(index), Reasoning) and self._has_reasoned:
                    self._gap = "\n"
            case ResponseStart():
                return self._start(event)
            case ItemEnd(extra=extra):
                self._token_ids |= {k: v for k, v in extra.items() if k in TOKEN_MEMBERS}
            case UsageUpdate(usage=usage):
                self._usage = usage
            case AlternativeEvent(number=number, event=other):
                if number not in self._alternatives:
                    writer = ChatWriter(self._request, self._ctx, index=number)
                    self._alternatives[number] = writer
                return self._alternatives[number].feed(other)
            case ResponseEnd():
                return self._end(event)
            case ResponseFailed(error=error):
                return encode_frame(None, encode(write_error(error, WRITE_PARAMS)))
        return b""

    def write_run(self, run: DeltaRun) -> bytes:
        """The frames of deltas that came at a time."""
        frame = self._deltas.get((run.kind, run.index))
        if frame is None or self._gap:
            return super().write_run(run)
        return b"".join([encode(text).join(frame) for text in run.texts])

    def heartbeat(self) -> bytes:
        """A comment, which Chat clients skip."""
        return b": alive\n\n"

    def _start(self, event: ResponseStart) -> bytes:
        self._base = {
            "id": event.id,
            "object": "chat.completion.chunk",
            "created": event.created,
            "model": self._ctx.public_model or event.model or self._request.model,
        }
        return self._chunk({"role": "assistant", "content": ""})

    def _chunk(
        self,
        delta: JSON,
        *,
        finish: str | None = None,
        logprobs: JSON = None,
        extra: Mapping[str, JSON] | None = None,
    ) -> bytes:
        return encode_frame(None, encode(self._body(delta, finish, logprobs, extra)))

    def _body(
        self,
        delta: JSON,
        finish: str | None = None,
        logprobs: JSON = None,
        extra: Mapping[str, JSON] | None = None,
    ) -> JSON:
        choice = {
            "index": self._index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish,
        }
        if extra:
            choice.update(extra)
        return {**self._base, "choices": [choice]}

    def _write_delta(self, event: TextDelta | ReasoningDelta | ArgumentsDelta, text: str) -> bytes:
        """The most frequent chunks: only the text is encoded, which saves 1.5 us of 2."""
        key = type(event), event.index
        frame = self._deltas.get(key)
        if frame is None:
            frame = self._deltas[key] = cut_frame(None, self._body(self._delta(event)))
        return encode(text).join(frame)

    def _delta(self, event: TextDelta | ReasoningDelta | ArgumentsDelta) -> JSON:
        """What a delta's chunk says, with a gap for its text."""
        match event:
            case TextDelta():
                return {"content": GAP}
            case ReasoningDelta():
                return reasoning_members(GAP, self._ctx)
        call: JSON = {"index": self._calls[event.index], "function": {"arguments": GAP}}
        item = self._items[event.index]
        if isinstance(item, ToolCall) and item.kind is ToolKind.CUSTOM:
            call = {"index": self._calls[event.index], "custom": {"input": GAP}}
        return {"tool_calls": [call]}

    def _write_reasoning(self, event: ReasoningDelta) -> bytes:
        """Send the kind of reasoning that came first: the other one repeats it."""
        first = self._summaries.setdefault(event.index, event.summary)
        if first is not event.summary or not event.text:
            return b""
        self._has_reasoned = True
        text, self._gap = self._gap + event.text, ""
        if event.summary:
            return self._chunk(reasoning_members(text, self._ctx))
        return self._write_delta(event, text)

    def _start_call(self, index: int, call: ToolCall) -> bytes:
        position = self._calls[index] = len(self._calls)
        return self._chunk({"tool_calls": [{"index": position, **write_call(call, self._ctx)}]})

    def _end(self, event: ResponseEnd) -> bytes:
        stop = event.stop
        if stop is StopReason.STOP and self._calls:
            stop = StopReason.TOOL_CALLS
        extra, choice = split_extra(event.extra)
        self._base = {**extra, **self._base}
        last = self._chunk(self._token_ids, finish=stop.value, extra=choice)
        if self._index:
            return last
        if self._request.include_usage and self._usage is not None:
            usage = {**self._base, "choices": [], "usage": write_usage(self._usage)}
            last += encode_frame(None, encode(usage))
        return last + DONE
