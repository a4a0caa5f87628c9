"""What the load asks: requests of 1, 4 and 32 KB, alike in both dialects."""

import json
from typing import Any, Final

from benchmarks.upstream import streams

SIZES: Final = ("1 KB", "4 KB", "32 KB")

_STEPS: Final = {"4 KB": 1, "32 KB": 17}
"""How often an agent has run a command before."""

_INSTRUCTIONS: Final = (
    "You are a careful assistant that works inside a repository. Read before you write, prefer "
    "small changes, and explain each command before it runs. "
) * 4
_QUESTION: Final = "Why does the test of the parser fail since yesterday? Find the reason. " * 5
_LISTING: Final = "".join(
    f"-rw-r--r-- 1 user user {i * 37:6d} src/module_{i:02d}.py\n" for i in range(30)
)
_ARGUMENTS: Final = '{"command":["ls","-l","src"],"workdir":"/repo","timeout_ms":10000}'
_FOLLOW_UP: Final = "Only look at the modules that changed this week, please. " * 3
_FUNCTIONS: Final[list[dict[str, Any]]] = [
    {
        "name": "shell",
        "description": "Runs a command and returns its output. " * 4,
        "parameters": {
            "type": "object",
            "properties": {
                "command": {"type": "array", "items": {"type": "string"}},
                "workdir": {"type": "string", "description": "Where the command runs."},
                "timeout_ms": {"type": "number", "description": "Milliseconds it may take."},
            },
            "required": ["command"],
            "additionalProperties": False,
        },
    },
    {
        "name": "read_file",
        "description": "Returns the lines of a text file. " * 4,
        "parameters": {
            "type": "object",
            "properties": {
                "path": {"type": "string", "description": "Relative to the repository."},
                "first_line": {"type": "integer", "minimum": 1},
                "last_line": {"type": "integer", "minimum": 1},
            },
            "required": ["path"],
            "additionalProperties": False,
        },
    },
]


def request_body(dialect: str, model: str, size: str = "4 KB") -> bytes:
    """The JSON of a request.

    Args:
        dialect: ``chat`` or ``responses``.
        model: One of the upstream's, which says whether a stream is asked for.
        size: ``1 KB``: instructions and a question. ``4 KB``: an agent's third turn, which is
            instructions, five items and two tools. ``32 KB``: its nineteenth, with 53 items.
    """
    stream = streams(model)
    body: dict[str, Any] = {"model": model, "stream": stream}
    if dialect == "responses":
        body |= _responses_question() if size == "1 KB" else _responses_turn(_STEPS[size])
        body |= {"temperature": 0.7, "max_output_tokens": 1024, "store": False}
    else:
        body |= _chat_question() if size == "1 KB" else _chat_turn(_STEPS[size])
        body |= {"temperature": 0.7, "max_tokens": 1024}
        if stream:
            body["stream_options"] = {"include_usage": True}
    return json.dumps(body, separators=(",", ":")).encode()


def _responses_question() -> dict[str, Any]:
    return {
        "instructions": _INSTRUCTIONS,
        "input": [{"type": "message", "role": "user", "content": _QUESTION}],
        "top_p": 0.95,
    }


def _chat_question() -> dict[str, Any]:
    return {
        "messages": [
            {"role": "system", "content": _INSTRUCTIONS},
            {"role": "user", "content": _QUESTION},
        ],
        "top_p": 0.95,
    }


def _responses_turn(steps: int) -> dict[str, Any]:
    question = {"type": "input_text", "text": _QUESTION}
    said = {"type": "output_text", "text": "I list the sources first."}
    items: list[dict[str, Any]] = [{"type": "message", "role": "user", "content": [question]}]
    for call_id in _call_ids(steps):
        call = {"call_id": call_id, "name": "shell", "arguments": _ARGUMENTS}
        items += [
            {"type": "message", "role": "assistant", "content": [said]},
            {"type": "function_call", **call},
            {"type": "function_call_output", "call_id": call_id, "output": _LISTING},
        ]
    return {
        "instructions": _INSTRUCTIONS,
        "input": [*items, {"type": "message", "role": "user", "content": _FOLLOW_UP}],
        "tools": [{"type": "function", "strict": False, **tool} for tool in _FUNCTIONS],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
    }


def _chat_turn(steps: int) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": _INSTRUCTIONS},
        {"role": "user", "content": [{"type": "text", "text": _QUESTION}]},
    ]
    for call_id in _call_ids(steps):
        function = {"name": "shell", "arguments": _ARGUMENTS}
        call = {"id": call_id, "type": "function", "function": function}
        said = "I list the sources first."
        messages += [
            {"role": "assistant", "content": said, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call_id, "content": _LISTING},
        ]
    return {
        "messages": [*messages, {"role": "user", "content": _FOLLOW_UP}],
        "tools": [{"type": "function", "function": tool} for tool in _FUNCTIONS],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
    }


def _call_ids(steps: int) -> list[str]:
    return [f"call_{number}" for number in range(1, steps + 1)]
