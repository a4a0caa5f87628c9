"""Requests to Completions upstreams: what a prompt can say, and what is refused by name."""

import pytest

from tests.translators.streams import context
from translators.canonical import (
    Audio,
    File,
    Image,
    Item,
    Message,
    Opaque,
    Reasoning,
    Request,
    Role,
    Text,
    ToolCall,
    ToolResult,
)
from translators.completions.prompt import ask_for_prompt, fill_prompt
from translators.completions.request import write_request
from translators.dialect import Dialect
from translators.errors import MalformedRequest, UnsupportedFeature, UpstreamProtocolError
from translators.profiles import PROFILES, HostedTools, Policy, Profile, Render, SystemMessages
from translators.translation import Translation
from translators.wire import JSON

TEMPLATE = Profile(render=Render.CHAT_TEMPLATE, thinking_switch="enable_thinking")
USER = {"role": "user", "content": "Hi"}
SYSTEM = {"role": "system", "content": "Be brief."}
CHAT_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
RESPONSES_TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}


def written(caller: str, profile: Profile | None = None, **members: JSON) -> tuple[JSON, list[str]]:
    """The upstream's request, and what was lost."""
    translation = Translation.between(caller, "completions", profile=profile)
    begin = {"input": "Hi"} if caller == "responses" else {"messages": [USER]}
    body = translation.request({"model": "m", **begin, **members})
    return body, [loss.param for loss in translation.losses]


def refused(caller: str, profile: Profile | None = None, **members: JSON) -> UnsupportedFeature:
    with pytest.raises(UnsupportedFeature) as caught:
        written(caller, profile, **members)
    return caught.value


# --- raw prompts -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([USER], "Hi"),
        ([SYSTEM, USER], "Be brief.\n\nHi"),
        ([{"role": "developer", "content": "Be brief."}, USER], "Be brief.\n\nHi"),
        ([SYSTEM, SYSTEM, USER], "Be brief.\n\nBe brief.\n\nHi"),
        (
            [{"role": "user", "content": [{"type": "text", "text": t} for t in ("a ", "b")]}],
            "a b",
        ),
        ([{"role": "user", "content": " a\n"}], " a\n"),
    ],
)
def test_a_raw_prompt_is_the_messages_text(messages: JSON, prompt: str) -> None:
    """To the letter; several system messages are merged before, as the profile says."""
    assert written("chat", messages=messages) == ({"model": "m", "prompt": prompt}, [])


def test_a_raw_prompt_of_a_responses_caller() -> None:
    body, losses = written("responses", instructions="Be brief.")
    assert body == {"model": "m", "prompt": "Be brief.\n\nHi"}
    assert losses == []


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [SYSTEM],
        [USER, USER],
        [USER, SYSTEM],
        [USER, {"role": "assistant", "content": "Hello"}],
        [USER, {"role": "assistant", "content": "Hello"}, USER],
        [
            USER,
            {
                "role": "assistant",
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}],
            },
            {"role": "tool", "tool_call_id": "c", "content": "1"},
        ],
    ],
)
def test_a_raw_prompt_has_no_other_turns(messages: JSON) -> None:
    profile = Profile(system_messages=SystemMessages.KEEP)
    with pytest.raises(UnsupportedFeature, match="one user message") as caught:
        written("chat", profile, messages=messages)
    assert caught.value.param == "items"


@pytest.mark.parametrize("item", [Reasoning(["a"]), ToolCall("c", "f", "{}"), ToolResult("c", [])])
def test_a_raw_prompt_has_messages_only(item: Item) -> None:
    request = Request("m", [item, Message(Role.USER, [Text("Hi")])])
    with pytest.raises(UnsupportedFeature, match="one user message"):
        write_request(request, context())


@pytest.mark.parametrize(("caller", "tool"), [("chat", CHAT_TOOL), ("responses", RESPONSES_TOOL)])
def test_a_raw_prompt_has_no_tools(caller: str, tool: JSON) -> None:
    assert refused(caller, tools=[tool]).param == "tools"


def test_hosted_tools_of_a_raw_prompt_may_be_dropped() -> None:
    policy = Policy(hosted_tools=HostedTools.DROP)
    translation = Translation.between("responses", "completions", policy=policy)
    body = {"model": "m", "input": "Hi", "tools": [{"type": "web_search"}]}
    assert translation.request(body) == {"model": "m", "prompt": "Hi"}
    assert [loss.param for loss in translation.losses] == ["tools[0]"]


