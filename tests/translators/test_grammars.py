"""Custom tools whose grammar binds the answer: which choices do it, and what replies become."""

from typing import Any

import pytest

from translators.canonical import ToolCall, ToolKind
from translators.context import counting_ids
from translators.errors import MalformedRequest, UpstreamProtocolError
from translators.events import Event, fold
from translators.profiles import PROFILES, Profile, ThinkTags
from translators.sse import Frame
from translators.translation import Translation
from translators.wire import JSON, encode

LARK = {"type": "grammar", "syntax": "lark", "definition": 'start: "a"'}
REGEX = {"type": "grammar", "syntax": "regex", "definition": "a+"}
FORCED = {"type": "custom", "name": "say"}


def say(grammar: JSON = LARK, name: str = "say") -> JSON:
    return {"type": "custom", "name": name, "format": grammar}


def begin(
    *tools: JSON, choice: JSON = None, profile: Profile = PROFILES["vllm"], **members: JSON
) -> tuple[Translation, Any]:
    """A translation that has seen a request with these tools, and the upstream's request."""
    translation = Translation.between("responses", "chat", profile=profile, new_id=counting_ids())
    body = {"model": "m", "input": "Hi", "tools": [*tools], "tool_choice": choice, **members}
    return translation, translation.request(body)


def events_of(translation: Translation, *deltas: JSON, reason: str = "stop") -> list[Event]:
    reader = translation.upstream.reader(translation.ctx)
    events: list[Event] = []
    for delta in deltas:
        events += reader.feed(Frame(None, encode({"choices": [{"delta": delta}]})))
    last = {"choices": [{"delta": {}, "finish_reason": reason}]}
    events += reader.feed(Frame(None, encode(last)))
    return events + reader.finish()


@pytest.mark.parametrize(
    ("grammar", "member"), [(LARK, {"grammar": 'start: "a"'}), (REGEX, {"regex": "a+"})]
)
@pytest.mark.parametrize(
    ("others", "choice"),
    [
        ([say(name="other")], FORCED),
        ([], "required"),
        ([say(name="other")], {"type": "allowed_tools", "mode": "required", "tools": [FORCED]}),
    ],
)
def test_a_tool_that_has_to_be_called_binds(
    others: list[JSON], choice: JSON, grammar: JSON, member: JSON
) -> None:
    translation, sent = begin(say(grammar), *others, choice=choice)
    assert sent["structured_outputs"] == member
    assert sent["tool_choice"] == "none"
    assert "answer with" in sent["tools"][0]["function"]["description"]
    assert translation.losses == []


@pytest.mark.parametrize(
    ("others", "choice", "lost"),
    [
        ([], "auto", ["say"]),
        ([], None, ["say"]),
        ([], "none", []),
        ([say(name="other")], "required", ["say", "other"]),
        (
            [say(name="other")],
            {"type": "allowed_tools", "mode": "auto", "tools": [FORCED]},
            ["say"],
        ),
        (
            [say(None, "other")],
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "custom", "name": "other"}, FORCED],
            },
            ["say"],
        ),
        ([say(None, "other")], {"type": "custom", "name": "other"}, []),
    ],
)
def test_other_grammars_are_described_and_lost(
    others: list[JSON], choice: JSON, lost: list[str]
) -> None:
    translation, sent = begin(say(), *others, choice=choice)
    assert "structured_outputs" not in sent
    assert 'start: "a"' in sent["tools"][0]["function"]["description"]
    assert [loss.param for loss in translation.losses] == ["tools"] * len(lost)
    assert [loss.why.split("'")[1] for loss in translation.losses] == lost


def test_a_grammar_is_lost_where_the_upstream_cannot_bind() -> None:
    translation, sent = begin(say(), choice=FORCED, profile=PROFILES["llamacpp"])
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "say"}}
    assert [loss.param for loss in translation.losses] == ["tools"]


def test_the_callers_own_structured_outputs_win() -> None:
    translation, sent = begin(say(), choice=FORCED, structured_outputs={"regex": "b"})
    assert sent["structured_outputs"] == {"regex": "b"}
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "say"}}
    assert [loss.param for loss in translation.losses] == ["tools"]


def test_a_bound_answer_has_no_other_format() -> None:
    _, sent = begin(say(), choice=FORCED, text={"format": {"type": "json_object"}})
    assert "response_format" not in sent


def test_a_tool_declared_twice_binds_once() -> None:
    _, sent = begin(say(), say(), choice=FORCED)
    assert sent["structured_outputs"] == {"grammar": 'start: "a"'}


