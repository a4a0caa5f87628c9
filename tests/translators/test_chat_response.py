"""Whole replies of Chat, and the mappings in them."""

import pytest

from tests.translators.streams import context
from translators.canonical import (
    Message,
    Opaque,
    Reasoning,
    Refusal,
    Request,
    Response,
    Role,
    StopReason,
    Text,
    ToolCall,
    Usage,
)
from translators.chat.response import (
    flat_annotation,
    nested_annotation,
    read_response,
    read_stop,
    write_response,
    write_stop,
)
from translators.chat.usage import read_usage, write_usage
from translators.dialect import Dialect
from translators.errors import ErrorInfo, UpstreamProtocolError
from translators.profiles import ThinkTags
from translators.wire import JSON


def reply(message: JSON, finish: str | None = "stop", **members: JSON) -> JSON:
    choice = {"index": 0, "message": message, "finish_reason": finish, **members}
    return {"id": "c", "model": "m", "created": 5, "choices": [choice]}


def said(*parts: Text | Refusal) -> Message:
    return Message(Role.ASSISTANT, [*parts])


def written(*items: Message | Reasoning | ToolCall | Opaque) -> JSON:
    response = Response("c", "m", 5, [*items], StopReason.STOP)
    return write_response(response, Request(model="m", items=[]), context())["choices"][0]


# --- reading ---------------------------------------------------------------------------------


def test_a_reply_without_id_model_and_time() -> None:
    body = {"choices": [{"message": {"content": "a"}, "finish_reason": "eos"}]}
    response = read_response(body, context())
    assert response == Response(
        "chatcmpl_1", "", 7, [said(Text("a"))], StopReason.STOP, raw_stop="eos"
    )


def test_a_reply_keeps_its_id_and_model() -> None:
    response = read_response(reply({"content": "a"}), context())
    assert (response.id, response.model, response.created) == ("c", "m", 5)


def test_an_error_instead_of_a_reply() -> None:
    body = {"error": {"message": "no", "type": "server_error", "param": "messages"}}
    error = ErrorInfo("no", 502, "server_error", None, "items")
    assert read_response(body, context()) == Response("", "", 7, [], error=error)


def test_vendor_members_beside_an_error_do_not_hide_the_choices() -> None:
    body = {**reply({"content": "a"}), "error": {"message": "a warning"}}
    assert read_response(body, context()).output == [said(Text("a"))]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"choices": []}, "choices"),
        ({"id": 5}, "id"),
        ({"choices": [5]}, "choices[0]"),
        ({"choices": [{"message": 5}]}, "choices[0].message"),
        ({"choices": [{"message": {"content": [{}]}}]}, "choices[0].message.content[0].type"),
        (reply({"content": "a"}, "abort"), "choices[0].finish_reason"),
        ({**reply({"content": "a"}), "usage": {"prompt_tokens": "1"}}, "usage.prompt_tokens"),
    ],
)
def test_a_fault_names_its_place_in_the_reply(body: JSON, param: str) -> None:
    with pytest.raises(UpstreamProtocolError) as caught:
        read_response(body, context())
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("output", "stop"),
    [
        ([said(Text("a")), ToolCall("x", "f", "{}")], StopReason.TOOL_CALLS),
        ([said(Text("a"))], StopReason.STOP),
    ],
)
def test_a_missing_reason_is_inferred(output: list[Message | ToolCall], stop: StopReason) -> None:
    assert read_stop(None, output) is stop


def test_log_probs_and_citations_go_to_the_first_text_alone() -> None:
    probs = [{"token": "a", "logprob": -0.5}]
    citation = {"type": "url_citation", "url_citation": {"url": "u"}}
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = reply({"content": parts, "annotations": [citation]}, logprobs={"content": probs})
    assert read_response(body, context()).output == [
        said(Text("a", [{"type": "url_citation", "url": "u"}], probs), Text("b"))
    ]


