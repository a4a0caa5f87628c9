"""Streams of a Chat upstream: chunks in, events out.

Spec: Chat Completions, "The chat completion chunk object".
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from translators.canonical import (
    Item,
    Message,
    Reasoning,
    Role,
    Status,
    StopReason,
    Usage,
)
from translators.chat import schema
from translators.chat.calls import CallReader
from translators.chat.content import part_thoughts
from translators.chat.grammars import BoundReader
from translators.chat.plain import DECODE, PlainChunk
from translators.chat.response import (
    PARAMS,
    flat_annotation,
    read_stop,
    think_tags,
    was_cut,
)
from translators.chat.usage import read_usage
from translators.codec import StreamReader
from translators.context import Context
from translators.envelope import error_of, is_error
from translators.errors import ErrorInfo, UpstreamProtocolError
from translators.events import (
    AnnotationAdded,
    ArgumentsDelta,
    DeltaRun,
    Event,
    ItemEnd,
    ItemStart,
    ReasoningDelta,
    RefusalDelta,
    ResponseEnd,
    ResponseFailed,
    ResponseStart,
    RunKind,
    TextDelta,
    UsageUpdate,
)
from translators.profiles import ThinkTags
from translators.sse import Frame
from translators.think import ThinkSplitter
from translators.token_ids import read_token_ids
from translators.wire import JSON, UNREADABLE, decode, extra_of, known_members, open_as

_CHUNK_MEMBERS = known_members(schema.ChatCompletion) | {"obfuscation"}
_CHOICE_MEMBERS = frozenset({"index", "delta", "finish_reason", "logprobs"})
_DELTA_MEMBERS = known_members(schema.Message)
_AFTER_TEXT = ("refusal", "annotations", "tool_calls", "function_call")
"""Members of a delta before which the text so far is whole."""


_ATTEMPTS = 16
"""So many chunks in a row may not be plain before a stream is taken for one without such."""


class _Run(NamedTuple):
    """What the next chunks may bring more of."""

    kind: RunKind
    item_index: int
    call: int | None
    decode: Callable[[bytes], PlainChunk[Any]]


def make_reader(ctx: Context) -> StreamReader:
    """A reader for one stream."""
    reader = ChatReader(ctx)
    return reader if ctx.bound_tool is None else BoundReader(reader, ctx)


class ChatReader(StreamReader):
    """Reads the upstream's chunks into events; only choice 0 is read."""

    def __init__(self, ctx: Context) -> None:
        """Make a reader for one stream."""
        self._ctx = ctx
        self._calls = CallReader(ctx)
        self._is_started = False
        self._is_over = False
        self._run: _Run | None = None
        self._attempts = _ATTEMPTS
        self._next = 0
        self._open: tuple[int, type[Item]] | None = None
        self._blank = ""
        tags = think_tags(ctx)
        self._splitter = (
            None
            if tags is ThinkTags.OFF
            else ThinkSplitter(is_open=tags is ThinkTags.OPENED, is_json=ctx.wants_json)
        )
        self._logprobs: list[JSON] = []
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self._extra: dict[str, JSON] = {}
        self._token_ids: dict[str, JSON] = {}

    def read_run(self, frames: Sequence[Frame]) -> DeltaRun | None:
        """The deltas of the first frames that bring more of what the last event brought."""
        run = self._run
        if run is None:
            return None
        texts = []
        try:
            for frame in frames:
                delta = run.decode(frame.data).choices[0].delta
                text = delta.text
                if not text or delta.call != run.call or frame.event is not None:
                    break
                texts.append(text)
        except UNREADABLE:
            self._attempts -= 1
        if not texts:
            return None
        self._attempts = _ATTEMPTS
        if run.call is not None:
            self._calls.go_on(run.call, texts)
        return DeltaRun(run.kind, run.item_index, texts)

    def feed(self, frame: Frame) -> list[Event]:
        """Events of one frame; none after the end.

        Raises:
            UpstreamProtocolError: The frame is not a chunk.
        """
        self._run = None
        if self._is_over:
            return []
        if frame.data == b"[DONE]":
            if not self._is_started:
                raise UpstreamProtocolError("The upstream's stream ended before it began.")
            return self._end()
        chunk = decode(frame.data, UpstreamProtocolError)
        if is_error(chunk, "choices") or frame.event == "error":
            self._is_over = True
            return [ResponseFailed(error_of(chunk, 200, PARAMS))]
        if not isinstance(chunk, dict):
            raise UpstreamProtocolError("A frame of the upstream's stream is not an object.")
        open_as(schema.Chunk, chunk, "", UpstreamProtocolError)
        events = self.read(chunk)
        if events:
            self._run = self._begin_run(events[-1])
        return events

    def finish(self) -> list[Event]:
        """Events of the end of the stream.

        A stream is whole if it brought a ``finish_reason`` or ``[DONE]``; servers often send
        only one of them.
        """
        if self._is_over:
            return []
        if self._finish_reason is not None:
            return self._end()
        self._is_over = True
        error = ErrorInfo(
            "The upstream's stream broke off before its end.",
            status=502,
            code="upstream_stream_truncated",
        )
        return [ResponseFailed(error)]

    def read(self, chunk: dict[str, JSON]) -> list[Event]:
        """Events of a chunk whose shape has been checked."""
        events: list[Event] = []
        if not self._is_started:
            self._is_started = True
            events.append(
                ResponseStart(
                    id=chunk.get("id") or self._ctx.new_id("chatcmpl"),
                    model=chunk.get("model") or "",
                    created=int(chunk.get("created") or self._ctx.now()),  # Azure begins with 0
                )
            )
        usage = chunk.get("usage")
        if usage is not None:
            self._usage = read_usage(usage)
        self._keep(extra_of(chunk, _CHUNK_MEMBERS))
        for choice in chunk.get("choices") or ():
            if not choice.get("index"):
                self._read_choice(choice, events)
        return events

    def _begin_run(self, last: Event) -> _Run | None:
        """What the next chunks may bring more of, where texts go on as they come."""
        if not isinstance(last, TextDelta | ReasoningDelta | ArgumentsDelta) or self._logprobs:
            return None
        if not self._attempts or not (self._splitter is None or self._splitter.is_over):
            return None
        call = None
        if isinstance(last, ArgumentsDelta):
            call = self._calls.plain_call(last.index)
            if call is None:
                return None
        kind = type(last)
        return _Run(kind, last.index, call, DECODE[kind])

    def _read_choice(self, choice: dict[str, JSON], events: list[Event]) -> None:
        delta = choice.get("delta") or choice.get("message") or {}
        logprobs = choice.get("logprobs") or {}
        self._logprobs += logprobs.get("content") or ()
        thought = delta.get("reasoning") or delta.get("reasoning_content")
        text = delta.get("content")
        if isinstance(text, list):
            thoughts, parts = part_thoughts(text, self._ctx)
            thought = thought or thoughts
            text = "".join(part.get("text") or "" for part in parts)
        if thought and isinstance(thought, str):
            events.append(ReasoningDelta(self._ensure(Reasoning, events), thought))
        if text:
            self._read_content(text, events)
        refusal = delta.get("refusal")
        if self._splitter is not None and any(delta.get(name) for name in _AFTER_TEXT):
            self._split_text(self._splitter.finish(), events)
        if refusal:
            probs = logprobs.get("refusal") or []
            events.append(RefusalDelta(self._ensure(Message, events), refusal, probs))
        for annotation in delta.get("annotations") or ():
            index = self._ensure(Message, events)
            events.append(TextDelta(index, ""))
            events.append(AnnotationAdded(index, flat_annotation(annotation)))
        calls = delta.get("tool_calls")
        if delta.get("function_call"):
            calls = [{"index": 0, "function": delta["function_call"]}]
        for entry in calls or ():
            self._read_call(entry, events)
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            self._finish_reason = reason
        self._keep(extra_of(choice, _CHOICE_MEMBERS))
        if extra := extra_of(delta, _DELTA_MEMBERS):
            self._token_ids |= read_token_ids(extra, "choices[0].delta", UpstreamProtocolError)
            self._keep({k: v for k, v in extra.items() if k not in self._token_ids})

    def _read_content(self, text: str, events: list[Event]) -> None:
        if self._splitter is None:
            self._read_text(text, events)
        else:
            self._split_text(self._splitter.feed(text), events)

    def _split_text(self, pieces: Iterable[tuple[bool, str]], events: list[Event]) -> None:
        for is_thought, piece in pieces:
            if piece and is_thought:
                events.append(ReasoningDelta(self._ensure(Reasoning, events), piece))
            elif piece:
                self._read_text(piece, events)

    def _read_text(self, text: str, events: list[Event]) -> None:
        """Hold back blank text until a message is certain: models pad calls with line ends."""
        is_message = self._open is not None and self._open[1] is Message
        if not is_message and not text.strip() and not self._ctx.token_ids:
            self._blank += text
            return
        index = self._ensure(Message, events)
        logprobs, self._logprobs = self._logprobs, []
        events.append(TextDelta(index, self._blank + text, logprobs))
        self._blank = ""

    def _read_call(self, entry: JSON, events: list[Event]) -> None:
        found = self._calls.feed(entry, self._next)
        if any(isinstance(event, ItemStart) for event in found):
            self._close(events)
            self._next += 1
        events += found

    def _ensure(self, kind: type[Message] | type[Reasoning], events: list[Event]) -> int:
        """Index of the open message or reasoning item, opened if need be."""
        if self._open is not None and self._open[1] is kind:
            return self._open[0]
        self._close(events)
        events += self._calls.close_complete()
        index = self._next
        self._next += 1
        self._open = (index, kind)
        if kind is Message:
            events.append(ItemStart(index, Message(Role.ASSISTANT, [])))
        else:
            events.append(ItemStart(index, Reasoning()))
        return index

    def _close(self, events: list[Event], status: Status = Status.COMPLETED) -> None:
        if self._open is not None:
            events.append(ItemEnd(self._open[0], status))
            self._open = None

    def _keep(self, extra: dict[str, JSON]) -> None:
        """Collect vendor members: lists of tokens grow, of anything else the last one counts."""
        for name, value in extra.items():
            before = self._extra.get(name)
            if isinstance(before, list) and isinstance(value, list):
                before.extend(value)
            else:
                self._extra[name] = list(value) if isinstance(value, list) else value

    def _end(self) -> list[Event]:
        self._is_over = True
        events: list[Event] = []
        if self._splitter is not None:
            self._split_text(self._splitter.finish(), events)
        late = self._calls.finish(self._next)
        if any(isinstance(event, ItemStart) for event in late):
            self._close(events)
        events += late
        if not len(self._calls) and (self._blank or self._next == 0):
            index = self._ensure(Message, events)
            events.append(TextDelta(index, self._blank))
        if self._logprobs and self._open is not None and self._open[1] is Message:
            events.append(TextDelta(self._open[0], "", self._logprobs))
        if self._usage is not None:
            events.append(UsageUpdate(self._usage))
        last = self._calls.last()
        output: list[Item] = [] if last is None else [last]
        stop = read_stop(self._finish_reason, output)
        if was_cut(stop, output, self._usage, self._ctx):
            stop = StopReason.LENGTH
        cut = Status.INCOMPLETE if stop is StopReason.LENGTH else Status.COMPLETED
        calls = self._calls.open_indexes()
        for i, index in enumerate(calls):
            is_last = i == len(calls) - 1 and self._open is None
            events.append(ItemEnd(index, cut if is_last else Status.COMPLETED))
        self._close(events, cut)
        if self._token_ids:
            last_end = [event for event in events if isinstance(event, ItemEnd)][-1]
            last_end.extra = self._token_ids
        events.append(ResponseEnd(stop, self._finish_reason, self._extra))
        return events