@pytest.mark.parametrize(
    "grammar",
    [
        {"type": "grammar", "syntax": "lark"},
        {"type": "grammar", "syntax": "gbnf", "definition": "x"},
        {"type": "grammar", "syntax": ["lark"], "definition": "x"},
        {"type": "json"},
        "lark",
    ],
)
def test_a_format_of_another_shape_is_refused(grammar: JSON) -> None:
    with pytest.raises(MalformedRequest) as caught:
        begin(say(grammar))
    assert caught.value.param == "tools"


def test_deltas_become_the_calls_input_as_they_come() -> None:
    translation, _ = begin(say(), choice=FORCED)
    deltas = (
        {"role": "assistant", "content": ""},
        {"content": " \n"},
        {"content": "a"},
        {"content": "b"},
    )
    response = fold(events_of(translation, *deltas))
    assert response.output == [ToolCall("call_1", "say", " \nab", ToolKind.CUSTOM)]


def test_text_in_parts_is_one_input() -> None:
    translation, _ = begin(say(), choice=FORCED)
    message = {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    body: JSON = {"choices": [{"message": message, "finish_reason": "stop"}]}
    (item,) = translation.upstream.read_response(body, translation.ctx).output
    assert item == ToolCall("call_1", "say", "ab", ToolKind.CUSTOM)


@pytest.mark.parametrize("tags", ThinkTags)
def test_a_bound_text_has_no_reasoning_in_it(tags: ThinkTags) -> None:
    profile = Profile(structured_outputs=True, think_tags=tags)
    translation, _ = begin(say(), choice=FORCED, profile=profile)
    streamed = fold(events_of(translation, {"content": "<think>"}, {"content": "a"})).output
    message = {"content": "<think>a"}
    body: JSON = {"choices": [{"message": message, "finish_reason": "stop"}]}
    whole = translation.upstream.read_response(body, translation.ctx).output
    assert streamed == [ToolCall("call_1", "say", "<think>a", ToolKind.CUSTOM)]
    assert whole == [ToolCall("call_2", "say", "<think>a", ToolKind.CUSTOM)]


def test_an_empty_answer_is_a_call_without_input() -> None:
    translation, _ = begin(say(), choice=FORCED)
    response = fold(events_of(translation, {"role": "assistant", "content": ""}))
    assert response.output == [ToolCall("call_1", "say", "", ToolKind.CUSTOM)]


def test_a_refusal_is_no_call() -> None:
    translation, _ = begin(say(), choice=FORCED)
    deltas = ({"refusal": "No"}, {"refusal": ", thanks."})
    body: JSON = {"choices": [{"message": {"refusal": "No, thanks."}, "finish_reason": "stop"}]}
    whole = translation.upstream.read_response(body, translation.ctx)
    assert fold(events_of(translation, *deltas)).output == whole.output
    assert not any(isinstance(item, ToolCall) for item in whole.output)


def test_text_after_a_refusal_stays_text() -> None:
    translation, _ = begin(say(), choice=FORCED)
    deltas = ({"refusal": "No."}, {"content": "Sorry."})
    message = {"refusal": "No.", "content": "Sorry."}
    body: JSON = {"choices": [{"message": message, "finish_reason": "stop"}]}
    whole = translation.upstream.read_response(body, translation.ctx)
    for response in (whole, fold(events_of(translation, *deltas))):
        assert not any(isinstance(item, ToolCall) for item in response.output)


def test_a_refusal_within_the_input_is_the_upstreams_fault() -> None:
    translation, _ = begin(say(), choice=FORCED)
    with pytest.raises(UpstreamProtocolError, match="in the middle of a tool's input"):
        events_of(translation, {"content": "a"}, {"refusal": "No."})


def test_a_citation_has_no_place_in_a_call() -> None:
    translation, _ = begin(say(), choice=FORCED)
    citation = {"type": "url_citation", "url_citation": {"url": "u"}}
    response = fold(events_of(translation, {"content": "a", "annotations": [citation]}))
    assert response.output == [ToolCall("call_1", "say", "a", ToolKind.CUSTOM)]


def test_a_call_beside_the_bound_text_is_kept() -> None:
    translation, _ = begin(say(), choice=FORCED)
    entry = {"index": 0, "id": "c", "function": {"name": "other", "arguments": "{}"}}
    response = fold(events_of(translation, {"content": "a"}, {"tool_calls": [entry]}))
    calls = [(item.name, item.arguments) for item in response.output if isinstance(item, ToolCall)]
    assert calls == [("say", "a"), ("other", "{}")]
