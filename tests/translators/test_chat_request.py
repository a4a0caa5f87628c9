"""Chat requests and the pieces of them, both ways."""

import pytest

from tests.translators.streams import context
from translators.canonical import (
    Audio,
    CustomTool,
    File,
    FunctionTool,
    HostedTool,
    Image,
    Message,
    OpaquePart,
    OutputFormat,
    Part,
    Reasoning,
    Refusal,
    Request,
    Role,
    Text,
    ToolCall,
    ToolChoice,
    ToolKind,
    ToolName,
    ToolResult,
)
from translators.chat import tools
from translators.chat.content import read_content, write_content, write_part
from translators.chat.request import read_request, write_request
from translators.dialect import Dialect
from translators.errors import MalformedRequest, UnsupportedFeature
from translators.names import ToolNames
from translators.profiles import HostedTools, Policy
from translators.translation import Translation
from translators.wire import JSON


def request(*messages: JSON, **members: JSON) -> Request:
    return read_request({"model": "m", "messages": [*messages], **members}, context())


# --- messages --------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["system", "developer", "user"])
def test_names_and_vendor_members_of_messages_are_kept(role: str) -> None:
    body = {"role": role, "content": "a", "name": "ann", "mood": "calm"}
    message = Message(Role(role), [Text("a")], name="ann", extra={"mood": "calm"})
    assert request(body).items == [message]


@pytest.mark.parametrize("content", [None, "", "said"])
def test_token_ids_of_a_turn_go_back_whatever_it_consists_of(content: str | None) -> None:
    ids = {"prompt_token_ids": [1], "generation_token_ids": [2], "generation_log_probs": [-0.5]}
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    said = {"role": "assistant", "content": content, "tool_calls": [call], **ids, "mood": "calm"}
    ctx = context()
    ctx.token_ids = True
    asked = read_request({"model": "m", "messages": [said]}, ctx)
    (sent,) = write_request(asked, ctx)["messages"]
    assert {name: sent[name] for name in ids} == ids
    lost = [loss.param for loss in ctx.losses]
    assert (sent.get("mood"), lost) == (("calm", []) if content else (None, ["messages[0].mood"]))


def test_metadata_and_store_go_where_no_reply_repeats_them() -> None:
    stored = {"metadata": {"a": "b"}, "store": True}
    sent = Translation.between("chat", "chat").request({"model": "m", "messages": [], **stored})
    assert sent == {"model": "m", "messages": [], **stored}
    sent = Translation.between("responses", "chat").request({"model": "m", "input": [], **stored})
    assert sent == {"model": "m", "messages": []}


def test_an_assistant_message_becomes_several_items() -> None:
    """Reasoning comes first, then what is said, then the calls."""
    body = {
        "role": "assistant",
        "content": "a",
        "refusal": "no",
        "reasoning_content": "because",
        "name": "bot",
        "mood": "calm",
        "tool_calls": [
            {"id": "x", "function": {"name": "f", "arguments": " "}},
            {"id": "y", "type": "custom", "custom": {"name": "g", "input": "text"}},
        ],
        "function_call": {"name": "h", "arguments": {"a": 1}},
    }
    user = {"role": "user", "content": "q"}
    assert request(user, body).items[1:] == [
        Reasoning(content=["because"]),
        Message(Role.ASSISTANT, [Text("a"), Refusal("no")], name="bot", extra={"mood": "calm"}),
        ToolCall("x", "f", "{}"),
        ToolCall("y", "g", "text", ToolKind.CUSTOM),
        ToolCall("call_4", "h", '{"a":1}'),
    ]


