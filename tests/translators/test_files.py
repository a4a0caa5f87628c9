"""Files whose content is text, for upstreams that take no files."""

import base64

import pytest

from tests.translators.streams import context
from translators.canonical import File, Image, Item, Message, Part, Request, Role, Text, ToolResult
from translators.errors import UnsupportedFeature
from translators.files import inline_files, read_text

ENCODED = base64.b64encode("a,é".encode()).decode()


def inlined(*items: Item, files: bool = False) -> list[Item]:
    return inline_files(Request(model="m", items=[*items]), context(files=files)).items


@pytest.mark.parametrize(
    ("data", "filename"),
    [
        (f"data:text/csv;base64,{ENCODED}", None),
        (f"data:text/csv;charset=utf-8; base64,{ENCODED}", None),
        (f"data: TEXT/CSV ;base64,{ENCODED}", None),
        ("data:text/plain,a,%C3%A9", None),
        ("data:application/json,a,%C3%A9", None),
        (f"data:;base64,{ENCODED}", "a.csv"),
        (f"data:application/octet-stream;base64,{ENCODED}", "a.CSV"),
        (ENCODED, "a.csv"),
    ],
)
def test_content_that_is_text(data: str, filename: str | None) -> None:
    assert read_text(File(data=data, filename=filename)) == "a,é"


@pytest.mark.parametrize(
    ("data", "filename"),
    [
        (None, "a.txt"),
        (ENCODED, None),
        (ENCODED, "a.pdf"),
        (ENCODED, ".txt.pdf"),
        ("data:application/octet-stream,a", "a.pdf"),
        ("data:application/pdf,a", "a.txt"),
        ("data:image/png,a", None),
        ("a,b,c", "a.txt"),
        (f"*{ENCODED}", "a.txt"),
        (base64.b64encode(b"\xff\xfe").decode(), "a.txt"),
        ("data:text/plain,%FF", None),
    ],
)
def test_content_that_is_not_text(data: str | None, filename: str | None) -> None:
    assert read_text(File(data=data, filename=filename)) is None


def test_files_become_text_wherever_they_are() -> None:
    file = File(data="data:text/plain,hi", filename="a.txt")
    image = Image(url="u")
    parts: list[Part] = [Text("see"), file, image]
    message, result = inlined(Message(Role.USER, parts, name="n"), ToolResult("x", [file]))
    assert message == Message(Role.USER, [Text("see"), Text("[a.txt]\nhi"), image], name="n")
    assert result == ToolResult("x", [Text("[a.txt]\nhi")])


def test_items_without_files_are_not_copied() -> None:
    said = Message(Role.USER, [Text("Hi")])
    assert inlined(said)[0] is said


def test_a_file_without_a_name() -> None:
    [message] = inlined(Message(Role.USER, [File(data="data:text/plain,hi")]))
    assert message == Message(Role.USER, [Text("[file]\nhi")])


def test_an_upstream_that_takes_files_gets_them() -> None:
    message = Message(Role.USER, [File(file_id="f")])
    assert inlined(message, files=True) == [message]


def test_a_file_that_is_not_text_is_refused_at_its_place() -> None:
    file = File(file_id="f", param="messages[0].content[1]")
    with pytest.raises(UnsupportedFeature) as caught:
        inlined(Message(Role.USER, [file]))
    assert caught.value.param == "messages[0].content[1]"
