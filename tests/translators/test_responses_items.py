"""Items and parts of Responses, both ways."""

import pytest

from tests.translators.streams import PlainSeal, context
from translators.canonical import (
    Audio,
    File,
    Image,
    Item,
    Message,
    Opaque,
    OpaquePart,
    Part,
    Reasoning,
    Refusal,
    Request,
    Role,
    Status,
    Text,
    ToolCall,
    ToolKind,
    ToolResult,
)
from translators.dialect import Dialect
from translators.errors import MalformedRequest, UnsupportedFeature
from translators.profiles import Policy, ReasoningAs
from translators.responses.content import (
    read_content,
    write_input,
    write_logprobs,
    write_output,
)
from translators.responses.history import tell
from translators.responses.items import assign_id, read_item, write_input_items, write_item
from translators.responses.request import read_request
from translators.translation import Translation
from translators.wire import JSON


def request(*items: JSON, **members: JSON) -> Request:
    return read_request({"model": "m", "input": [*items], **members}, context())


# --- reading items ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "item"),
    [
        (
            {
                "type": "message",
                "id": "i",
                "role": "assistant",
                "status": "incomplete",
                "phase": "final_answer",
                "name": "bot",
                "content": "a",
                "mood": "calm",
            },
            Message(
                Role.ASSISTANT,
                [Text("a")],
                "i",
                Status.INCOMPLETE,
                "bot",
                "final_answer",
                {"mood": "calm"},
            ),
        ),
        ({"role": "developer"}, Message(Role.DEVELOPER, [])),
        (
            {
                "type": "function_call",
                "id": "i",
                "call_id": "x",
                "name": "f",
                "namespace": "ns",
                "arguments": {"a": 1},
                "status": "in_progress",
                "mood": "calm",
            },
            ToolCall(
                "x",
                "f",
                '{"a":1}',
                ToolKind.FUNCTION,
                "ns",
                "i",
                Status.IN_PROGRESS,
                {"mood": "calm"},
            ),
        ),
        (
            {"type": "function_call", "call_id": "x", "name": "f", "arguments": None},
            ToolCall("x", "f", ""),
        ),
        (
            {
                "type": "custom_tool_call",
                "id": "i",
                "call_id": "x",
                "name": "f",
                "namespace": "ns",
                "input": "a",
                "status": "incomplete",
            },
            ToolCall("x", "f", "a", ToolKind.CUSTOM, "ns", "i", Status.INCOMPLETE),
        ),
        (
            {"type": "function_call_output", "id": "i", "call_id": "x", "output": "a", "n": 1},
            ToolResult("x", [Text("a")], ToolKind.FUNCTION, "i", {"n": 1}),
        ),
        (
            {"type": "custom_tool_call_output", "call_id": "x", "output": {"a": 1}},
            ToolResult("x", [Text('{"a":1}')], ToolKind.CUSTOM),
        ),
        (
            {
                "type": "reasoning",
                "id": "i",
                "status": "incomplete",
                "summary": [{"type": "summary_text", "text": "a"}],
                "content": [{"type": "reasoning_text", "text": "b"}],
                "encrypted_content": "c",
            },
            Reasoning(["b"], ["a"], "c", "i", Status.INCOMPLETE),
        ),
        (
            {"type": "web_search_call", "id": "i"},
            Opaque(
                Dialect.RESPONSES, "web_search_call", {"type": "web_search_call", "id": "i"}, "p"
            ),
        ),
    ],
)
def test_items_are_read(body: JSON, item: Item) -> None:
    assert read_item(body, "p") == item


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (5, "p"),
        ({}, "p"),
        ({"role": "robot"}, "p.role"),
        ({"type": "function_call", "call_id": "x"}, "p.name"),
        ({"type": "function_call_output", "call_id": "x", "output": [{}]}, "p.output[0].type"),
        ({"type": "shell_call", "call_id": "x"}, "p.action"),
        ({"type": "shell_call_output"}, "p.call_id"),
        ({"role": "user", "content": [{"type": "input_text"}]}, "p.content[0].text"),
        ({"role": "user", "content": [{"type": "refusal"}]}, "p.content[0].refusal"),
        ({"role": "user", "content": [{"type": "input_image"}]}, "p.content[0].image_url"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "p.content[0].input_audio"),
    ],
)
def test_a_broken_item_is_refused_at_its_place(body: JSON, param: str) -> None:
    with pytest.raises(MalformedRequest) as caught:
        read_item(body, "p")
    assert caught.value.param == param


