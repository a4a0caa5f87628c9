"""What the load asks: requests of 1 KB and of 4 KB, alike in both dialects."""

import json
from typing import Any, Final

SIZES: Final = ("1 KB", "4 KB")

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
        model: One of the upstream's; any but ``whole`` is asked for a stream.
        size: ``1 KB``: instructions and a question. ``4 KB``: an agent's third turn, which is
            instructions, five items and two tools.
    """
    stream = model != "whole"
    body: dict[str, Any] = {"model": model, "stream": stream}
    if dialect == "responses":
        body |= _responses_question() if size == "1 KB" else _responses_turn()
        body |= {"temperature": 0.7, "max_output_tokens": 1024, "store": False}
    else:
        body |= _chat_question() if size == "1 KB" else _chat_turn()
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


def _responses_turn() -> dict[str, Any]:
    return {
        "instructions": _INSTRUCTIONS,
        "input": [
            {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": _QUESTION}],
            },
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "I list the sources first."}],
            },
            {
                "type": "function_call",
                "call_id": "call_1",
                "name": "shell",
                "arguments": _ARGUMENTS,
            },
            {"type": "function_call_output", "call_id": "call_1", "output": _LISTING},
            {"type": "message", "role": "user", "content": _FOLLOW_UP},
        ],
        "tools": [{"type": "function", "strict": False, **tool} for tool in _FUNCTIONS],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
    }


def _chat_turn() -> dict[str, Any]:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "shell", "arguments": _ARGUMENTS},
    }
    return {
        "messages": [
            {"role": "system", "content": _INSTRUCTIONS},
            {"role": "user", "content": [{"type": "text", "text": _QUESTION}]},
            {"role": "assistant", "content": "I list the sources first.", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": _LISTING},
            {"role": "user", "content": _FOLLOW_UP},
        ],
        "tools": [{"type": "function", "function": tool} for tool in _FUNCTIONS],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
    }