@pytest.mark.parametrize(
    ("caller", "members", "lost"),
    [
        ("chat", {"messages": [{**USER, "name": "Ana"}]}, "messages"),
        ("chat", {"reasoning_effort": "low"}, "reasoning_effort"),
        ("responses", {"reasoning": {"effort": "low"}}, "reasoning.effort"),
        ("chat", {"chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
        ("chat", {"continue_final_message": True}, "continue_final_message"),
    ],
)
def test_what_only_a_template_knows_is_lost(caller: str, members: JSON, lost: str) -> None:
    assert written(caller, **members) == ({"model": "m", "prompt": "Hi"}, [lost])


def test_special_tokens_are_not_the_templates_alone() -> None:
    body, losses = written("chat", add_special_tokens=False)
    assert body == {"model": "m", "prompt": "Hi", "add_special_tokens": False}
    assert losses == []


# --- both kinds of prompt --------------------------------------------------------------------


@pytest.mark.parametrize("profile", [None, TEMPLATE])
@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA=="}},
        {"type": "video_url", "video_url": {"url": "http://x/v.mp4"}},
    ],
)
def test_a_prompt_is_text(part: JSON, profile: Profile | None) -> None:
    content = [{"type": "text", "text": "Look:"}, part]
    error = refused("chat", profile, messages=[{"role": "user", "content": content}])
    assert error.param == "messages[0].content[1]"


def test_a_prompt_of_a_responses_caller_is_text() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}
    error = refused("responses", TEMPLATE, input=[{"role": "user", "content": [image]}])
    assert error.param == "input[0].content[0]"


@pytest.mark.parametrize("part", [Image(param="p"), Audio("", "wav", "p"), File(param="p")])
def test_results_of_tools_are_text(part: Image | Audio | File) -> None:
    items: list[Item] = [ToolCall("c", "f", "{}"), ToolResult("c", [part])]
    with pytest.raises(UnsupportedFeature) as caught:
        write_request(Request("m", items), context(render=Render.CHAT_TEMPLATE))
    assert caught.value.param == "p"


def test_an_item_of_another_dialect_is_refused() -> None:
    item = Opaque(Dialect.RESPONSES, "computer_call", {}, "input[0]")
    with pytest.raises(UnsupportedFeature, match="computer_call") as caught:
        write_request(Request("m", [item]), context(render=Render.CHAT_TEMPLATE))
    assert caught.value.param == "input[0]"


@pytest.mark.parametrize("name", ["echo", "prompt", "prompt_embeds", "suffix"])
def test_members_of_the_prompt_are_not_the_callers(name: str) -> None:
    members: JSON = {name: "x"}
    assert refused("chat", **members).param == name


def test_options_that_completions_knows() -> None:
    options: JSON = {
        "temperature": 0.5,
        "top_p": 0.9,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "stop": ["\n"],
        "seed": 7,
        "logit_bias": {"5": 1},
        "user": "ana",
        "n": 3,
        "top_k": 20,
        "return_token_ids": True,
    }
    body, losses = written("chat", **options)
    assert body == {"model": "m", "prompt": "Hi", **options}
    assert losses == []


@pytest.mark.parametrize(
    ("caller", "member"),
    [
        ("chat", "max_tokens"),
        ("chat", "max_completion_tokens"),
        ("responses", "max_output_tokens"),
    ],
)
def test_the_limit(caller: str, member: str) -> None:
    members: JSON = {member: 5}
    assert written(caller, **members)[0] == {"model": "m", "prompt": "Hi", "max_tokens": 5}


@pytest.mark.parametrize(
    ("caller", "members", "logprobs"),
    [
        ("chat", {}, None),
        ("chat", {"logprobs": False}, None),
        ("chat", {"logprobs": True}, 0),
        ("chat", {"logprobs": True, "top_logprobs": 0}, 0),
        ("chat", {"logprobs": True, "top_logprobs": 3}, 3),
        ("responses", {"include": ["message.output_text.logprobs"]}, 0),
        ("responses", {"top_logprobs": 3}, 3),
    ],
)
def test_log_probs_are_a_number(caller: str, members: JSON, logprobs: int | None) -> None:
    assert written(caller, **members)[0].get("logprobs") == logprobs


