import msgspec
import pytest

from translators.errors import MalformedRequest, UpstreamProtocolError
from translators.wire import (
    JSON,
    Peek,
    decode,
    decode_object,
    encode,
    extra_of,
    is_json,
    is_object,
    kind_of,
    known_members,
    open_as,
    open_members,
    peek,
    read_member,
)


class Inner(msgspec.Struct):
    name: str
    size: int | None = None


class Outer(msgspec.Struct):
    inner: Inner
    many: list[Inner] = []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"a": [1, 1.5, null, true]}', {"a": [1, 1.5, None, True]}),
        (rb'"\ud83d\ude00"', "\U0001f600"),
        (rb'"half \ud83d"', "half \ufffd"),
        (rb'["\ude00\ud83d"]', ["\ufffd\ufffd"]),
        (rb'{"\ud83d": {"a": ["\ud83d", 1]}}', {"\ufffd": {"a": ["\ufffd", 1]}}),
        (b'{"a": 1, "a": 2}', {"a": 2}),
    ],
)
def test_decode(body: bytes, expected: JSON) -> None:
    """Lone halves of surrogate pairs become U+FFFD, whole pairs stay."""
    assert expected == decode(body)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nope", b'{"a": 1e}', b'"\xff"', b"\xef\xbb\xbf{}", rb'{"\ud83d', b"[" * 100_000],
)
def test_decode_refuses_what_is_not_json(body: bytes) -> None:
    with pytest.raises(MalformedRequest) as caught:
        decode(body)
    assert caught.value.status == 400


def test_decode_raises_the_given_fault() -> None:
    with pytest.raises(UpstreamProtocolError) as caught:
        decode(b"<html>", UpstreamProtocolError)
    assert caught.value.status == 502


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"null", "null"),
        (b"[]", "an array"),
        (b'"x"', "a string"),
        (b"true", "a boolean"),
        (b"5", "a number"),
    ],
)
def test_decode_object_names_what_it_found(body: bytes, kind: str) -> None:
    with pytest.raises(MalformedRequest, match=rf"not {kind}\.$"):
        decode_object(body)


def test_kind_of_an_object() -> None:
    assert kind_of({}) == "an object"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model": "m", "stream": true, "input": [1]}', Peek("m", True, True, is_strict=True)),
        (b'{"model": "m", "input": 1, "messages": []}', Peek("m", is_strict=True)),
        (b"{}", Peek(is_strict=True)),
        (rb'{"input": "\ud83d", "model": "m"}', Peek("m", None, True)),
        (b'{"model": 5, "stream": "yes"}', Peek(5, "yes", is_strict=True)),
        (rb'{"model": "\ud83d", "stream": true, "input": 1}', Peek("\ufffd", True, True)),
        (rb'{"model": "\ud83d", "input": 1, "messages": []}', Peek("\ufffd")),
        (rb'{"model": "\ud83d"}', Peek("\ufffd")),
    ],
)
def test_peek(body: bytes, expected: Peek) -> None:
    """Lone surrogates do not matter, wherever they are, and values are not judged."""
    assert expected == peek(body)


@pytest.mark.parametrize("body", [b"[]", b"null", b'{"model": '])
def test_peek_refuses_what_is_no_object(body: bytes) -> None:
    with pytest.raises(MalformedRequest):
        peek(body)


def test_opened_members_keep_their_bytes() -> None:
    members = open_members(b'{"model":"a", "top_p": 1e400 ,"seed":0.10}')
    assert encode({**members, "model": "b"}) == b'{"model":"b","top_p":1e400,"seed":0.10}'


def test_a_member_is_decoded_where_it_is_read() -> None:
    members = open_members(rb'{"a":{"b":[1,"\ud83d"]},"c":null}')
    assert read_member(members["a"]) == {"b": [1, "\ufffd"]}
    assert read_member(members["c"]) is None
    assert read_member("decoded") == "decoded"


def test_open_members_of_a_body_with_a_lone_surrogate_in_a_name() -> None:
    assert open_members(rb'{"\ud83d":1}') == {"\ufffd": 1}


@pytest.mark.parametrize("body", [b"[]", b"null", b'{"model": '])
def test_open_members_refuses_what_is_no_object(body: bytes) -> None:
    with pytest.raises(MalformedRequest):
        open_members(body)


@pytest.mark.parametrize(
    ("value", "param", "message"),
    [
        ({}, "at.inner", "Missing required parameter: 'at.inner'."),
        ({"inner": {}}, "at.inner.name", "Missing required parameter: 'at.inner.name'."),
        ({"inner": {"name": 5}}, "at.inner.name", "expected 'string', got 'integer'"),
        ({"inner": {"name": "x"}, "many": [{"name": "x"}, 5]}, "at.many[1]", "got 'integer'"),
        (5, "at", "expected 'object', got 'integer'"),
    ],
)
def test_open_as_names_the_path(value: JSON, param: str, message: str) -> None:
    with pytest.raises(MalformedRequest) as caught:
        open_as(Outer, value, "at")
    assert param == caught.value.param
    assert message in caught.value.message


def test_open_as_at_the_top() -> None:
    with pytest.raises(MalformedRequest) as caught:
        open_as(Inner, {}, "")
    assert caught.value.param == "name"


def test_open_as_ignores_unknown_members() -> None:
    assert Inner("x", None) == open_as(Inner, {"name": "x", "size": None, "more": 1}, "")


def test_extra_of() -> None:
    """Unknown members that are not null."""
    known = known_members(Inner)
    assert extra_of({"name": "x"}, known) == {}
    assert extra_of({"name": "x", "a": None, "b": 0}, known) == {"b": 0}


def test_is_json_and_is_object() -> None:
    texts = ["{}", ' {"a": 1} ', "1", '"x"', '{"a"', "", r'{"a": "\ud83d"}', '{"a": "\ud83d"}']
    expected = [True, True, True, True, False, False, True, True]
    assert [is_json(text) for text in texts] == expected
    assert [is_object(text) for text in texts] == [True, True, *[False] * 4, True, True]


def test_encode_is_utf8() -> None:
    assert '{"a":"ü\u2028"}'.encode() == encode({"a": "ü\u2028"})
