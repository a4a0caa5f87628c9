"""Token ids and overflow with the tiny model on a real vLLM, through both APIs.

A second proxy, whose models have the settings for rollouts, stands in front of the first one,
which relays the Chat API byte for byte: what that gives is what vLLM itself gives. A third one
between the two makes an old vLLM of it, which gives no token ids but in log-probs.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.vllm.conftest import Served
from tests.vllm.test_real_vllm import CHAT_TOOL, RESPONSES_TOOL

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

BUNDLE = ("prompt_token_ids", "generation_token_ids", "generation_log_probs")
LONG = "Hello! " * 5000
SAME_TOOL: Any = {**CHAT_TOOL, "function": {**CHAT_TOOL["function"], "strict": False}}
"""What the tool of the Responses requests becomes; templates print ``strict`` into the prompt."""
CONFIG = """\
[upstreams.vllm]
url = "{root}/v1"
speaks = "chat"

[[models]]
name = "rollout"
upstream = "vllm"
upstream_model = "tiny"
token_ids = true
context_overflow = "incomplete"

[upstreams.old]
url = "{old}/v1"
speaks = "chat"

[[models]]
name = "old"
upstream = "old"
upstream_model = "tiny"
token_ids = true

[[models]]
name = "strict"
upstream = "vllm"
upstream_model = "tiny"
context_overflow = "error"
"""
OLD = """\
[upstreams.vllm]
url = "{root}/v1"
speaks = "chat"

