"""Calls of a Chat stream, beyond the events that they become."""

from tests.translators.streams import context
from translators.canonical import ToolCall
from translators.chat.calls import CallReader


def test_no_call_has_begun() -> None:
    reader = CallReader(context())
    assert (len(reader), reader.last()) == (0, None)


def test_the_last_call_is_the_one_that_began_last() -> None:
    reader = CallReader(context("f", "g"))
    reader.feed({"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}, 0)
    reader.feed({"index": 1, "id": "b", "function": {"name": "g", "arguments": '{"x"'}}, 1)
    reader.feed({"index": 1, "function": {"arguments": ": 1}"}}, 2)
    assert (len(reader), reader.last()) == (2, ToolCall("b", "g", '{"x": 1}'))


def test_the_last_call_has_the_id_that_was_made_for_it() -> None:
    reader = CallReader(context("f"))
    reader.feed({"index": 0, "function": {"name": "f", "arguments": "{}"}}, 0)
    assert reader.last() == ToolCall("call_1", "f", "{}")
