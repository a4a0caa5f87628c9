"""Requests and whole replies of Responses, both ways."""

import pytest

from tests.translators.streams import context
from translators.canonical import (
    CustomTool,
    FunctionTool,
    Message,
    OutputFormat,
    Request,
    Response,
    Role,
    StopReason,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolKind,
    ToolName,
    Usage,
)
from translators.errors import (
    ErrorInfo,
    MalformedRequest,
    UnsupportedFeature,
    UpstreamProtocolError,
)
from translators.responses import tools
from translators.responses.request import read_request, write_request
from translators.responses.response import (
    read_response,
    read_usage,
    write_failure,
    write_response,
)
from translators.translation import Translation
from translators.wire import JSON

SAID = {"type": "message", "role": "assistant", "content": "a"}
CALL = {"type": "function_call", "call_id": "x", "name": "f", "arguments": "{}"}


def request(**members: JSON) -> Request:
    return read_request({"model": "m", "input": "q", **members}, context())


# --- tools and choices -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (
            {"type": "function", "function": {"name": "f", "description": "F."}},
            [FunctionTool("f", "F.")],
        ),
        (
            {
                "type": "namespace",
                "name": "ns",
                "tools": [
                    {"type": "function", "name": "f", "strict": True, "defer": True},
                    {"type": "custom", "name": "c", "description": "C.", "defer": True},
                ],
            },
            [
                FunctionTool("f", strict=True, namespace="ns", extra={"defer": True}),
                CustomTool("c", "C.", namespace="ns", extra={"defer": True}),
            ],
        ),
        ({"type": "tool_search"}, []),
        (
            {
                "type": "tool_search",
                "execution": "client",
                "description": "S.",
                "parameters": {"a": 1},
            },
            [FunctionTool("tool_search", "S.", {"a": 1}, kind=ToolKind.TOOL_SEARCH)],
        ),
    ],
)
def test_tools_are_read(body: JSON, found: list[Tool]) -> None:
    assert tools.read_tools([body]) == found


def test_a_broken_tool_of_a_namespace_is_refused_at_its_place() -> None:
    group = {"type": "namespace", "name": "ns", "tools": [{"type": "function"}]}
    with pytest.raises(MalformedRequest) as caught:
        tools.read_tools([group])
    assert caught.value.param == "tools[0].tools[0].name"


@pytest.mark.parametrize(
    ("body", "choice"),
    [
        (None, None),
        ("none", ToolChoice("none")),
        (
            {"type": "shell"},
            ToolChoice("required", (ToolName("shell", ToolKind.SHELL),), forced=True),
        ),
        (
            {"type": "custom", "name": "c", "namespace": "ns"},
            ToolChoice("required", (ToolName("c", ToolKind.CUSTOM, "ns"),), forced=True),
        ),
        (
            {"type": "function", "function": {"name": "f"}},
            ToolChoice("required", (ToolName("f"),), forced=True),
        ),
        (
            {"type": "web_search"},
            ToolChoice("required", hosted={"type": "web_search"}),
        ),
        (
            {
                "type": "allowed_tools",
                "tools": [
                    {"type": "function", "name": "f"},
                    {"type": "custom", "name": "c"},
                    {"type": "shell"},
                    {"type": "web_search"},
                ],
            },
            ToolChoice(
                "auto",
                (
                    ToolName("f"),
                    ToolName("c", ToolKind.CUSTOM),
                    ToolName("shell", ToolKind.SHELL),
                    ToolName("web_search"),
                ),
            ),
        ),
    ],
)
def test_tool_choices_are_read(body: JSON, choice: ToolChoice | None) -> None:
    assert tools.read_tool_choice(body) == choice


@pytest.mark.parametrize("body", ["any", {}, {"type": "allowed_tools", "tools": [{}]}])
def test_a_broken_choice_is_refused(body: JSON) -> None:
    with pytest.raises(MalformedRequest) as caught:
        tools.read_tool_choice(body)
    assert caught.value.param == "tool_choice"


@pytest.mark.parametrize(
    ("body", "output"),
    [
        ({"type": "text"}, OutputFormat("text")),
        (
            {
                "type": "json_schema",
                "name": "n",
                "schema": {},
                "strict": True,
                "description": "d",
            },
            OutputFormat("json_schema", "n", {}, True, "d"),
        ),
    ],
)
def test_formats_survive_a_round_trip(body: JSON, output: OutputFormat) -> None:
    assert request(text={"format": body}).format == output
    assert tools.write_format(output) == body


def test_a_schema_without_a_name_gets_one() -> None:
    asked = request(text={"format": {"type": "json_schema", "schema": {}}})
    assert asked.format == OutputFormat("json_schema", "response", {})


# --- requests --------------------------------------------------------------------------------


def test_what_canonical_requests_keep_of_a_request() -> None:
    asked = request(metadata={"a": "b"}, store=True, top_logprobs=2)
    assert (asked.metadata, asked.store, asked.include_usage) == ({"a": "b"}, True, True)
    assert (asked.logprobs, asked.top_logprobs) == (True, 2)
    assert request(include=["message.output_text.logprobs"]).logprobs
    assert not request().logprobs


