"""LangChain's ChatOpenAI, over either API."""

from pathlib import Path

import pytest

from tests.clients.harness import PROGRAMS, Run, drive

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]  # a first run installs the clients

CALLS = [["get_weather", {"city": "Oslo"}], ["get_weather", {"city": "Lima"}]]
ANSWER = 'get_weather answered: "Oslo: rain". get_weather answered: "Lima: rain".'


@pytest.fixture(scope="module", params=["responses", "chat"])
def api(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def run(api: str, python_clients: Path) -> Run:
    return drive([python_clients, PROGRAMS / "langchain_chat_openai.py"], api)


@pytest.fixture(scope="module")
def thinks(api: str) -> bool:
    """Whether LangChain shows reasoning: it has no word for it in Chat Completions."""
    return api == "responses"


def test_text(run: Run, thinks: bool) -> None:
    assert run.output["text"] == {
        "text": 'You said: "Say it back, please". I am dragoman-demo, and quoting is all I can do.',
        "reasoning": "The user wrote 4 words. I can quote them." if thinks else "",
        "calls": [],
        "tokens": [4, 25],
    }


@pytest.mark.parametrize("mode", ["loop", "streamed"])
def test_tool_loop(run: Run, thinks: bool, mode: str) -> None:
    thought = "The tool get_weather fits what the user asks, so I call it."
    then = "I have 2 tool results to report."
    assert run.output[mode] == [
        {"text": "", "reasoning": thought if thinks else "", "calls": CALLS, "tokens": [9, 18]},
        {"text": ANSWER, "reasoning": then if thinks else "", "calls": [], "tokens": [19, 15]},
    ]


def test_structured_output(run: Run) -> None:
    """By JSON schema, and by a tool call that is demanded by name."""
    assert run.output["plan"] == {"city": "Plan 3 days in Oslo", "days": 3}
    assert run.output["plan_by_tool"] == {"city": "Oslo", "days": 3}


def test_reasoning_goes_back_with_its_calls(run: Run, thinks: bool) -> None:
    _, turn, *results = run.chats()[2]["messages"]
    assert [call["id"] for call in turn["tool_calls"]] == [r["tool_call_id"] for r in results]
    assert ("reasoning" in turn) == thinks
