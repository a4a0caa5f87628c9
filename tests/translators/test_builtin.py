"""Tools that Responses names by their type, as functions of a chat model."""

import pytest

from translators.canonical import Status, Text, ToolCall, ToolKind, ToolResult
from translators.errors import MalformedRequest
from translators.responses.builtin import (
    BY_CALL,
    BY_KIND,
    BY_OUTPUT,
    read_call,
    read_output,
    write_call,
)
from translators.wire import JSON, decode


def written(kind: ToolKind, arguments: str, status: Status = Status.COMPLETED) -> JSON:
    call = ToolCall("call_a", kind.value, arguments, kind, status=status)
    return write_call(BY_KIND[kind], call, "item_1")


@pytest.mark.parametrize(
    ("kind", "member", "arguments", "value"),
    [
        (
            ToolKind.LOCAL_SHELL,
            "action",
            '{"command": ["ls"], "env": {"A": "b"}, "timeout_ms": 9}',
            {"type": "exec", "command": ["ls"], "env": {"A": "b"}, "timeout_ms": 9},
        ),
        (
            ToolKind.LOCAL_SHELL,
            "action",
            '{"command": "ls -l", "env": null}',
            {"type": "exec", "command": ["bash", "-lc", "ls -l"], "env": {}},
        ),
        (ToolKind.LOCAL_SHELL, "action", "ls", {"type": "exec", "command": ["ls"], "env": {}}),
        (ToolKind.LOCAL_SHELL, "action", "", {"type": "exec", "command": [], "env": {}}),
        (
            ToolKind.SHELL,
            "action",
            '{"commands": "ls", "timeout_ms": 9}',
            {"commands": ["ls"], "timeout_ms": 9, "max_output_length": None},
        ),
        (
            ToolKind.SHELL,
            "action",
            '"ls"',
            {"commands": ["ls"], "timeout_ms": None, "max_output_length": None},
        ),
        (
            ToolKind.SHELL,
            "action",
            "[1]",
            {"commands": [], "timeout_ms": None, "max_output_length": None},
        ),
        (
            ToolKind.APPLY_PATCH,
            "operation",
            '{"type": "create_file", "path": "a", "diff": "+b"}',
            {"type": "create_file", "path": "a", "diff": "+b"},
        ),
        (
            ToolKind.APPLY_PATCH,
            "operation",
            '{"operation": {"type": "delete_file", "path": "a"}}',
            {"type": "delete_file", "path": "a"},
        ),
        (
            ToolKind.APPLY_PATCH,
            "operation",
            '{"diff": "+b"}',
            {"type": "update_file", "path": "", "diff": "+b"},
        ),
        (
            ToolKind.APPLY_PATCH,
            "operation",
            "*** half a patch",
            {"type": "update_file", "path": "", "diff": "*** half a patch"},
        ),
        (
            ToolKind.APPLY_PATCH,
            "operation",
            "[1]",
            {"type": "update_file", "path": "", "diff": ""},
        ),
        (ToolKind.TOOL_SEARCH, "arguments", '{"query": "a"}', {"query": "a"}),
        (ToolKind.TOOL_SEARCH, "arguments", "a", {}),
    ],
)
def test_whatever_the_model_writes_becomes_a_whole_call(
    kind: ToolKind, member: str, arguments: str, value: JSON
) -> None:
    assert written(kind, arguments)[member] == value


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (ToolKind.LOCAL_SHELL, "incomplete"),
        (ToolKind.SHELL, "incomplete"),
        (ToolKind.APPLY_PATCH, "completed"),
    ],
)
def test_only_a_patch_cannot_be_incomplete(kind: ToolKind, status: str) -> None:
    """Its item knows no such status."""
    assert written(kind, "", Status.INCOMPLETE)["status"] == status


def test_an_unfinished_patch_keeps_its_status() -> None:
    assert written(ToolKind.APPLY_PATCH, "", Status.IN_PROGRESS)["status"] == "in_progress"


