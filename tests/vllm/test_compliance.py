"""The compliance cases with the tiny model on a real vLLM behind the proxy."""

from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import urlsplit

import pytest

from tests.compliance import CASES, IMAGE_INPUT, Ask, Compliance, message
from tests.proxy.caller import Answer
from tests.proxy.caller import ask as ask_proxy
from tests.vllm.conftest import Served
from translators.wire import JSON

WEATHER: JSON = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


@pytest.mark.vllm
@pytest.mark.timeout(600)
class TestTinyModel(Compliance):
    """The tiny model answers every case but the image, since it reads text only."""

    model = "tiny"
    cases: ClassVar[Mapping[str, JSON]] = {
        **CASES,
        # The suite's tool takes a location; this is the one that the model has learnt to call.
        "tool-calling": {
            "input": [message("user", "What is the weather in Lima?")],
            "tools": [WEATHER],
            "temperature": 0,
        },
    }

    @pytest.fixture
    def ask(self, tiny: Served) -> Ask:
        """Asks the proxy that spawned the vLLM."""
        port = urlsplit(tiny.root).port
        assert port is not None

        async def send(path: str, body: JSON) -> Answer:
            return await ask_proxy(port, path, body)

        return send

    async def test_image_input(self, ask: Ask) -> None:
        answer = await ask("/v1/responses", {"model": self.model, **IMAGE_INPUT})
        assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
        assert "not a multimodal model" in answer.error["message"]
