"""Chunks that bring more text, reasoning or arguments and nothing else.

They are decoded into types that have no room for more, so that whatever else a chunk brings is
never overlooked: it does not fit, and the chunk is read in full.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

import msgspec

from translators.events import ArgumentsDelta, ReasoningDelta, RunKind, TextDelta

_Nothing: TypeAlias = Literal["", None]
_NoList: TypeAlias = tuple[()] | None
_D = TypeVar("_D")


class _Delta(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What may stand beside the one thing that a delta brings.

    Each has a ``text`` and the index of its ``call``, ``None`` if it is of none.
    """

    role: str | None = None
    refusal: _Nothing = None
    function_call: None = None
    annotations: _NoList = None
    audio: None = None


class PlainText(_Delta, kw_only=True):
    """More text."""

    text: str = msgspec.field(name="content")
    call: ClassVar[None] = None
    reasoning: _Nothing = None
    reasoning_content: _Nothing = None
    tool_calls: _NoList = None


class PlainThought(_Delta):
    """More reasoning, under one name or under both."""

    call: ClassVar[None] = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    content: _Nothing = None
    tool_calls: _NoList = None

    @property
    def text(self) -> str:
        """The reasoning, empty if there is none."""
        return self.reasoning or self.reasoning_content or ""


class _Function(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    arguments: str
    name: _Nothing = None


class _Entry(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An entry of ``tool_calls`` that goes on with a function's arguments."""

    index: int
    function: _Function
    id: _Nothing = None
    type: str | None = None


class PlainCall(_Delta, kw_only=True):
    """More arguments of one call."""

    tool_calls: tuple[_Entry]
    content: _Nothing = None
    reasoning: _Nothing = None
    reasoning_content: _Nothing = None

    @property
    def call(self) -> int:
        """The call's index."""
        return self.tool_calls[0].index

    @property
    def text(self) -> str:
        """The arguments."""
        return self.tool_calls[0].function.arguments


class _Choice(msgspec.Struct, Generic[_D], forbid_unknown_fields=True, gc=False):
    """The first choice; ``stop_reason`` and ``token_ids`` are vLLM's, the last one is SGLang's."""

    delta: _D
    index: Literal[0, None] = None
    finish_reason: _Nothing = None
    logprobs: None = None
    stop_reason: None = None
    token_ids: None = None
    matched_stop: None = None


class PlainChunk(msgspec.Struct, Generic[_D], forbid_unknown_fields=True, gc=False):
    """A chunk with one delta."""

    choices: tuple[_Choice[_D]]
    id: str | None = None
    object: str | None = None
    created: int | None = None
    model: str | None = None
    usage: None = None
    obfuscation: str | None = None


DECODE: dict[RunKind, Callable[[bytes], PlainChunk[Any]]] = {
    TextDelta: msgspec.json.Decoder(PlainChunk[PlainText]).decode,
    ReasoningDelta: msgspec.json.Decoder(PlainChunk[PlainThought]).decode,
    ArgumentsDelta: msgspec.json.Decoder(PlainChunk[PlainCall]).decode,
}
"""What reads the chunks that bring more of what an event brought."""
