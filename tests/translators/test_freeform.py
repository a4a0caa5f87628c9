"""Custom tools as functions: free text out of JSON, wherever it is cut."""

import json

import pytest

from translators.canonical import CustomTool
from translators.chat.freeform import InputDecoder, as_function, unwrap, wrap

TEXTS = [
    "",
    "plain",
    'a "quote", a \\ and a / slash',
    "lines\n\tand\r\x00controls",
    "é, 漢, \uffff",
    "\U00010000 \U00050400 \U00090800 \U0010ffff",
    "😀😀",
    '{"input": "nested"}',
]


def decode(*pieces: str) -> str:
    decoder = InputDecoder()
    text = "".join(decoder.feed(piece) for piece in pieces)
    return text + decoder.finish("".join(pieces))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("is_ascii", [True, False])
def test_text_survives_any_cut(text: str, is_ascii: bool) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=is_ascii)
    assert decode(*arguments) == text
    for cut in range(len(arguments)):
        assert decode(arguments[:cut], arguments[cut:]) == text


def test_hexadecimal_digits_in_capitals() -> None:
    assert decode(r'{"input": "\uD83D\uDE00 \uDBFF\uDFFF"}') == "😀 \U0010ffff"


@pytest.mark.parametrize(
    ("inside", "text"),
    [
        (r"\ud83dx", "\ufffdx"),
        (r"\ud83d\n", "\ufffd\n"),
        (r"\ud83d", "\ufffd"),
        (r"\ud83dA", "\ufffdA"),
        (r"\ud83d\ud83d\ude00", "\ufffd😀"),
        (r"\ude00x", "\ufffdx"),
        (r"\q", "q"),
        (r"\u12zz", "\ufffd"),
    ],
)
def test_broken_escapes_become_what_is_nearest(inside: str, text: str) -> None:
    arguments = f'{{"input": "{inside}"}}'
    assert decode(arguments) == text
    assert decode(*arguments) == text


@pytest.mark.parametrize(
    ("pieces", "texts"),
    [
        (['{"input": "', "a", "b"], ["", "a", "b"]),
        (['{"input": "a\\', 'n"'], ["a", "\n"]),
        (['{"input": "\\u004', "1", "b"], ["", "A", "b"]),
        (['{"input": "\\ud83d', "x"], ["", "\ufffdx"]),
        (['{"input": "\\ud83d\\', "n"], ["", "\ufffd\n"]),
        (['{"input": "\\ud83d\\u', "004", "1"], ["", "", "\ufffdA"]),
        (['{"input": "\\ud83d\\ude0', "0"], ["", "😀"]),
    ],
)
def test_text_is_given_as_soon_as_it_is_certain(pieces: list[str], texts: list[str]) -> None:
    decoder = InputDecoder()
    assert [decoder.feed(piece) for piece in pieces] == texts


def test_what_follows_the_text_is_none() -> None:
    decoder = InputDecoder()
    assert decoder.feed('{"input": "a", "mode": "b"') == "a"
    assert decoder.feed(', "input": "c"}') == ""
    assert decoder.finish("") == ""


def test_nothing_is_given_after_another_shape_until_the_end() -> None:
    decoder = InputDecoder()
    pieces = ['{"mode": 1, ', '"input": "a"}', ' {"input": "b"}']
    assert [decoder.feed(piece) for piece in pieces] == ["", "", ""]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"input": "a"}', "a"),
        ('{"mode": 1, "input": "a"}', "a"),
        ('"a"', "a"),
        ("{}", ""),
        ('{"input": 5}', '{"input": 5}'),
        ('{"path": "a"}', '{"path": "a"}'),
        ("[1]", "[1]"),
        ("not JSON", "not JSON"),
        ("half \ud83d", "half \ud83d"),
        (" ", ""),
        ('{"input": "a\\n\\', "a\n"),
        ('{"input": "', ""),
    ],
)
def test_arguments_of_any_shape(arguments: str, text: str) -> None:
    assert decode(*arguments) == text
    if arguments.strip():
        assert unwrap(arguments) == text


@pytest.mark.parametrize("text", TEXTS)
def test_wrapping_is_undone(text: str) -> None:
    assert unwrap(wrap(text)) == text


@pytest.mark.parametrize(
    ("members", "named"), [({"syntax": "regex"}, "this regex grammar"), ({}, "this lark grammar")]
)
def test_a_grammar_is_told_with_its_syntax(members: dict[str, str], named: str) -> None:
    grammar = {"type": "grammar", "definition": "start: /a+/", **members}
    description = as_function(CustomTool("patch", format=grammar), "patch")["description"]
    assert named in description
    assert description.endswith("\nstart: /a+/")
