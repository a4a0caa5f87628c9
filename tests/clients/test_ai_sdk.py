"""The AI SDK: its OpenAI provider over both APIs, and its provider for compatible servers."""

from pathlib import Path

import pytest

from tests.clients.harness import JSON, Run, drive, node_program

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]  # a first run installs the clients

ANSWER = 'get_weather answered: "Oslo: rain". get_weather answered: "Lima: rain".'


@pytest.fixture(scope="module", params=["responses", "chat", "compatible"])
def api(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def run(api: str, node_clients: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    program = node_program("ai_sdk.mjs", node_clients, tmp_path_factory.mktemp("ai_sdk"))
    return drive(["node", program], api)


def _loop(api: str) -> JSON:
    """Its provider for OpenAI's Chat Completions has no word for reasoning."""
    thinks = api != "chat"
    thought = "The tool get_weather fits what the user asks, so I call it."
    return {
        "text": ANSWER,
        "tokens": [30, 33],
        "steps": [
            {
                "reasoning": thought if thinks else "",
                "calls": [["get_weather", {"city": "Oslo"}], ["get_weather", {"city": "Lima"}]],
                "results": ["Oslo: rain", "Lima: rain"],
                "finish": "tool-calls",
            },
            {
                "reasoning": "I have 2 tool results to report." if thinks else "",
                "calls": [],
                "results": [],
                "finish": "stop",
            },
        ],
    }


@pytest.mark.parametrize("mode", ["loop", "streamed"])
def test_tool_loop(run: Run, api: str, mode: str) -> None:
    assert run.output[mode] == _loop(api)


def test_objects(run: Run) -> None:
    """``generateObject`` and ``Output.object``."""
    assert run.output["object"] == {"city": "Plan 3 days in Oslo", "days": 3}
    assert run.output["output"] == {"city": "Plan 3 days in Oslo", "days": 3}


def test_follow_up(run: Run) -> None:
    assert run.output["follow_up"]["text"].startswith("Hello! I am dragoman-demo")


def test_reasoning_goes_back_with_its_calls(run: Run, api: str) -> None:
    """Over Responses it sends only reasoning whose ``encrypted_content`` it was given."""
    question = ["system", "user", "assistant", "tool", "tool"]
    second = next(b for b in run.chats() if [m["role"] for m in b["messages"]] == question)
    turn = second["messages"][2]
    carried = turn.get("reasoning") or turn.get("reasoning_content")
    assert carried == (_loop(api)["steps"][0]["reasoning"] or None)


def test_loop_with_stored_items(run: Run, api: str, request: pytest.FixtureRequest) -> None:
    """Unless told ``store: false`` it sends the ids of earlier items instead of the items."""
    _gap(request, api, "item_reference needs stored items, and none are stored")
    assert run.output["by_reference"] == _loop(api)


def _gap(request: pytest.FixtureRequest, api: str, reason: str) -> None:
    """A known gap over Responses; closing it fails the test until this is removed."""
    if api == "responses":
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
