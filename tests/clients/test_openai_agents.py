"""openai-agents, with its Responses model and its Chat model."""

from pathlib import Path

import pytest

from tests.clients.harness import PROGRAMS, Run, drive

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]  # a first run installs the clients

ANSWER = 'get_weather answered: "Oslo: rain". get_weather answered: "Lima: rain".'
LOOP_ITEMS = [
    "reasoning_item",
    *["tool_call_item"] * 2,
    *["tool_call_output_item"] * 2,
    "reasoning_item",
    "message_output_item",
]


@pytest.fixture(scope="module", params=["responses", "chat"])
def run(request: pytest.FixtureRequest, python_clients: Path) -> Run:
    return drive([python_clients, PROGRAMS / "openai_agents.py"], request.param)


@pytest.mark.parametrize("mode", ["loop", "streamed"])
def test_tool_loop(run: Run, mode: str) -> None:
    assert run.output[mode] == {
        "items": LOOP_ITEMS,
        "answer": ANSWER,
        "requests": 2,
        "tokens": [32, 33],
    }


def test_output_type(run: Run) -> None:
    assert run.output["plan"] == {"city": "Plan 3 days in Oslo", "days": 3}


def test_handoff(run: Run) -> None:
    assert run.output["handoff"]["items"] == [
        "reasoning_item",
        "handoff_call_item",
        "handoff_output_item",
        "reasoning_item",
        "message_output_item",
    ]


def test_follow_up_carries_the_whole_conversation(run: Run) -> None:
    """Reasoning, calls and results of earlier turns come back as input, in their places."""
    assert run.output["follow_up"]["answer"].startswith("Hello! I am dragoman-demo")
    system, question, calls, oslo, lima, answer, again = run.chats()[-1]["messages"]
    assert (system["role"], system["content"]) == ("system", "Be brief.")
    assert question["content"] == "What is the weather in Oslo and in Lima?"
    assert calls["reasoning"] == "The tool get_weather fits what the user asks, so I call it."
    assert [call["id"] for call in calls["tool_calls"]] == [
        oslo["tool_call_id"],
        lima["tool_call_id"],
    ]
    assert (oslo["content"], lima["content"]) == ("Oslo: rain", "Lima: rain")
    assert answer["content"] == ANSWER
    assert again["content"] == "Hello again"