def test_results_have_the_kind_of_their_calls() -> None:
    calls = [
        {"id": "x", "type": "custom", "custom": {"name": "g", "input": "text"}},
        {"id": "y", "function": {"name": "f"}},
    ]
    results = [
        {"role": "tool", "tool_call_id": call_id, "content": "ok", "mood": "calm"}
        for call_id in ("y", "x", "z")
    ]
    items = request({"role": "assistant", "tool_calls": calls}, *results).items
    extra: JSON = {"mood": "calm"}
    assert items[-3:] == [
        ToolResult("y", [Text("ok")], ToolKind.FUNCTION, extra=extra),
        ToolResult("x", [Text("ok")], ToolKind.CUSTOM, extra=extra),
        ToolResult("z", [Text("ok")], ToolKind.FUNCTION, extra=extra),
    ]


def test_a_retired_function_message_answers_the_last_call() -> None:
    called = {"role": "assistant", "function_call": {"name": "f"}}
    result = {"role": "function", "name": "f", "content": "ok", "mood": "calm"}
    answered = request(called, result).items[-1]
    assert isinstance(answered, ToolResult)
    assert (answered.call_id, answered.parts) == ("call_0", [Text("ok")])
    assert answered.extra["mood"] == "calm"


@pytest.mark.parametrize(
    ("member", "value"), [("n", 1), ("modalities", ["text"]), ("n", None), ("audio", None)]
)
def test_refused_members_that_ask_for_nothing(member: str, value: JSON) -> None:
    assert request(**{member: value}).extra == {}


@pytest.mark.parametrize(
    ("member", "value"), [("modalities", ["text", "audio"]), ("audio", {"voice": "x"})]
)
def test_refused_members(member: str, value: JSON) -> None:
    with pytest.raises(UnsupportedFeature, match=f"'{member}'") as caught:
        request(**{member: value})
    assert caught.value.param == member


def test_several_choices_are_refused_as_one_is_read() -> None:
    ctx = context()
    with pytest.raises(UnsupportedFeature, match="'n'") as caught:
        write_request(request(n=2), ctx)
    assert caught.value.param == "n"


def test_a_member_that_is_lost_is_recorded() -> None:
    ctx = context()
    body = {"model": "m", "messages": [], "prediction": {"type": "content", "content": "a"}}
    read_request(body, ctx)
    assert [loss.param for loss in ctx.losses] == ["prediction"]


# --- content ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("a", Text("a")),
        ({"type": "input_text", "text": "a"}, Text("a")),
        ({"type": "output_text", "text": "a"}, Text("a")),
        ({"type": "refusal", "refusal": "no"}, Refusal("no")),
        ({"type": "image_url", "image_url": "u"}, Image(url="u", param="c[0]")),
        (
            {"type": "image_url", "image_url": {"url": "u", "detail": "low"}},
            Image(url="u", detail="low", param="c[0]"),
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "d", "format": "wav"}},
            Audio("d", "wav", param="c[0]"),
        ),
        (
            {"type": "file", "file": {"file_id": "f", "filename": "n"}},
            File(file_id="f", filename="n", param="c[0]"),
        ),
        (
            {"type": "file", "file": {"file_data": "d"}},
            File(data="d", param="c[0]"),
        ),
        (
            {"type": "video_url", "video_url": {"url": "u"}},
            OpaquePart(
                Dialect.CHAT,
                "video_url",
                {"type": "video_url", "video_url": {"url": "u"}},
                param="c[0]",
            ),
        ),
    ],
)
def test_parts_are_read(body: JSON, part: Part) -> None:
    assert read_content([body], "c") == [part]


@pytest.mark.parametrize(
    "body",
    [
        *({"type": kind} for kind in ("text", "refusal", "image_url", "input_audio", "file")),
        {"type": "image_url", "image_url": ""},
        {"type": "image_url", "image_url": {"url": ""}},
    ],
)
def test_a_part_without_its_value_is_refused(body: JSON) -> None:
    with pytest.raises(MalformedRequest, match=f"'{body['type']}'") as caught:
        read_content(["a", body], "c")
    assert caught.value.param == "c[1]"