def test_a_format() -> None:
    schema = {"type": "object"}
    text = {"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}}
    body, _ = written("responses", text=text)
    nested = {"name": "x", "schema": schema, "strict": True}
    assert body["response_format"] == {"type": "json_schema", "json_schema": nested}


def test_a_stream_brings_usage_where_the_upstream_knows_how() -> None:
    body, _ = written("chat", stream=True)
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert "stream_options" not in written("chat", Profile(stream_usage=False), stream=True)[0]


@pytest.mark.parametrize(
    "members",
    [
        {"verbosity": "low"},
        {"service_tier": "auto"},
        {"prompt_cache_key": "k"},
        {"safety_identifier": "s"},
    ],
)
def test_options_that_completions_lacks_are_lost(members: JSON) -> None:
    assert written("chat", **members) == ({"model": "m", "prompt": "Hi"}, [*members])


def test_members_that_the_upstream_refuses_are_lost() -> None:
    body, losses = written("chat", Profile(refuses=("seed",)), seed=1)
    assert body == {"model": "m", "prompt": "Hi"}
    assert losses == ["seed"]


# --- prompts that the upstream renders -------------------------------------------------------


def test_a_conversation_is_told_in_chat() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": "1"}
    items = [{"role": "user", "content": "Hi"}, call, output]
    body, losses = written("responses", TEMPLATE, input=items, tools=[RESPONSES_TOOL])
    told = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "tool"]
    assert body["messages"][1]["tool_calls"] == [told]
    assert [tool["function"]["name"] for tool in body["tools"]] == ["f"]
    assert body.keys() == {"model", "messages", "tools"}
    assert losses == []


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_tools_may_be_called_or_not(choice: str) -> None:
    body, losses = written("chat", TEMPLATE, tools=[CHAT_TOOL], tool_choice=choice)
    assert body.keys() == {"model", "messages", "tools"}
    assert losses == []


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
def test_no_tool_has_to_be_called(choice: JSON) -> None:
    error = refused("chat", TEMPLATE, tools=[CHAT_TOOL], tool_choice=choice)
    assert error.param == "tool_choice"


def test_one_call_at_most_is_lost() -> None:
    members = {"tools": [CHAT_TOOL], "parallel_tool_calls": False}
    assert written("chat", TEMPLATE, **members)[1] == ["parallel_tool_calls"]


@pytest.mark.parametrize(
    ("members", "arguments"),
    [
        ({}, None),
        ({"chat_template_kwargs": {"a": 1}}, {"a": 1}),
        ({"reasoning_effort": "low"}, {"enable_thinking": True, "reasoning_effort": "low"}),
        ({"reasoning_effort": "none"}, {"enable_thinking": False, "reasoning_effort": "none"}),
        (
            {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}},
            {"enable_thinking": False, "reasoning_effort": "low"},
        ),
    ],
)
def test_the_effort_is_an_argument_of_the_template(members: JSON, arguments: JSON) -> None:
    """As in vLLM's own Chat endpoint."""
    assert written("chat", TEMPLATE, **members)[0].get("chat_template_kwargs") == arguments


def test_a_profile_without_a_switch_has_the_effort_alone() -> None:
    profile = Profile(render=Render.CHAT_TEMPLATE)
    body, _ = written("chat", profile, reasoning_effort="low")
    assert body["chat_template_kwargs"] == {"reasoning_effort": "low"}


def test_a_prompt_that_is_there_is_not_asked_for() -> None:
    assert ask_for_prompt({"model": "m", "prompt": "Hi"}) is None


def test_the_question_for_a_prompt() -> None:
    body = {
        "model": "m",
        "messages": [USER],
        "tools": [CHAT_TOOL],
        "chat_template_kwargs": {"a": 1},
        "documents": [{"text": "d"}],
        "add_generation_prompt": False,
        "temperature": 0,
    }
    assert ask_for_prompt(body) == {
        "model": "m",
        "messages": [USER],
        "tools": [CHAT_TOOL],
        "chat_template_kwargs": {"a": 1, "documents": [{"text": "d"}]},
        "add_generation_prompt": False,
    }


@pytest.mark.parametrize(
    ("limit", "context_tokens", "expected"),
    [({}, 10, 7), ({"max_tokens": 5}, 10, 5), ({}, 3, None), ({}, None, None)],
)
def test_a_prompt_of_tokens(limit: JSON, context_tokens: int | None, expected: int | None) -> None:
    """Without a limit the answer may fill the context; where that is full, vLLM has to say so."""
    body = {"model": "m", "messages": [USER], "tools": [], "temperature": 0, **limit}
    answer = {"tokens": [1, 2, 3], "count": 3, "max_model_len": context_tokens}
    filled = fill_prompt(body, answer)
    assert filled.pop("max_tokens", None) == expected
    assert filled == {"model": "m", "prompt": [1, 2, 3], "temperature": 0}


@pytest.mark.parametrize("answer", [{}, {"tokens": "abc"}, {"tokens": ["a"]}])
def test_an_answer_without_tokens(answer: JSON) -> None:
    with pytest.raises(UpstreamProtocolError):
        fill_prompt({"messages": []}, answer)


# --- choices ---------------------------------------------------------------------------------


def test_a_responses_upstream_gives_one_choice() -> None:
    translation = Translation.between("chat", "responses", profile=PROFILES["openai"])
    with pytest.raises(UnsupportedFeature) as caught:
        translation.request({"model": "m", "messages": [USER], "n": 2})
    assert caught.value.param == "n"


def test_a_number_of_choices_is_a_number() -> None:
    with pytest.raises(MalformedRequest) as caught:
        written("chat", n="two")
    assert caught.value.param == "n"
