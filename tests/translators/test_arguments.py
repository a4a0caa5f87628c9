"""Arguments of earlier calls, mended for templates that parse them."""

import json

import pytest

from tests.translators.streams import context
from translators.arguments import mend_arguments
from translators.canonical import Message, Request, Role, Text, ToolCall, ToolKind


def mended(call: ToolCall, **members: bool) -> tuple[str, list[str]]:
    """The call's arguments afterwards, and what was lost."""
    ctx = context(**members)  # type: ignore[arg-type]
    said = Message(Role.USER, [Text("Hi")])
    request = mend_arguments(Request("m", [said, call]), ctx)
    assert request.items[0] is said
    (_, after) = request.items
    assert isinstance(after, ToolCall)
    return after.arguments, [loss.param for loss in ctx.losses]


@pytest.mark.parametrize("parses", [True, False])
@pytest.mark.parametrize("blank", ["", " \n"])
def test_blank_arguments_become_an_object(blank: str, parses: bool) -> None:
    assert mended(ToolCall("c", "f", blank), parses_arguments=parses) == ("{}", [])


@pytest.mark.parametrize("broken", ['{"x"', "[1]", "text"])
def test_broken_arguments_are_wrapped_where_they_are_parsed(broken: str) -> None:
    wrapped, lost = mended(ToolCall("c", "f", broken))
    assert (json.loads(wrapped), lost) == ({"_raw": broken}, ["items"])
    assert mended(ToolCall("c", "f", broken), parses_arguments=False) == (broken, [])


def test_objects_stay_as_they_are() -> None:
    assert mended(ToolCall("c", "f", '{"x": 1}')) == ('{"x": 1}', [])


def test_free_text_is_never_mended() -> None:
    assert mended(ToolCall("c", "f", "", ToolKind.CUSTOM)) == ("", [])
