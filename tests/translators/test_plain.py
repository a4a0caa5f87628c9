"""The short way through text chunks says what the long way says."""

from typing import Any

import pytest

from translators.chat.plain import PlainChunks
from translators.sse import Frame
from translators.wire import encode

CHUNK: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "delta": {"content": "one"}, "logprobs": None, "finish_reason": None}],
}


def with_text(text: str, **delta: Any) -> dict[str, Any]:
    choice = {**CHUNK["choices"][0], "delta": {"content": text, **delta}}
    return {**CHUNK, "choices": [choice]}


def frame(chunk: Any) -> Frame:
    return Frame(None, encode(chunk))


def learned(chunk: dict[str, Any]) -> PlainChunks:
    plain = PlainChunks()
    plain.learn(frame(chunk), chunk)
    return plain


@pytest.mark.parametrize("text", ["two", "", '"', 'a"}', "\\", "\u2028", "😀", "a" * 10_000])
def test_text_of_a_chunk_like_the_one_before(text: str) -> None:
    assert learned(CHUNK).text_of(frame(with_text(text))) == text


def test_escaped_text_is_the_same_text() -> None:
    data = encode(CHUNK).replace(b'"one"', b'"\\u00e9\\/"')
    assert learned(CHUNK).text_of(Frame(None, data)) == "é/"


@pytest.mark.parametrize(
    "data",
    [
        encode({**CHUNK, "usage": {"prompt_tokens": 1}}),
        encode({**CHUNK, "id": "chatcmpl-2"}),
        encode(with_text("a", reasoning="b")),
        encode(CHUNK).replace(b'"one"', b"null"),
        encode(CHUNK).replace(b'"one"', b'["one"]'),
        encode(CHUNK).replace(b'"one"', b'"one","tool_calls":[{}],"x":"y"'),
        encode(CHUNK).replace(b'"one"', b'"\\ud83d"'),
        encode(CHUNK).replace(b'"one"', b'"\xff"'),
        encode(CHUNK)[:-1],
        b"[DONE]",
        b"",
    ],
)
def test_anything_else_is_read_in_full(data: bytes) -> None:
    assert learned(CHUNK).text_of(Frame(None, data)) is None


def test_named_frame_is_read_in_full() -> None:
    assert learned(CHUNK).text_of(Frame("error", encode(CHUNK))) is None


@pytest.mark.parametrize(
    "chunk",
    [
        {**CHUNK, "usage": {"prompt_tokens": 1}},
        {**CHUNK, "prompt_token_ids": [1]},
        {**CHUNK, "choices": [{**CHUNK["choices"][0], "index": 1}]},
        {**CHUNK, "choices": [{**CHUNK["choices"][0], "finish_reason": "stop"}]},
        {**CHUNK, "choices": [{**CHUNK["choices"][0], "logprobs": {"content": [{}]}}]},
        {**CHUNK, "choices": [{**CHUNK["choices"][0], "token_ids": []}]},
        {**CHUNK, "choices": CHUNK["choices"] * 2},
        {**CHUNK, "choices": []},
        with_text(""),
        with_text("one", reasoning="two"),
        with_text("one", refusal="no"),
        with_text("one", tool_calls=[{"index": 0}]),
        with_text("one", vendor=0),
    ],
)
def test_chunk_that_says_more_teaches_nothing(chunk: dict[str, Any]) -> None:
    assert learned(chunk).text_of(frame(chunk)) is None


@pytest.mark.parametrize("text", ["m", "chatcmpl-1", "content", "chat.completion.chunk"])
def test_text_that_also_stands_elsewhere(text: str) -> None:
    """Its first place in the bytes is not the text's own."""
    plain = learned(with_text(text))
    assert plain.text_of(frame({**with_text("x"), "model": "other"})) is None
    assert plain.text_of(frame(with_text(text))) in (None, text)


def test_text_written_in_escapes_teaches_nothing() -> None:
    plain = PlainChunks()
    data = encode(with_text("é")).replace("é".encode(), b"\\u00e9")
    plain.learn(Frame(None, data), with_text("é"))
    assert plain.text_of(Frame(None, data)) is None


def test_chunks_that_always_differ_are_not_tried_for_ever() -> None:
    """As with OpenAI's obfuscation."""
    plain = PlainChunks()
    for i in range(100):
        plain.learn(frame({**CHUNK, "obfuscation": str(i)}), {**CHUNK, "obfuscation": str(i)})
    assert plain.text_of(frame({**CHUNK, "obfuscation": "99"})) is None
    assert plain.text_of(frame({**CHUNK, "obfuscation": "15"})) == "one"