def test_only_a_search_says_who_runs_it() -> None:
    assert written(ToolKind.TOOL_SEARCH, "{}")["execution"] == "client"
    assert "execution" not in written(ToolKind.SHELL, "{}")


@pytest.mark.parametrize(
    ("kind", "body", "arguments"),
    [
        (
            "local_shell_call",
            {"action": {"type": "exec", "command": ["ls"], "env": {}, "user": None}},
            {"command": ["ls"]},
        ),
        ("apply_patch_call", {"operation": {"type": "delete_file", "path": "a"}}, None),
        ("tool_search_call", {"arguments": {"any": {}}}, None),
        ("tool_search_call", {"arguments": "a"}, None),
        ("shell_call", {"action": "ls"}, None),
    ],
)
def test_calls_in_history_are_what_the_model_had_said(
    kind: str, body: JSON, arguments: JSON
) -> None:
    builtin = BY_CALL[kind]
    call = read_call(builtin, {"id": "item_1", "call_id": "call_a", **body}, "input[0]")
    assert (call.call_id, call.name, call.id) == ("call_a", builtin.kind.value, "item_1")
    assert call.kind is builtin.kind
    expected = body[builtin.member] if arguments is None else arguments
    assert decode(call.arguments.encode()) == expected


def test_the_items_id_stands_in_for_a_missing_call_id() -> None:
    call = read_call(BY_CALL["shell_call"], {"id": "a", "action": {}}, "input[0]")
    assert call.call_id == "a"
    result = read_output(BY_OUTPUT["local_shell_call_output"], {"id": "a", "output": "b"}, "x")
    assert result == ToolResult("a", [Text("b")], ToolKind.LOCAL_SHELL, "a")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"action": {}}, "input[0].call_id"),
        ({"call_id": "a"}, "input[0].action"),
        ({"call_id": 5, "action": {}}, "input[0].call_id"),
    ],
)
def test_a_broken_call_is_refused_at_its_place(body: JSON, param: str) -> None:
    with pytest.raises(MalformedRequest, match=param.replace("[", r"\[")) as caught:
        read_call(BY_CALL["shell_call"], body, "input[0]")
    assert caught.value.param == param


def test_an_output_that_names_no_call_is_refused_at_its_place() -> None:
    with pytest.raises(MalformedRequest, match=r"input\[0\]\.call_id") as caught:
        read_output(BY_OUTPUT["shell_call_output"], {"output": "a"}, "input[0]")
    assert caught.value.param == "input[0].call_id"


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        ("local_shell_call_output", {"output": "a"}, "a"),
        ("local_shell_call_output", {"output": None}, ""),
        ("shell_call_output", {"output": "a"}, "a"),
        ("shell_call_output", {"output": None}, ""),
        (
            "shell_call_output",
            {
                "output": [
                    {
                        "stdout": "\n a\n\n",
                        "stderr": "b\n",
                        "outcome": {"type": "exit", "exit_code": 1},
                    },
                    "not an object",
                    {"stdout": "c", "stderr": "", "outcome": {"type": "timeout"}},
                ]
            },
            "\n a\nb\n[exit code 1]\nc\n[timed out]",
        ),
        ("apply_patch_call_output", {"status": "failed", "output": "no file"}, "failed: no file"),
        ("apply_patch_call_output", {"status": "failed"}, "failed"),
        ("apply_patch_call_output", {}, "completed"),
        ("tool_search_output", {"tools": []}, "No tools were found."),
        (
            "tool_search_output",
            {
                "tools": [
                    {"type": "function", "name": "f"},
                    {
                        "type": "namespace",
                        "name": "ns",
                        "tools": [{"type": "function", "name": "g"}],
                    },
                    {"type": "function", "name": "h"},
                    {"type": "function"},
                ]
            },
            "Tools that can be called now: f, ns__g, h",
        ),
    ],
)
def test_outputs_are_told_to_the_model(kind: str, body: JSON, text: str) -> None:
    result = read_output(BY_OUTPUT[kind], {"call_id": "a", **body}, "input[0]")
    assert result.parts == [Text(text)]