# --- parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("a", Text("a")),
        (
            {"type": "output_text", "text": "a", "annotations": [{}], "logprobs": [{"token": "a"}]},
            Text("a", [{}], [{"token": "a"}]),
        ),
        ({"type": "summary_text", "text": "a"}, Text("a")),
        ({"type": "refusal", "refusal": "no"}, Refusal("no")),
        (
            {"type": "input_image", "image_url": {"url": "u", "detail": "low"}},
            Image(url="u", detail="low", param="c[0]"),
        ),
        (
            {"type": "input_image", "image_url": {"url": "u"}, "detail": "high"},
            Image(url="u", detail="high", param="c[0]"),
        ),
        (
            {"type": "image_url", "image_url": "u", "detail": "high"},
            Image(url="u", detail="high", param="c[0]"),
        ),
        (
            {"type": "input_image", "file_id": "f", "detail": "high"},
            Image(file_id="f", detail="high", param="c[0]"),
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "d", "format": "wav"}},
            Audio("d", "wav", param="c[0]"),
        ),
        (
            {"type": "input_video", "video_url": "u"},
            OpaquePart(
                Dialect.CHAT,
                "video_url",
                {"type": "video_url", "video_url": {"url": "u"}},
                "c[0]",
            ),
        ),
        *(
            (body, OpaquePart(Dialect.CHAT, "video_url", {"type": "video_url", **member}, "c[0]"))
            for member in [{"video_url": {"url": "u"}}]
            for body in (
                {"type": "input_video", "video": "u"},
                {"type": "input_video", "video": "u", "video_url": None},
                {"type": "video_url", **member},
            )
        ),
        (
            {"type": "audio_url", "audio_url": {"url": "u"}},
            OpaquePart(
                Dialect.CHAT,
                "audio_url",
                {"type": "audio_url", "audio_url": {"url": "u"}},
                "c[0]",
            ),
        ),
        (
            {"type": "input_video", "video_url": {"url": "u", "fps": 1}},
            OpaquePart(
                Dialect.CHAT,
                "video_url",
                {"type": "video_url", "video_url": {"url": "u", "fps": 1}},
                "c[0]",
            ),
        ),
        (
            {
                "type": "input_file",
                "file_data": "d",
                "file_url": "u",
                "file_id": "f",
                "filename": "n",
                "detail": "high",
            },
            File("d", "u", "f", "n", "high", "c[0]"),
        ),
        (
            {"type": "new_part", "a": 1},
            OpaquePart(Dialect.RESPONSES, "new_part", {"type": "new_part", "a": 1}, "c[0]"),
        ),
    ],
)
def test_parts_are_read(body: JSON, part: Part) -> None:
    assert read_content([body], "c") == [part]


@pytest.mark.parametrize(
    ("body", "member"),
    [
        ({"type": "input_image"}, "image_url"),
        ({"type": "input_image", "image_url": ""}, "image_url"),
        ({"type": "input_image", "image_url": {"url": ""}}, "image_url"),
        ({"type": "image_url", "image_url": {"url": ""}}, "image_url"),
        ({"type": "input_video"}, "video_url"),
        ({"type": "input_video", "video_url": ""}, "video_url"),
        ({"type": "input_video", "video_url": {"url": ""}}, "video_url"),
        ({"type": "input_video", "video_url": "u", "video": "v"}, "video_url"),
        ({"type": "input_audio", "input_audio": {"data": "d"}}, "input_audio"),
    ],
)
def test_a_part_without_its_value_is_refused(body: JSON, member: str) -> None:
    with pytest.raises(MalformedRequest) as caught:
        read_content(["a", body], "c")
    assert caught.value.param == f"c[1].{member}"


@pytest.mark.parametrize(
    ("part", "body"),
    [
        (Refusal("no"), {"type": "refusal", "refusal": "no"}),
        (Image(url="u"), {"type": "input_image", "detail": "auto", "image_url": "u"}),
        (
            Image(file_id="f", detail="low"),
            {"type": "input_image", "detail": "low", "file_id": "f"},
        ),
        (
            Audio("d", "wav"),
            {"type": "input_audio", "input_audio": {"data": "d", "format": "wav"}},
        ),
        (
            File("d", "u", "f", "n", "high"),
            {
                "type": "input_file",
                "file_data": "d",
                "file_url": "u",
                "file_id": "f",
                "filename": "n",
                "detail": "high",
            },
        ),
        (OpaquePart(Dialect.RESPONSES, "new_part", {"type": "new_part"}), {"type": "new_part"}),
    ],
)
def test_parts_are_written(part: Part, body: JSON) -> None:
    assert write_input([part], Role.USER) == [body]