def test_reasoning_of_both_kinds_is_joined() -> None:
    ctx = context(think_tags=ThinkTags.TAGS)
    body = reply({"reasoning": "a", "content": "<think>b</think>c"})
    assert read_response(body, ctx).output == [Reasoning(content=["ab"]), said(Text("c"))]
    body = reply({"content": "<think>b</think>c"})
    assert read_response(body, ctx).output == [Reasoning(content=["b"]), said(Text("c"))]


def test_annotations_of_other_types_are_left_alone() -> None:
    other = {"type": "file_citation", "file_id": "f"}
    assert flat_annotation(other) == other
    assert nested_annotation(other) == other


def test_a_citation_is_nested_once() -> None:
    nested = {"type": "url_citation", "url_citation": {"url": "u"}}
    assert nested_annotation({"type": "url_citation", "url": "u"}) == nested
    assert nested_annotation(nested) == nested


@pytest.mark.parametrize(
    ("wire", "usage"),
    [
        (None, None),
        ({}, Usage(0, 0, 0)),
        ({"prompt_tokens": 2, "completion_tokens": 3}, Usage(2, 3, 5)),
        ({"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 9}, Usage(2, 3, 9)),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 1,
                "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
                "completion_tokens_details": {"reasoning_tokens": 1},
            },
            Usage(9, 1, 10, cached=4, cache_write=2, reasoning=1),
        ),
    ],
)
def test_usage(wire: JSON, usage: Usage | None) -> None:
    assert read_usage(wire) == usage


def test_usage_survives_a_round_trip() -> None:
    usage = Usage(9, 1, 10, cached=4, cache_write=2, reasoning=1)
    assert read_usage(write_usage(usage)) == usage


# --- writing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "output", "reason"),
    [
        (StopReason.STOP, [said(Text("a")), ToolCall("x", "f", "{}")], "tool_calls"),
        (StopReason.STOP, [said(Text("a"))], "stop"),
        (None, [said(Text("a"))], "stop"),
        (StopReason.LENGTH, [ToolCall("x", "f", "{")], "length"),
    ],
)
def test_finish_reason(
    stop: StopReason | None, output: list[Message | ToolCall], reason: str
) -> None:
    assert write_stop(stop, output) == reason


def test_all_messages_of_a_reply_become_one() -> None:
    """Chat has one message for a reply: texts, refusals and citations are joined."""
    first = said(Text("a", [{"type": "url_citation", "url": "u"}], [{"token": "a"}]))
    first.extra = {"mood": "calm"}
    second = said(Text("b", [{"type": "url_citation", "url": "v"}], [{"token": "b"}]))
    second.extra = {"pace": "slow"}
    refused = said(Refusal("n", [{"token": "n"}]), Refusal("o", [{"token": "o"}]))
    choice = written(first, second, refused)
    assert choice["message"] == {
        "role": "assistant",
        "content": "ab",
        "refusal": "no",
        "annotations": [
            {"type": "url_citation", "url_citation": {"url": "u"}},
            {"type": "url_citation", "url_citation": {"url": "v"}},
        ],
        "mood": "calm",
        "pace": "slow",
    }
    assert choice["logprobs"] == {
        "content": [{"token": "a"}, {"token": "b"}],
        "refusal": [{"token": "n"}, {"token": "o"}],
    }


def test_reasoning_items_are_joined_by_line_ends() -> None:
    message = written(Reasoning(content=["a", "b"]), Reasoning(summary=["c"]))["message"]
    assert message["reasoning"] == "a\nb\nc"


def test_a_hosted_item_of_a_reply_is_lost() -> None:
    ctx = context()
    item = Opaque(Dialect.RESPONSES, "web_search_call", {})
    response = Response("c", "m", 5, [item], StopReason.STOP)
    write_response(response, Request(model="m", items=[]), ctx)
    assert [loss.param for loss in ctx.losses] == ["output"]
