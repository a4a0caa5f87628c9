"""pydantic-ai, with its Responses model and its Chat model."""

from pathlib import Path

import pytest

from tests.clients.harness import PROGRAMS, Run, drive

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]  # a first run installs the clients

ANSWER = 'get_weather answered: "Oslo: rain". get_weather answered: "Lima: rain".'
THOUGHTS = [
    "The tool get_weather fits what the user asks, so I call it.",
    "I have 2 tool results to report.",
]
PARTS = ["thinking", "tool-call", "tool-call", "thinking", "text"]


@pytest.fixture(scope="module", params=["responses", "chat"])
def run(request: pytest.FixtureRequest, python_clients: Path) -> Run:
    return drive([python_clients, PROGRAMS / "pydantic_ai_agent.py"], request.param)


@pytest.mark.parametrize("mode", ["loop", "streamed"])
def test_tool_loop_shows_the_thoughts(run: Run, mode: str) -> None:
    assert run.output[mode] == {
        "answer": ANSWER,
        "parts": PARTS,
        "thoughts": THOUGHTS,
        "tokens": [30, 33],
    }


def test_output_types(run: Run) -> None:
    """By a tool call, which is this client's habit, and by JSON schema."""
    assert run.output["plan_by_tool"] == {"city": "Oslo", "days": 3}
    assert run.output["plan"] == {"city": "Plan 3 days in Oslo", "days": 3}


def test_follow_up_carries_the_thoughts(run: Run) -> None:
    assert run.output["follow_up"]["answer"].startswith("Hello! I am dragoman-demo")
    turns = [m for m in run.chats()[2]["messages"] if m["role"] == "assistant"]
    assert [turn["reasoning"] for turn in turns] == THOUGHTS