[[models]]
name = "tiny"
upstream = "vllm"
sets = {{ return_token_ids = false }}
"""


@contextmanager
def proxy_of(config: Path) -> Iterator[str]:
    """The root of a proxy that runs with these settings."""
    command = [sys.executable, "-m", "proxy", "serve", "--config", str(config)]
    command += ["--port", "0", "--log-format", "json"]
    served = Served(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    try:
        served.wait_ready()
        yield served.root
    finally:
        served.process.terminate()
        served.process.wait()


@pytest.fixture(scope="module")
def rollouts(tiny: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """The official SDK, pointed at the second proxy."""
    folder = tmp_path_factory.mktemp("rollouts")
    (folder / "old.toml").write_text(OLD.format(root=tiny.root))
    with proxy_of(folder / "old.toml") as old:
        (folder / "rollouts.toml").write_text(CONFIG.format(root=tiny.root, old=old))
        with (
            proxy_of(folder / "rollouts.toml") as root,
            openai.OpenAI(base_url=f"{root}/v1", api_key="x", max_retries=0) as sdk,
        ):
            yield sdk


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


def straight(client: openai.OpenAI, question: str, **more: Any) -> dict[str, Any]:
    """The token ids and log-probs that vLLM itself gives."""
    reply: Any = client.chat.completions.create(
        model="tiny",
        messages=user(question),
        logprobs=True,
        extra_body={"return_token_ids": True},
        **more,
    )
    (choice,) = reply.choices
    probs = [entry.logprob for entry in choice.logprobs.content]
    return dict(zip(BUNDLE, (reply.prompt_token_ids, choice.token_ids, probs), strict=True))


def of(carrier: Any) -> dict[str, Any]:
    return {name: getattr(carrier, name) for name in BUNDLE}


def by_chat(
    sdk: openai.OpenAI, question: str, model: str = "rollout", **more: Any
) -> list[dict[str, Any]]:
    ask: Any = {"model": model, "messages": user(question), **more}
    whole: Any = sdk.chat.completions.create(**ask)
    assert whole.choices[0].logprobs is None
    ends: list[Any] = []
    for chunk in sdk.chat.completions.create(stream=True, **ask):
        assert all(choice.logprobs is None for choice in chunk.choices)
        ends += [choice.delta for choice in chunk.choices if choice.finish_reason]
    (end,) = ends
    return [of(whole.choices[0].message), of(end)]


def by_responses(
    sdk: openai.OpenAI, question: str, model: str = "rollout", **more: Any
) -> list[dict[str, Any]]:
    ask: Any = {"model": model, "input": question, **more}
    whole: Any = sdk.responses.create(**ask)
    *events, last = list(sdk.responses.create(stream=True, **ask))
    done = [event.item for event in events if event.type == "response.output_item.done"]
    return [of(item) for item in (whole.output[-1], done[-1], last.response.output[-1])]


ASKED = pytest.mark.parametrize(
    ("question", "has_tool", "more"),
    [
        ("Where is Oslo?", False, {"temperature": 0}),
        ("Count to ten.", False, {"temperature": 1, "extra_body": {"seed": 7}}),
        ("What is the weather in Lima?", True, {"temperature": 0}),
    ],
)


@ASKED
@pytest.mark.parametrize("model", ["rollout", "old"])
def test_token_ids_are_those_of_vllm(
    question: str,
    has_tool: bool,
    more: dict[str, Any],
    model: str,
    client: openai.OpenAI,
    rollouts: openai.OpenAI,
) -> None:
    chat_more = more | ({"tools": [SAME_TOOL]} if has_tool else {})
    responses_more = more | ({"tools": [RESPONSES_TOOL]} if has_tool else {})
    seed = more.get("extra_body", {})
    expected = straight(
        client, question, **{k: v for k, v in chat_more.items() if k != "extra_body"}, **seed
    )
    assert len(expected["generation_token_ids"]) > 5
    found = by_chat(rollouts, question, model, **chat_more)
    found += by_responses(rollouts, question, model, **responses_more)
    for bundle in found:
        assert bundle["prompt_token_ids"] == expected["prompt_token_ids"]
        assert bundle["generation_token_ids"] == expected["generation_token_ids"]
        # The prompt may be cached or not, and requests share batches.
        assert bundle["generation_log_probs"] == pytest.approx(
            expected["generation_log_probs"], abs=5e-3
        )


@pytest.mark.parametrize(
    "question", ["Hello!", "Count to fifty.", "What is the weather in Lima and in Oslo?"]
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_second_turn_begins_with_the_tokens_of_the_first(
    question: str, is_stream: bool, rollouts: openai.OpenAI
) -> None:
    """Text, reasoning and calls come back to vLLM as it wrote them, so that they are tokenized so.

    It holds for templates that render earlier turns as they prompt for new ones; with
    ``enable_thinking`` off, this one does not.
    """
    more: Any = {"model": "rollout", "temperature": 0, "tools": [RESPONSES_TOOL]}

    def turn(history: Any) -> Any:
        if not is_stream:
            return rollouts.responses.create(input=history, **more).output
        events = list(rollouts.responses.create(input=history, stream=True, **more))
        return events[-1].response.output

    history: list[Any] = user(question)
    first = turn(history)
    history += first
    calls = [item.call_id for item in first if item.type == "function_call"]
    assert bool(calls) is ("weather" in question)
    history += [
        {"type": "function_call_output", "call_id": call, "output": "rainy"} for call in calls
    ] or user("Where is Oslo?")
    second = of(turn(history)[-1])
    before = of(first[-1])
    tokens = before["prompt_token_ids"] + before["generation_token_ids"]
    assert second["prompt_token_ids"][: len(tokens)] == tokens
    assert len(second["prompt_token_ids"]) > len(tokens)


def test_second_turn_of_chat(rollouts: openai.OpenAI) -> None:
    history = user("Where is Oslo?")
    more: Any = {"model": "rollout", "temperature": 0}
    first: Any = rollouts.chat.completions.create(messages=history, **more).choices[0].message
    history += [first.model_dump(exclude_none=True), *user("Hello!")]
    second: Any = rollouts.chat.completions.create(messages=history, **more).choices[0].message
    tokens = first.prompt_token_ids + first.generation_token_ids
    assert second.prompt_token_ids[: len(tokens)] == tokens


def test_overflow_is_an_error(rollouts: openai.OpenAI) -> None:
    for is_stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            rollouts.responses.create(model="strict", input=LONG, stream=is_stream)
        assert refused.value.code == "context_length_exceeded"
        with pytest.raises(openai.BadRequestError) as refused:
            rollouts.chat.completions.create(model="strict", messages=user(LONG), stream=is_stream)
        assert refused.value.code == "context_length_exceeded"


def test_overflow_is_an_incomplete_reply(rollouts: openai.OpenAI) -> None:
    whole: Any = rollouts.responses.create(model="rollout", input=LONG)
    events: Any = list(rollouts.responses.create(model="rollout", input=LONG, stream=True))
    for response in (whole, events[-1].response):
        assert (response.status, response.output_text) == ("incomplete", "")
        assert response.incomplete_details.reason == "max_output_tokens"
    completions = rollouts.chat.completions
    reply = completions.create(model="rollout", messages=user(LONG))
    assert reply.choices[0].finish_reason == "length"
    assert reply.choices[0].message.content == ""
    chunks = list(completions.create(model="rollout", messages=user(LONG), stream=True))
    assert chunks[-1].choices[0].finish_reason == "length"


def test_bad_limit_is_no_overflow(rollouts: openai.OpenAI) -> None:
    for model in ("rollout", "strict"):
        with pytest.raises(openai.BadRequestError) as refused:
            rollouts.responses.create(model=model, input="Hello!", max_output_tokens=5000)
        assert refused.value.code != "context_length_exceeded"
        assert refused.value.param == "max_output_tokens"