@pytest.mark.parametrize(
    ("role", "kind"),
    [(Role.ASSISTANT, "output_text"), (Role.USER, "input_text"), (Role.SYSTEM, "input_text")],
)
def test_the_type_of_text_depends_on_the_role(role: Role, kind: str) -> None:
    assert write_input([Text("a")], role) == "a"
    assert write_input([Text("a"), Text("b")], role) == [
        {"type": kind, "text": "a"},
        {"type": kind, "text": "b"},
    ]


def test_a_part_of_another_dialect_is_refused_at_its_place() -> None:
    part = OpaquePart(Dialect.CHAT, "video_url", {}, "messages[0].content[0]")
    with pytest.raises(UnsupportedFeature, match="'video_url'") as caught:
        write_input([part], Role.USER)
    assert caught.value.param == "messages[0].content[0]"


def test_media_in_a_reply_leave_an_empty_text() -> None:
    ctx = context()
    empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    assert write_output(Image(url="u"), ctx) == empty
    assert [loss.param for loss in ctx.losses] == ["output"]


def test_log_probs_have_every_required_member() -> None:
    entries = [{"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": [{}, 5]}, {}]
    nothing = {"token": "", "logprob": 0.0, "bytes": []}
    assert write_logprobs(entries) == [
        {"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": [nothing]},
        {**nothing, "top_logprobs": []},
    ]


# --- writing items ---------------------------------------------------------------------------


def test_input_items_are_written_without_what_only_a_reply_has() -> None:
    items: list[Item] = [
        Message(Role.USER, [Text("q")], extra={"mood": "calm"}),
        Message(Role.ASSISTANT, []),
        Reasoning(content=["b"], summary=["a"], encrypted="c", id="i"),
        Reasoning(),
        ToolCall("x", "f", "{}", id="i"),
        ToolResult("x", [Text("ok"), Image(url="u")]),
        ToolResult("x", [], ToolKind.CUSTOM),
    ]
    assert write_input_items(items, context()) == [
        {"type": "message", "role": "user", "content": "q", "mood": "calm"},
        {"type": "message", "role": "assistant", "content": ""},
        {
            "type": "reasoning",
            "id": "i",
            "summary": [{"type": "summary_text", "text": "a"}],
            "content": [{"type": "reasoning_text", "text": "b"}],
        },
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": []},
        {"type": "function_call", "call_id": "x", "name": "f", "arguments": "{}"},
        {
            "type": "function_call_output",
            "call_id": "x",
            "output": [
                {"type": "input_text", "text": "ok"},
                {"type": "input_image", "detail": "auto", "image_url": "u"},
            ],
        },
        {"type": "custom_tool_call_output", "call_id": "x", "output": ""},
    ]


def test_an_opaque_item_is_refused_at_its_place() -> None:
    with pytest.raises(UnsupportedFeature, match="'new'") as caught:
        write_input_items([Opaque(Dialect.CHAT, "new", {}, "messages[0]")], context())
    assert caught.value.param == "messages[0]"


def test_output_items_are_written() -> None:
    said = Message(Role.ASSISTANT, [Text("a")], phase="final_answer", extra={"mood": "calm"})
    assert write_item(said, context()) == {
        "id": "msg_1",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "phase": "final_answer",
        "content": [{"type": "output_text", "text": "a", "annotations": [], "logprobs": []}],
        "mood": "calm",
    }
    opaque = Opaque(Dialect.RESPONSES, "new", {"type": "new", "id": "n_1"})
    assert write_item(opaque, context()) == {"type": "new", "id": "n_1"}
    assert assign_id(opaque, context()) == "n_1"


def test_reasoning_of_a_reply_is_sealed_if_that_was_asked_for() -> None:
    ctx = context(policy=Policy(reasoning_as=ReasoningAs.CONTENT))
    ctx.seal = PlainSeal()
    thought = Reasoning(content=["a", "", "b"])
    assert "encrypted_content" not in write_item(thought, ctx)
    ctx.wants_sealed = True
    assert write_item(thought, ctx)["encrypted_content"] == "sealed:a\n\nb"
    assert thought.encrypted == "sealed:a\n\nb"
    assert "encrypted_content" not in write_item(Reasoning(content=[""]), ctx)
    assert write_item(Reasoning(encrypted="c"), context())["encrypted_content"] == "c"


def test_reasoning_is_not_sealed_where_nothing_can_be() -> None:
    ctx = context()
    ctx.wants_sealed = True
    assert "encrypted_content" not in write_item(Reasoning(content=["a"]), ctx)