@pytest.mark.parametrize(
    ("members", "echoed"),
    [
        ({"top_p": 0.5}, ("top_p", 0.5)),
        ({"presence_penalty": 0.5}, ("presence_penalty", 0.5)),
        ({"frequency_penalty": 0.5}, ("frequency_penalty", 0.5)),
        ({"truncation": "auto"}, ("truncation", "auto")),
        ({"service_tier": "auto"}, ("service_tier", "default")),
        ({"service_tier": "flex"}, ("service_tier", "flex")),
        ({"store": True}, ("store", False)),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "strict": True}}},
            (
                "text",
                {
                    "format": {
                        "type": "json_schema",
                        "name": "n",
                        "strict": True,
                        "description": None,
                    }
                },
            ),
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "description": "d"}}},
            (
                "text",
                {
                    "format": {
                        "type": "json_schema",
                        "name": "n",
                        "strict": False,
                        "description": "d",
                    }
                },
            ),
        ),
    ],
)
def test_replies_repeat_what_was_asked_for(members: JSON, echoed: tuple[str, JSON]) -> None:
    name, value = echoed
    assert request(**members).echo[name] == value


def test_members_that_the_upstream_refuses_are_left_out_and_recorded() -> None:
    ctx = context(refuses=("temperature", "top_p"))
    asked = Request(model="m", items=[], knobs={"temperature": 0.5})
    assert "temperature" not in write_request(asked, ctx)
    assert [loss.param for loss in ctx.losses] == ["temperature"]


def test_parallel_calls_are_not_spoken_of_without_tools() -> None:
    asked = Request(model="m", items=[], knobs={"parallel_tool_calls": True})
    assert "parallel_tool_calls" not in write_request(asked, context())


def test_stopping_at_strings_is_refused_where_it_cannot_be_said() -> None:
    asked = Request(model="m", items=[], knobs={"stop": ["a"]})
    with pytest.raises(UnsupportedFeature, match="'stop'"):
        write_request(asked, context(sampling_extras=False))


@pytest.mark.parametrize(("limit", "sent", "lost"), [(16, 16, []), (15, 16, ["max_output_tokens"])])
def test_a_limit_below_the_upstreams_minimum_is_raised(
    limit: int, sent: int, lost: list[str]
) -> None:
    ctx = context(minimum_output_tokens=16)
    body = write_request(Request(model="m", items=[], max_output_tokens=limit), ctx)
    assert body["max_output_tokens"] == sent
    assert [loss.param for loss in ctx.losses] == lost


# --- replies ---------------------------------------------------------------------------------


def test_a_reply_without_id_model_and_time() -> None:
    assert read_response({"output": [SAID], "mood": "calm"}, context()) == Response(
        "resp_1",
        "",
        7,
        [Message(Role.ASSISTANT, [Text("a")])],
        StopReason.STOP,
        extra={"mood": "calm"},
    )


def test_a_reply_keeps_its_id_model_and_status() -> None:
    body = {"id": "r", "model": "m", "created_at": 5, "status": "completed", "output": [CALL]}
    assert read_response(body, context()) == Response(
        "r", "m", 5, [ToolCall("x", "f", "{}")], StopReason.TOOL_CALLS, "completed"
    )


@pytest.mark.parametrize(
    ("body", "stop"),
    [
        ({"status": "incomplete", "output": []}, StopReason.LENGTH),
        (
            {
                "status": "incomplete",
                "output": [],
                "incomplete_details": {"reason": "content_filter"},
            },
            StopReason.CONTENT_FILTER,
        ),
        ({"status": "completed", "output": [SAID, CALL]}, StopReason.TOOL_CALLS),
    ],
)
def test_why_a_reply_stopped(body: JSON, stop: StopReason) -> None:
    assert read_response(body, context()).stop is stop


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"status": "cancelled"}, "The response was cancelled."),
        ({"status": "failed", "error": {"message": "no"}}, "no"),
        ({"error": {"message": "no"}}, "no"),
    ],
)
def test_replies_that_are_errors(body: JSON, message: str) -> None:
    response = read_response(body, context())
    assert response.stop is None
    assert response.error is not None
    assert (response.error.message, response.error.status) == (message, 502)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, None),
        ({"output": [SAID, 5]}, "output[1]"),
        ({"output": [], "usage": {"input_tokens": "1"}}, "usage.input_tokens"),
    ],
)
def test_a_fault_names_its_place_in_the_reply(body: JSON, param: str | None) -> None:
    with pytest.raises(UpstreamProtocolError) as caught:
        read_response(body, context())
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("wire", "usage"),
    [
        ({}, Usage(0, 0, 0)),
        ({"input_tokens": 2, "output_tokens": 3}, Usage(2, 3, 5)),
        (
            {
                "input_tokens": 9,
                "output_tokens": 1,
                "total_tokens": 11,
                "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
                "output_tokens_details": {"reasoning_tokens": 1},
            },
            Usage(9, 1, 11, cached=4, cache_write=2, reasoning=1),
        ),
    ],
)
def test_usage(wire: JSON, usage: Usage) -> None:
    assert read_usage(wire) == usage


def test_a_reply_names_the_upstreams_model() -> None:
    response = Response("c", "upstream-model", 5, [], StopReason.STOP)
    body = write_response(response, Request(model="m", items=[]), context())
    assert body["model"] == "upstream-model"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ErrorInfo("no", 429), "rate_limit_exceeded"),
        (ErrorInfo("no", 500, code="odd"), "server_error"),
        (ErrorInfo("no", 400, code="context_length_exceeded"), "context_length_exceeded"),
        (ErrorInfo("no", 429, code="invalid_prompt"), "invalid_prompt"),
    ],
)
def test_failures_have_a_code_that_clients_know(error: ErrorInfo, code: str) -> None:
    assert write_failure(error) == {"code": code, "message": "no"}


def test_both_losses_of_reasoning_are_recorded() -> None:
    translation = Translation.between("responses", "chat")
    reasoning = {"context": "current_turn", "mode": "pro"}
    translation.request({"model": "m", "input": "Hi", "reasoning": reasoning})
    lost = [loss.param for loss in translation.losses]
    assert lost == ["reasoning.context", "reasoning.mode"]