@pytest.mark.parametrize(
    ("part", "body"),
    [
        (Text("a"), {"type": "text", "text": "a"}),
        (Refusal("no"), {"type": "refusal", "refusal": "no"}),
        (Image(url="u"), {"type": "image_url", "image_url": {"url": "u"}}),
        (
            File(data="d", file_id="f", filename="n"),
            {"type": "file", "file": {"file_data": "d", "file_id": "f", "filename": "n"}},
        ),
        (OpaquePart(Dialect.CHAT, "video_url", {"type": "video_url"}), {"type": "video_url"}),
    ],
)
def test_parts_are_written(part: Part, body: JSON) -> None:
    assert write_part(part, context(files=True)) == body


def test_text_beside_media_is_a_part() -> None:
    parts: list[Part] = [Text("a"), Refusal("no"), Image(url="u")]
    assert write_content(parts, context()) == [
        {"type": "text", "text": "a"},
        {"type": "refusal", "refusal": "no"},
        {"type": "image_url", "image_url": {"url": "u"}},
    ]


# --- tools -----------------------------------------------------------------------------------


def test_tools_are_read() -> None:
    grammar = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "d"}}
    bodies: list[JSON] = [
        {
            "type": "function",
            "function": {"name": "f", "description": "F.", "parameters": {}, "strict": True},
            "defer": True,
        },
        {
            "type": "custom",
            "custom": {"name": "c", "description": "C.", "format": grammar},
            "defer": True,
        },
        {"type": "custom", "custom": {"name": "t", "format": {"type": "text"}}},
        {"type": "web_search", "size": 1},
    ]
    assert tools.read_tools(bodies) == [
        FunctionTool("f", "F.", {}, True, extra={"defer": True}),
        CustomTool(
            "c",
            "C.",
            {"type": "grammar", "syntax": "lark", "definition": "d"},
            extra={"defer": True},
        ),
        CustomTool("t", format={"type": "text"}),
        HostedTool("web_search", {"type": "web_search", "size": 1}, "tools[3]"),
    ]


@pytest.mark.parametrize("kind", ["function", "custom"])
def test_a_tool_without_its_definition_is_refused(kind: str) -> None:
    with pytest.raises(MalformedRequest) as caught:
        tools.read_tools([{"type": kind}])
    assert caught.value.param == f"tools[0].{kind}"


def test_web_search_options_stand_for_the_hosted_tool() -> None:
    place = {"type": "approximate", "approximate": {"city": "Oslo"}}
    body = {"type": "web_search", "user_location": {"type": "approximate", "city": "Oslo"}}
    assert tools.read_web_search({"user_location": place}) == [
        HostedTool("web_search", body, "web_search_options")
    ]
    assert tools.read_web_search(None) == []


@pytest.mark.parametrize(
    ("body", "choice"),
    [
        (None, None),
        ("auto", ToolChoice("auto")),
        ("required", ToolChoice("required")),
        (
            {"type": "allowed_tools", "allowed_tools": {"tools": [{"name": "f"}]}},
            ToolChoice("auto", (ToolName("f"),)),
        ),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [
                        {"type": "function", "function": {"name": "f"}},
                        {"type": "custom", "custom": {"name": "c"}},
                    ],
                },
            },
            ToolChoice("required", (ToolName("f"), ToolName("c", ToolKind.CUSTOM))),
        ),
        (
            {"type": "function", "function": {"name": "f"}},
            ToolChoice("required", (ToolName("f"),), forced=True),
        ),
        ({"name": "f"}, ToolChoice("required", (ToolName("f"),), forced=True)),
    ],
)
def test_tool_choices_are_read(body: JSON, choice: ToolChoice | None) -> None:
    assert tools.read_tool_choice(body) == choice


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ("any", "p"),
        ({"type": "function"}, "p"),
        ({"type": "allowed_tools", "allowed_tools": {"tools": [{}]}}, "p.allowed_tools.tools"),
    ],
)
def test_a_broken_choice_is_refused_at_its_place(body: JSON, param: str) -> None:
    with pytest.raises(MalformedRequest, match=param.replace(".", r"\.")) as caught:
        tools.read_tool_choice(body, "p")
    assert caught.value.param == param


