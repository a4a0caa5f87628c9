"""openai-python gets the same from the proxy, over either API, as from the upstream itself."""

import sys

import pytest

from tests.clients.harness import JSON, PROGRAMS, Run, drive

pytestmark = pytest.mark.clients

modes = pytest.mark.parametrize("mode", ["plain", "streamed"])


def _run(name: str, *, direct: bool = False) -> Run:
    return drive([sys.executable, PROGRAMS / name], direct=direct)


@pytest.fixture(scope="module")
def direct() -> Run:
    """The upstream's own Chat API, without the proxy."""
    return _run("openai_chat.py", direct=True)


@pytest.fixture(scope="module")
def chat() -> Run:
    return _run("openai_chat.py")


@pytest.fixture(scope="module")
def responses() -> Run:
    return _run("openai_responses.py")


@modes
def test_direct_results_are_what_the_comparison_needs(direct: Run, mode: str) -> None:
    """Equal results prove something only if there is text, reasoning, a loop and so on."""
    found = direct.output[mode]
    first, second = found["tool_loop"]
    assert found["text"]["reasoning"] == "The user wrote 4 words. I can quote them."
    assert found["text"]["text"].startswith('You said: "Say it back, please".')
    assert found["cut"]["cut"]
    assert found["cut"]["tokens"] == [4, 12, 16]
    assert first["calls"] == [
        ["get_weather", '{"city": "Oslo"}'],
        ["get_weather", '{"city": "Lima"}'],
    ]
    assert second["text"] == (
        'get_weather answered: "Oslo: rain". get_weather answered: "Lima: rain".'
    )
    assert found["structured"]["days"] == 3
    assert "I received 2 images (by URL, not fetched; image/png, 8 bytes)" in found["image"]["text"]


@modes
@pytest.mark.parametrize("what", ["text", "cut", "tool_loop", "structured", "image"])
def test_responses_gives_what_the_upstream_gives(
    direct: Run, responses: Run, mode: str, what: str
) -> None:
    assert responses.output[mode][what] == direct.output[mode][what]


def test_chat_gives_what_the_upstream_gives(direct: Run, chat: Run) -> None:
    assert chat.output == direct.output


def test_chat_is_relayed_byte_for_byte(direct: Run, chat: Run) -> None:
    assert [r.body for r in chat.requests] == [r.body for r in direct.requests]


@modes
def test_errors_keep_status_and_message(direct: Run, responses: Run, mode: str) -> None:
    """``param`` names the culprit in the caller's own words."""
    assert direct.output[mode]["bad_request"] == [
        400,
        "BadRequestError",
        "Invalid enum value 'boundless' - at `$.reasoning_effort`",
        "body.reasoning_effort",
    ]
    assert responses.output[mode]["bad_request"] == [
        *direct.output[mode]["bad_request"][:3],
        "reasoning.effort",
    ]
    assert direct.output[mode]["unknown_model"][:2] == [404, "NotFoundError"]
    assert responses.output[mode]["unknown_model"] == direct.output[mode]["unknown_model"]


def test_the_same_conversations_reach_the_upstream(direct: Run, responses: Run) -> None:
    """Reasoning and calls of the first turn come back in the second, on the right message."""
    theirs = [list(map(_essence, body["messages"])) for body in direct.chats()]
    ours = [list(map(_essence, body["messages"])) for body in responses.chats()]
    assert ours == theirs


def _essence(message: JSON) -> JSON:
    """A message without nulls and without what only this SDK adds to it."""
    calls = [[call["id"], call["function"]["name"]] for call in message.get("tool_calls") or []]
    found = {
        "role": message["role"],
        "content": message.get("content") or None,
        "reasoning": message.get("reasoning"),
        "calls": calls,
        "answers": message.get("tool_call_id"),
    }
    return {name: value for name, value in found.items() if value}


def test_image_parts_arrive_untouched(responses: Run) -> None:
    questions = [body["messages"][-1]["content"] for body in responses.chats()]
    images = [content for content in questions if isinstance(content, list)]
    expected = [
        {"type": "text", "text": "What is in these?"},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]
    assert images == [expected, expected]
