"""Reasoning out of a Responses upstream's text: whole, and in streams wherever they are cut."""

import pytest

from tests.translators.streams import context, frame
from translators.canonical import Item, Message, Reasoning, Refusal, Role, Status, Text, ToolCall
from translators.events import Event, ResponseStart, TextDelta, fold
from translators.profiles import ThinkTags
from translators.responses import CODEC
from translators.token_ids import carried
from translators.wire import JSON

TAGS, OPENED = ThinkTags.TAGS, ThinkTags.OPENED


def answer(*texts: str) -> Message:
    return Message(Role.ASSISTANT, [Text(text) for text in texts])


def thought(text: str) -> Reasoning:
    return Reasoning(content=[text])


def item(*parts: JSON, **members: JSON) -> JSON:
    return {"type": "message", "role": "assistant", "content": [*parts], **members}


def text_part(text: str, **members: JSON) -> JSON:
    return {"type": "output_text", "text": text, **members}


CALL: JSON = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}


def whole(*output: JSON, tags: ThinkTags = TAGS) -> list[Item]:
    body = {"status": "completed", "output": [*output]}
    return CODEC.read_response(body, context(think_tags=tags)).output


def streamed(*output: JSON, size: int = 3, tags: ThinkTags = TAGS) -> list[Item]:
    """The fold of a stream whose texts come in pieces of this many characters."""
    reader = CODEC.reader(context(think_tags=tags))
    frames: list[JSON] = []
    for place, body in enumerate(output):
        at = {"output_index": place}
        begun = {**body, "content": []} if "content" in body else body
        frames.append({"type": "response.output_item.added", "item": begun, **at})
        for part in body.get("content", ()):
            frames.append({"type": "response.content_part.added", "part": part, **at})
            kind = "refusal" if part["type"] == "refusal" else "output_text"
            text = part.get("text") or part.get("refusal") or ""
            for i in range(0, len(text), size):
                delta = text[i : i + size]
                frames.append({"type": f"response.{kind}.delta", "delta": delta, **at})
        frames.append({"type": "response.output_item.done", "item": body, **at})
    frames.append({"type": "response.completed", "response": {"output": [*output]}})
    events: list[Event] = [event for body in frames for event in reader.feed(frame(body))]
    assert isinstance(events[0], ResponseStart)
    return fold([*events, *reader.finish()]).output


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>One.</think>Two.", [thought("One."), answer("Two.")]),
        (" <think>One.</think>", [thought("One.")]),
        ("<think>One", [thought("One")]),
        ("<think></think>Two.", [answer("Two.")]),
        ("Two <think>x</think>", [answer("Two <think>x</think>")]),
        ("<thin", [answer("<thin")]),
        ("Two.", [answer("Two.")]),
    ],
)
def test_a_block_at_the_beginning(text: str, expected: list[Item], size: int) -> None:
    body = item(text_part(text))
    assert whole(body) == expected
    assert streamed(body, size=size) == expected


@pytest.mark.parametrize("size", [1, 100])
def test_a_block_that_the_prompt_opened(size: int) -> None:
    body = item(text_part("One.</think>Two."))
    expected = [thought("One."), answer("Two.")]
    assert whole(body, tags=OPENED) == streamed(body, size=size, tags=OPENED) == expected


def test_only_the_first_message_is_split() -> None:
    bodies = [CALL, item(text_part("<think>a</think>b")), CALL, item(text_part("<think>c"))]
    call = ToolCall("c", "f", "{}")
    expected = [call, thought("a"), answer("b"), call, answer("<think>c")]
    assert whole(*bodies) == streamed(*bodies) == expected


def test_a_refusal_is_left_alone() -> None:
    body = item({"type": "refusal", "refusal": "<think>No."})
    expected = [Message(Role.ASSISTANT, [Refusal("<think>No.")])]
    assert whole(body) == streamed(body) == expected


def test_what_follows_the_text_follows_the_answer() -> None:
    body = item(text_part("<think>a</think>b"), text_part("c"))
    assert whole(body) == streamed(body) == [thought("a"), answer("b", "c")]


def test_a_second_part_is_no_reasoning() -> None:
    body = item(text_part("a"), text_part("b</think>c"))
    assert whole(body, tags=OPENED) == [thought("a"), answer("b</think>c")]
    assert streamed(body, tags=OPENED) == [thought("a"), answer("b</think>c")]


@pytest.mark.parametrize(
    ("text", "statuses"),
    [
        ("<think>One", [Status.INCOMPLETE]),
        ("<think>One</think>Two", [Status.COMPLETED, Status.INCOMPLETE]),
    ],
)
def test_what_was_cut_is_incomplete(text: str, statuses: list[Status]) -> None:
    body = item(text_part(text), status="incomplete")
    for items in (whole(body), streamed(body)):
        assert [i.status for i in items if isinstance(i, Message | Reasoning)] == statuses


TOKEN_IDS: JSON = {
    "prompt_token_ids": [1],
    "generation_token_ids": [2],
    "generation_log_probs": [-0.5],
}


@pytest.mark.parametrize("text", ["<think>a</think>b", "<think>a", "b"])
def test_token_ids_go_to_the_last_item(text: str) -> None:
    body = item(text_part(text), **TOKEN_IDS)
    for *others, last in (whole(body), streamed(body)):
        assert [carried(other) for other in others] == [{}] * len(others)
        assert carried(last) == TOKEN_IDS


def test_citations_and_log_probs_stay_with_the_answer() -> None:
    probs, citation = [{"token": "b", "logprob": 0.0}], {"type": "url_citation", "url": "u"}
    body = item(text_part("<think>a</think>b", logprobs=probs, annotations=[citation]))
    expected = [thought("a"), Message(Role.ASSISTANT, [Text("b", [citation], probs)])]
    assert whole(body) == expected
    reader = CODEC.reader(context(think_tags=TAGS))
    frames: list[JSON] = [
        {"type": "response.output_text.delta", "delta": "<think>a</think>"},
        {"type": "response.output_text.delta", "delta": "b", "logprobs": probs},
        {"type": "response.output_text.annotation.added", "annotation": citation},
        {"type": "response.completed", "response": {}},
    ]
    events = [event for one in frames for event in reader.feed(frame({**one, "output_index": 0}))]
    assert fold(events).output == expected


def test_log_probs_of_the_reasoning_come_with_the_first_of_the_answer() -> None:
    """There is no place for them in a reasoning item."""
    reader = CODEC.reader(context(think_tags=TAGS))
    events: list[Event] = []
    for delta in ("<think>", "a</think>", "b", "c"):
        body = {"type": "response.output_text.delta", "delta": delta, "output_index": 0}
        events += reader.feed(frame({**body, "logprobs": [{"token": delta}]}))
    texts = [event for event in events if isinstance(event, TextDelta)]
    before = [{"token": "<think>"}, {"token": "a</think>"}, {"token": "b"}]
    assert texts == [TextDelta(1, "b", before), TextDelta(1, "c", [{"token": "c"}])]


def test_a_citation_of_an_empty_text() -> None:
    reader = CODEC.reader(context(think_tags=TAGS))
    citation = {"type": "url_citation", "url": "u"}
    frames: list[JSON] = [
        {"type": "response.output_text.annotation.added", "annotation": citation},
        {"type": "response.completed", "response": {}},
    ]
    events = [event for one in frames for event in reader.feed(frame({**one, "output_index": 0}))]
    assert fold(events).output == [Message(Role.ASSISTANT, [Text("", [citation])])]