def offered(choice: ToolChoice | None = None, **profile: bool) -> JSON:
    """Tools and choice of a request that offers a function and a custom tool of a namespace."""
    grammar = {"type": "grammar", "syntax": "lark", "definition": "d"}
    declared: list[FunctionTool | CustomTool] = [
        FunctionTool("f", namespace="ns"),
        CustomTool("c", "C.", grammar, namespace="ns"),
        CustomTool("t", format={"type": "text"}),
    ]
    body = Request(model="m", items=[], tools=[*declared], tool_choice=choice)
    return tools.write_tools(body, ToolNames(declared), context(policy=None, **profile))


def test_tools_for_an_upstream_that_knows_custom_ones() -> None:
    grammar = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "d"}}
    assert offered(custom_tools=True)["tools"] == [
        {
            "type": "function",
            "function": {"name": "ns__f", "parameters": {"type": "object", "properties": {}}},
        },
        {"type": "custom", "custom": {"name": "ns__c", "description": "C.", "format": grammar}},
        {"type": "custom", "custom": {"name": "t", "format": {"type": "text"}}},
    ]


@pytest.mark.parametrize("custom_tools", [True, False])
def test_a_named_choice_has_the_kind_and_name_that_the_upstream_knows(custom_tools: bool) -> None:
    kind = "custom" if custom_tools else "function"
    named = ToolName("c", ToolKind.CUSTOM, "ns")
    choice = offered(ToolChoice("required", (named,), forced=True), custom_tools=custom_tools)
    assert choice["tool_choice"] == {"type": kind, kind: {"name": "ns__c"}}


def test_allowed_tools_are_named_as_the_upstream_knows_them() -> None:
    choice = ToolChoice(
        "auto", (ToolName("f", namespace="ns"), ToolName("c", ToolKind.CUSTOM, "ns"))
    )
    assert offered(choice, custom_tools=True, allowed_tools=True)["tool_choice"] == {
        "type": "allowed_tools",
        "allowed_tools": {
            "mode": "auto",
            "tools": [
                {"type": "function", "function": {"name": "ns__f"}},
                {"type": "custom", "custom": {"name": "ns__c"}},
            ],
        },
    }


def test_one_allowed_tool_that_is_required_is_named() -> None:
    choice = ToolChoice("required", (ToolName("c", ToolKind.CUSTOM, "ns"),))
    members = offered(choice, custom_tools=True)
    assert [tool["type"] for tool in members["tools"]] == ["custom"]
    assert members["tool_choice"] == {"type": "custom", "custom": {"name": "ns__c"}}


def test_a_dropped_hosted_tool_is_not_among_the_tools() -> None:
    ctx = context(policy=Policy(hosted_tools=HostedTools.DROP))
    hosted = HostedTool("web_search", {}, "tools[0]")
    body = Request(model="m", items=[], tools=[hosted, FunctionTool("f")])
    members = tools.write_tools(body, ToolNames(body.tools), ctx)
    assert [tool["function"]["name"] for tool in members["tools"]] == ["f"]
    assert [loss.param for loss in ctx.losses] == ["tools[0]"]


# --- output format ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "output"),
    [
        ({"type": "text"}, OutputFormat("text")),
        ({"type": "json_object"}, OutputFormat("json_object")),
        (
            {
                "type": "json_schema",
                "json_schema": {"name": "n", "description": "d", "schema": {}, "strict": True},
            },
            OutputFormat("json_schema", "n", {}, True, "d"),
        ),
    ],
)
def test_formats_survive_a_round_trip(body: JSON, output: OutputFormat) -> None:
    assert request(response_format=body).format == output
    assert tools.write_format(output) == body