# --- what hosted tools did -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {"type": "web_search_call", "action": {"query": "a"}},
            Message(Role.ASSISTANT, [Text('[a web search was run: {"action":{"query":"a"}}]')]),
        ),
        (
            {"type": "program_output", "result": None},
            Message(Role.ASSISTANT, [Text("[the program ended]")]),
        ),
        (
            {"type": "computer_call_output", "output": {"image_url": "u"}},
            Message(Role.USER, [Text("[the computer's screen after the action]"), Image(url="u")]),
        ),
        (
            {"type": "mcp_call", "name": "f", "output": {"image_url": "u"}},
            Message(
                Role.ASSISTANT,
                [
                    Text(
                        "[a tool of an MCP server was called: "
                        '{"name":"f","output":{"image_url":"u"}}]'
                    )
                ],
            ),
        ),
    ],
)
def test_hosted_items_are_told(body: JSON, message: Message) -> None:
    ctx = context()
    assert tell(body, ctx) == message
    assert ctx.losses == []


URL = "data:image/png;base64,iVBORw0KGgo="
LONG = "a" * 30_000


@pytest.mark.parametrize(
    ("logs", "told", "is_lost"),
    [
        (URL, '"logs":"(data left out)"', True),
        ("data: 1, 2", '"logs":"data: 1, 2"', False),
        (f'"{URL}"', f'"logs":"\\"{URL}\\""', False),
        (LONG, '"logs":"aaa', True),
    ],
)
def test_only_data_is_left_out_of_what_is_told(logs: str, told: str, is_lost: bool) -> None:
    ctx = context()
    (part,) = tell({"type": "code_interpreter_call", "outputs": [{"logs": logs}]}, ctx).parts
    assert isinstance(part, Text)
    assert told in part.text
    assert len(part.text) < 21_000
    assert [loss.param for loss in ctx.losses] == ["items"] * is_lost


def test_an_image_that_was_generated_is_lost() -> None:
    ctx = context()
    tell({"type": "image_generation_call", "result": "iVBORw0KGgo="}, ctx)
    assert [loss.param for loss in ctx.losses] == ["items"]


# --- input -----------------------------------------------------------------------------------


def test_instructions_may_be_items() -> None:
    question = {"role": "user", "content": "q"}
    rules = [{"role": "developer", "content": "a"}, {"role": "developer", "content": "b"}]
    assert request(question, instructions=rules).items == [
        Message(Role.DEVELOPER, [Text("a")]),
        Message(Role.DEVELOPER, [Text("b")]),
        Message(Role.USER, [Text("q")]),
    ]


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"instructions": [{}]}, "instructions[0]"),
        ({"input": [{"type": "additional_tools", "tools": [{}]}]}, "input[0].tools[0].type"),
        ({"input": [{"type": "additional_tools", "tools": 5}]}, "input[0].tools"),
        ({"input": [{"type": "configuration_update", "text": 5}]}, "input[0].text"),
        (
            {"input": [{"type": "tool_search_output", "call_id": "x", "tools": [{}]}]},
            "input[0].tools[0].type",
        ),
        ({"input": [{"type": "item_reference", "id": "i"}]}, "input[0].id"),
    ],
)
def test_broken_input_is_refused_at_its_place(members: JSON, param: str) -> None:
    with pytest.raises(MalformedRequest) as caught:
        request(**members)
    assert caught.value.param == param


def test_the_last_declaration_of_a_tool_counts() -> None:
    declared = {
        "type": "additional_tools",
        "tools": [{"type": "function", "name": "f", "strict": True}],
    }
    asked = request(declared, tools=[{"type": "function", "name": "f"}])
    assert [(tool.name, tool.strict) for tool in asked.tools] == [("f", True)]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("update", "effort", "verbosity"),
    [
        ({"reasoning": {"effort": "low"}}, "low", "high"),
        ({"text": {"verbosity": "low"}}, "high", "low"),
        ({"reasoning": {}, "text": {}}, "high", "high"),
        ({}, "high", "high"),
    ],
)
def test_configuration_updates(update: JSON, effort: str, verbosity: str) -> None:
    item = {"type": "configuration_update", **update}
    asked = request(item, reasoning={"effort": "high"}, text={"verbosity": "high"})
    assert (asked.effort, asked.verbosity) == (effort, verbosity)


def test_what_only_responses_has_goes_on_to_a_responses_upstream() -> None:
    """Of requests that are not relayed; the effort is the canonical one."""
    reasoning = {"effort": "low", "summary": "auto"}
    body = {"model": "m", "input": "x", "max_tool_calls": 3, "reasoning": reasoning}
    sent = Translation.between("responses", "responses").request(body)
    assert (sent["max_tool_calls"], sent["reasoning"]) == (3, reasoning)
    sent = Translation.between("responses", "responses").request({"model": "m", "input": "x"})
    assert not sent.keys() & {"max_tool_calls", "reasoning"}
