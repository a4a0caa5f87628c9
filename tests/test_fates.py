"""The tables of fates against the official SDK's types, the code, and the documentation."""

import typing
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import openai.types.chat as chat_types
import openai.types.responses as response_types
import pytest
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import response_create_params as response_params
from openai.types.responses import response_input_content_param, response_output_message_param

from translators.chat import fates as chat
from translators.completions import fates as completions
from translators.errors import UnsupportedFeature
from translators.fates import Fate, Table, with_fate
from translators.profiles import HostedTools, Policy, Profile, Render
from translators.responses import fates as responses
from translators.translation import Translation

DOCUMENT = Path(__file__).parents[1] / "docs" / "fates.md"


def members(union: Any) -> Iterator[Any]:
    """The alternatives of a type, however they are wrapped."""
    origin = get_origin(union)
    if origin is typing.Annotated:
        yield from members(get_args(union)[0])
    elif origin in (Union, UnionType):
        for alternative in get_args(union):
            yield from members(alternative)
    else:
        yield union


def literals(annotation: Any) -> Iterator[str]:
    """The words in a type, however they are wrapped."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    for argument in get_args(annotation):
        if not isinstance(argument, str):
            yield from literals(argument)


def tags(union: Any) -> set[str]:
    """The values of ``type`` in a union of objects, and the plain words beside them."""
    found: set[str] = set()
    for member in members(union):
        if hasattr(member, "model_fields"):
            found |= set(literals(member.model_fields["type"].annotation))
        elif hasattr(member, "__annotations__"):
            found |= set(literals(typing.get_type_hints(member, include_extras=True).get("type")))
        else:
            found |= set(literals(member))
    return found


def fields(*typed: Any) -> set[str]:
    return {name for one in typed for name in typing.get_type_hints(one, include_extras=True)}


KNOWN_TO_THE_SDK = {
    "responses request": (
        responses.REQUEST,
        fields(
            response_params.ResponseCreateParamsBase, response_params.ResponseCreateParamsStreaming
        ),
    ),
    "responses items": (responses.ITEMS, tags(response_types.ResponseInputItemParam)),
    "responses tools": (responses.TOOLS, tags(response_types.ToolParam)),
    "responses choices": (responses.CHOICES, tags(response_params.ToolChoice)),
    "responses parts": (
        responses.PARTS,
        tags(response_input_content_param.ResponseInputContentParam)
        | tags(response_output_message_param.Content),
    ),
    "responses output": (responses.OUTPUT, tags(response_types.ResponseOutputItem)),
    "responses events": (responses.EVENTS, tags(response_types.ResponseStreamEvent)),
    "chat request": (
        chat.REQUEST,
        fields(chat_params.CompletionCreateParamsBase, chat_params.CompletionCreateParamsStreaming),
    ),
    "chat request to completions": (
        completions.REQUEST,
        fields(chat_params.CompletionCreateParamsBase, chat_params.CompletionCreateParamsStreaming),
    ),
    "chat parts": (
        chat.PARTS,
        tags(chat_types.ChatCompletionContentPartParam)
        | tags(chat_types.chat_completion_assistant_message_param.ContentArrayOfContentPart),
    ),
    "chat tools": (chat.TOOLS, tags(chat_types.ChatCompletionToolUnionParam)),
    "chat choices": (chat.CHOICES, tags(chat_types.ChatCompletionToolChoiceOptionParam)),
    "chat message": (chat.MESSAGE, set(chat_types.ChatCompletionMessage.model_fields)),
}


@pytest.mark.parametrize("name", KNOWN_TO_THE_SDK)
def test_the_sdk_knows_nothing_that_has_no_row(name: str) -> None:
    table, known = KNOWN_TO_THE_SDK[name]
    assert len(known) > 1
    assert known - table.keys() == set()


@pytest.mark.parametrize("field", with_fate(responses.REQUEST, Fate.REFUSED))
def test_refused_responses_fields_are_refused_by_name(field: str) -> None:
    translation = Translation.between("responses", "chat")
    with pytest.raises(UnsupportedFeature) as refused:
        translation.request({"model": "m", "input": "Hi", field: {"id": "x"}})
    assert refused.value.param == field


@pytest.mark.parametrize("field", with_fate(responses.REQUEST, Fate.LOST))
def test_lost_responses_fields_are_recorded(field: str) -> None:
    translation = Translation.between("responses", "chat")
    body = translation.request({"model": "m", "input": "Hi", field: {"id": "x"}})
    assert [loss.param for loss in translation.losses] == [field]
    assert field not in body


@pytest.mark.parametrize("field", with_fate(chat.REQUEST, Fate.REFUSED))
def test_refused_chat_fields_are_refused_by_name(field: str) -> None:
    translation = Translation.between("chat", "responses")
    messages = [{"role": "user", "content": "Hi"}]
    value = ["audio"] if field == "modalities" else 2
    with pytest.raises(UnsupportedFeature) as refused:
        translation.request({"model": "m", "messages": messages, field: value})
    assert refused.value.param == field


@pytest.mark.parametrize("field", with_fate(completions.REQUEST, Fate.REFUSED))
def test_chat_fields_are_refused_towards_completions(field: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], field: ["audio"]}
    with pytest.raises(UnsupportedFeature) as refused:
        Translation.between("chat", "completions").request(body)
    assert refused.value.param == field


@pytest.mark.parametrize("field", with_fate(completions.REQUEST, Fate.LOST))
def test_chat_fields_are_lost_towards_completions(field: str) -> None:
    profile = Profile(render=Render.CHAT_TEMPLATE)
    translation = Translation.between("chat", "completions", profile=profile)
    tool = {"type": "function", "function": {"name": "f"}}
    messages = [{"role": "user", "content": "Hi"}]
    body = {"model": "m", "messages": messages, "tools": [tool], field: False}
    assert field not in translation.request(body)
    assert [loss.param for loss in translation.losses] == [field]


@pytest.mark.parametrize("kind", with_fate(responses.TOOLS, Fate.POLICY))
def test_hosted_tools_are_refused_or_dropped(kind: str) -> None:
    body: Any = {"model": "m", "input": "Hi", "tools": [{"type": kind}]}
    with pytest.raises(UnsupportedFeature) as refused:
        Translation.between("responses", "chat").request(body)
    assert refused.value.param == "tools[0]"
    policy = Policy(hosted_tools=HostedTools.DROP)
    translation = Translation.between("responses", "chat", policy=policy)
    assert "tools" not in translation.request(body)
    assert [loss.param for loss in translation.losses] == ["tools[0]"]


@pytest.mark.parametrize("kind", with_fate(responses.CHOICES, Fate.REFUSED))
@pytest.mark.parametrize("hosted_tools", HostedTools)
def test_a_forced_hosted_tool_is_refused(kind: str, hosted_tools: HostedTools) -> None:
    policy = Policy(hosted_tools=hosted_tools)
    function = {"type": "function", "name": "f", "parameters": {}}
    body: Any = {"model": "m", "input": "Hi", "tools": [function], "tool_choice": {"type": kind}}
    with pytest.raises(UnsupportedFeature) as refused:
        Translation.between("responses", "chat", policy=policy).request(body)
    assert refused.value.param == "tool_choice"


TITLES = {
    "Responses request members, towards Chat": responses.REQUEST,
    "Responses input items, towards Chat": responses.ITEMS,
    "Responses tools, towards Chat": responses.TOOLS,
    "Responses tool choices, towards Chat": responses.CHOICES,
    "Responses content parts, towards Chat": responses.PARTS,
    "Chat request members, towards Responses": chat.REQUEST,
    "Chat request members, towards Completions": completions.REQUEST,
    "Chat messages by role, towards Responses": chat.MESSAGES,
    "Chat content parts, towards Responses": chat.PARTS,
    "Chat tools, towards Responses": chat.TOOLS,
    "Chat tool choices, towards Responses": chat.CHOICES,
    "A Responses upstream's output items, back to Chat": responses.OUTPUT,
    "A Responses upstream's stream events, back to Chat": responses.EVENTS,
    "A Chat upstream's message, back to Responses": chat.MESSAGE,
}


def render(title: str, table: Table) -> list[str]:
    rows = [f"| `{name}` | {row.fate.value} | {row.note} |" for name, row in table.items()]
    return [f"## {title}", "", "| name | fate | how or why |", "|---|---|---|", *rows, ""]


def test_the_document_is_made_of_the_tables(request: pytest.FixtureRequest) -> None:
    lines = [
        "# Fates",
        "",
        "What becomes of everything that either API can say, where a request is translated. The",
        "tables are those of the code, written out by `pytest --update-goldens`.",
        "",
    ]
    for title, table in TITLES.items():
        lines += render(title, table)
    text = "\n".join(lines)
    if request.config.getoption("--update-goldens"):
        DOCUMENT.write_text(text, encoding="utf-8")
    assert DOCUMENT.read_text(encoding="utf-8") == text
