"""Reasoning that a model writes into its text as ``<think>...</think>``.

Servers without a reasoning parser leave it there. Only a block at the very beginning is taken
out: later on, a model may well write about such tags.
"""

from collections.abc import Iterator
from enum import Enum

OPEN, CLOSE = "<think>", "</think>"


class _State(Enum):
    BEFORE = "before"
    INSIDE = "inside"
    AFTER = "after"


class ThinkSplitter:
    """Splits a streamed text into reasoning and answer, wherever the tags are cut."""

    def __init__(self, *, is_open: bool = False, is_json: bool = False) -> None:
        """Make a splitter.

        Args:
            is_open: Whether the prompt ended with the opening tag.
            is_json: Whether JSON was asked for. A server may bind it from the first token on, so
                that there is no thought: what begins as JSON is the answer.
        """
        self._state = _State.INSIDE if is_open else _State.BEFORE
        self._may_be_bound = is_open and is_json
        self._pending = ""

    @property
    def is_over(self) -> bool:
        """Whether all further text is the answer's."""
        return self._state is _State.AFTER

    def feed(self, text: str) -> Iterator[tuple[bool, str]]:
        """Pieces that are certain, each with whether it is reasoning."""
        if self._state is _State.AFTER:
            yield False, text
            return
        self._pending += text
        if self._state is _State.BEFORE:
            start = self._pending.lstrip()
            if OPEN.startswith(start):
                return
            if not start.startswith(OPEN):
                yield from self._give_rest()
                return
            self._state = _State.INSIDE
            self._pending = start[len(OPEN) :]
        if self._may_be_bound:
            start = self._pending.lstrip()
            if not start:
                return
            self._may_be_bound = False
            if start.startswith(("{", "[")):
                yield from self._give_rest()
                return
        thought, tag, answer = self._pending.partition(CLOSE)
        if tag:
            self._state = _State.AFTER
            self._pending = ""
            yield from ((True, thought), (False, answer))
            return
        keep = _overlap(thought)
        self._pending = thought[len(thought) - keep :]
        yield True, thought[: len(thought) - keep]

    def finish(self) -> Iterator[tuple[bool, str]]:
        """What was held back, now that the text is over."""
        if self._state is _State.INSIDE:
            yield True, self._pending
        else:
            yield False, self._pending
        self._pending = ""

    def _give_rest(self) -> Iterator[tuple[bool, str]]:
        rest, self._pending = self._pending, ""
        self._state = _State.AFTER
        yield False, rest


def split(text: str, *, is_open: bool = False, is_json: bool = False) -> tuple[str, str]:
    """Reasoning and answer of a whole text; see ``ThinkSplitter``."""
    splitter = ThinkSplitter(is_open=is_open, is_json=is_json)
    pieces = [*splitter.feed(text), *splitter.finish()]
    thought = "".join(piece for is_thought, piece in pieces if is_thought)
    return thought, "".join(piece for is_thought, piece in pieces if not is_thought)


def _overlap(text: str) -> int:
    """Length of the longest end of a text that may begin the closing tag."""
    for length in range(min(len(CLOSE) - 1, len(text)), 0, -1):
        if CLOSE.startswith(text[-length:]):
            return length
    return 0
