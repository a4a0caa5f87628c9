"""The Open Responses compliance cases that need no stored state, judged by the schema's types.

The requests are those of the suite's templates. Whoever runs the cases subclasses ``Compliance``
and gives it the fixture ``ask``, which posts a body to a path of a proxy.
"""

import typing
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

import openresponses_types as spec
import pytest
from pydantic import BaseModel, TypeAdapter

from tests.proxy.caller import Answer
from translators.wire import JSON

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhg"
    "GAWjR9awAAAABJRU5ErkJggg=="
)
WEATHER: JSON = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a location",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string"}},
        "required": ["location"],
    },
}
EVENTS: tuple[Any, ...] = tuple(
    cls
    for name, cls in vars(spec).items()
    if name.endswith("StreamingEvent") and issubclass(cls, BaseModel)
)
ANY_OF_EVENTS: Any = typing.Union[EVENTS]  # noqa: UP007  (made of a list)
ANY_EVENT: TypeAdapter[Any] = TypeAdapter(ANY_OF_EVENTS)


def message(role: str, content: JSON, **members: JSON) -> JSON:
    return {"type": "message", "role": role, "content": content, **members}


CASES: dict[str, JSON] = {
    "basic-response": {"input": [message("user", "Say hello in exactly 3 words.")]},
    "assistant-phase": {
        "input": [
            message("user", "Hello"),
            message("assistant", "Let me look.", phase="commentary"),
            message("assistant", "Hi!", phase="final_answer"),
            message("user", "Go on."),
        ]
    },
    "system-prompt": {
        "input": [
            message("system", "You are a pirate. Always respond in pirate speak."),
            message("user", "Say hello."),
        ]
    },
    "tool-calling": {
        "input": [message("user", "What's the weather like in San Francisco?")],
        "tools": [WEATHER],
    },
    "multi-turn": {
        "input": [
            message("user", "My name is Alice."),
            message("assistant", "Hello Alice! Nice to meet you."),
            message("user", "What is my name?"),
        ]
    },
}

IMAGE_INPUT: JSON = {
    "input": [
        message(
            "user",
            [
                {"type": "input_text", "text": "What do you see in this image?"},
                {"type": "input_image", "image_url": PIXEL},
            ],
        )
    ]
}
Ask = Callable[[str, JSON], Awaitable[Answer]]
"""Posts a body to a path of a proxy."""


class Compliance:
    """The suite's cases.

    Attributes:
        model: Name of the model to ask for.
        cases: The requests; a model that knows other tools than the suite's has its own.
    """

    model = "gpt-4o-mini"
    cases: ClassVar[Mapping[str, JSON]] = CASES

    @pytest.mark.parametrize("name", CASES)
    async def test_case(self, ask: Ask, name: str) -> None:
        answer = await ask("/v1/responses", {"model": self.model, **self.cases[name]})
        kind = "function_call" if name == "tool-calling" else "message"
        self.judge(answer, kind)

    async def test_image_input(self, ask: Ask) -> None:
        self.judge(await ask("/v1/responses", {"model": self.model, **IMAGE_INPUT}), "message")

    def judge(self, answer: Answer, kind: str) -> None:
        """Judge a whole reply, whose last item is of this kind."""
        assert answer.status == 200
        resource = spec.ResponseResource.model_validate(answer.json)
        assert resource.status == "completed"
        assert answer.json["output"][-1]["type"] == kind

    async def test_streaming_response(self, ask: Ask) -> None:
        body = {
            "model": self.model,
            "input": [message("user", "Count from 1 to 5.")],
            "stream": True,
        }
        answer = await ask("/v1/responses", body)
        assert answer.frames[-1] == "[DONE]"
        for event in answer.events:
            ANY_EVENT.validate_python(event)
        final = spec.ResponseResource.model_validate(answer.events[-1]["response"])
        assert final.status == "completed"

    def test_response_output_phase_schema(self) -> None:
        """The suite's local case: a resource whose messages have phases fits the schema."""
        part = {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}
        for phase in ("commentary", "final_answer"):
            body = message("assistant", [part], id="msg_1", status="completed", phase=phase)
            assert spec.Message.model_validate(body).phase == phase

    async def test_compact_response(self, ask: Ask) -> None:
        body = {
            "model": self.model,
            "prompt_cache_key": "key",
            "input": [message("user", "My name is Alice."), message("assistant", "Hello Alice!")],
        }
        answer = await ask("/v1/responses/compact", body)
        assert answer.status == 200
        resource = spec.CompactResource.model_validate(answer.json)
        assert resource.object == "response.compaction"
        assert [item["type"] for item in answer.json["output"]] == ["compaction"]
        history = [*answer.json["output"], message("user", "Hello")]
        following = await ask("/v1/responses", {"model": self.model, "input": history, "tools": []})
        assert following.json["status"] == "completed"

    async def test_compact_missing_model(self, ask: Ask) -> None:
        answer = await ask("/v1/responses/compact", {"input": "Hello"})
        assert (answer.status, answer.error["param"]) == (400, "model")

    async def test_foreign_compaction_is_refused(self, ask: Ask) -> None:
        item = {"type": "compaction", "encrypted_content": "somebody else's"}
        answer = await ask("/v1/responses", {"model": self.model, "input": [item]})
        assert (answer.status, answer.error["param"]) == (400, "input[0]")

    @pytest.mark.parametrize("is_stream", [False, True])
    async def test_trigger_gives_one_compaction_item(self, ask: Ask, is_stream: bool) -> None:
        history = [message("user", "My name is Alice."), {"type": "compaction_trigger"}]
        body = {"model": self.model, "input": history, "tools": [WEATHER], "stream": is_stream}
        answer = await ask("/v1/responses", body)
        final = answer.events[-1]["response"] if is_stream else answer.json
        assert final["status"] == "completed"
        assert [item["type"] for item in final["output"]] == ["compaction"]
        if is_stream:
            done = [e["item"] for e in answer.events if e["type"] == "response.output_item.done"]
            assert done == final["output"]

    async def test_trigger_has_to_be_last(self, ask: Ask) -> None:
        history = [{"type": "compaction_trigger"}, message("user", "Hello")]
        answer = await ask("/v1/responses", {"model": self.model, "input": history})
        assert (answer.status, answer.error["param"]) == (400, "input[0]")

    async def test_sealed_reasoning_is_opened_in_the_next_turn(self, ask: Ask) -> None:
        options = {"model": self.model, "include": ["reasoning.encrypted_content"], "store": False}
        first = (await ask("/v1/responses", {**options, "input": "Hello"})).json
        reasoning = next(item for item in first["output"] if item["type"] == "reasoning")
        assert reasoning["encrypted_content"] not in (None, "")
        bare = {**reasoning, "summary": []}
        history = [message("user", "Hello"), bare, first["output"][-1], message("user", "Hello")]
        answer = await ask("/v1/responses", {**options, "input": history})
        assert answer.status == 200
        assert "x-dragoman-loss" not in answer.headers
