"""Audio, a judge's candidates, and replies in which nothing is said."""

import pytest

from translators.canonical import StopReason
from translators.chat.additions import add_audio, add_candidates, ends_in_thought
from translators.chat.empty import write_empty
from translators.wire import JSON, decode

URL = "data:audio/wav;base64,AAAA"
PART = {"type": "audio_url", "audio_url": {"url": URL}}
TEXT = {"type": "text", "text": "What is this?"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("What is this?", [PART, TEXT]),
        ([TEXT], [PART, TEXT]),
        ([], [PART]),
        (None, [PART]),
    ],
)
def test_audio_goes_in_front(content: JSON, expected: JSON) -> None:
    answer = {"role": "assistant", "content": "Hm"}
    messages = [{"role": "user", "content": "First"}, {"role": "user", "content": content}, answer]
    added = add_audio(messages, [URL])
    assert added == [messages[0], {"role": "user", "content": expected}, answer]
    assert messages[1]["content"] == content


def test_audio_without_a_user_message_becomes_one() -> None:
    system = {"role": "system", "content": "Listen."}
    assert add_audio([system], [URL, URL]) == [system, {"role": "user", "content": [PART, PART]}]


def test_candidates_follow_in_their_order() -> None:
    messages = [{"role": "user", "content": "Capital?"}]
    added = add_candidates(messages, {"principle": "Be fair.", "response_1": "a"})
    assert added[1:] == [
        {"role": "principle", "content": "Be fair."},
        {"role": "response_1", "content": "a"},
    ]


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ({"role": "assistant", "content": "", "reasoning": "Hm"}, True),
        ({"role": "assistant", "content": None, "reasoning": "Hm"}, True),
        ({"role": "assistant", "content": "Hi", "reasoning": "Hm"}, False),
        ({"role": "assistant", "content": None, "tool_calls": [{}]}, False),
        ({"role": "user", "content": ""}, False),
        ("x", False),
    ],
)
def test_ends_in_thought(last: JSON, expected: bool) -> None:
    assert ends_in_thought([last]) is expected
    assert ends_in_thought([]) is False


def test_empty_reply() -> None:
    message = {"role": "assistant", "content": "", "refusal": None}
    choice = {"index": 0, "logprobs": None, "finish_reason": "length", "message": message}
    expected = {"id": "x", "created": 7, "model": "m", "object": "chat.completion"}
    body = decode(write_empty("x", 7, "m", StopReason.LENGTH, is_stream=False))
    assert body == {**expected, "choices": [choice]}


def test_empty_stream() -> None:
    body = write_empty("x", 7, "m", StopReason.CONTENT_FILTER, is_stream=True)
    *frames, done = body.removesuffix(b"\n\n").split(b"\n\n")
    chunks = [decode(frame.removeprefix(b"data: ")) for frame in frames]
    assert done == b"data: [DONE]"
    assert {(c["id"], c["created"], c["model"], c["object"]) for c in chunks} == {
        ("x", 7, "m", "chat.completion.chunk")
    }
    found = [(c["choices"][0]["delta"], c["choices"][0]["finish_reason"]) for c in chunks]
    assert found == [({"role": "assistant", "content": ""}, None), ({}, "content_filter")]
