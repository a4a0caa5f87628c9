"""Endpoints of a real vLLM, relayed."""

import json
import urllib.error
import urllib.request
from typing import Any

import openai
import pytest

from tests.vllm.conftest import Served

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

MODEL = "tiny"
MESSAGES: Any = [{"role": "user", "content": "Where is Oslo?"}]


def post(tiny: Served, path: str, document: Any) -> Any:
    body = json.dumps(document).encode()
    request = urllib.request.Request(f"{tiny.root}{path}", body)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


def test_text_survives_tokens(tiny: Served) -> None:
    """Beside the API root, with and without a model's name."""
    for more in ({"model": MODEL}, {}):
        tokens = post(tiny, "/tokenize", {"prompt": "Hello, Oslo!", **more})
        assert tokens["count"] == len(tokens["tokens"]) > 1
        text = post(tiny, "/detokenize", {"tokens": tokens["tokens"], **more})
        assert text == {"prompt": "Hello, Oslo!"}


def test_a_conversations_tokens_are_counted_as_chat_counts_them(
    tiny: Served, client: openai.OpenAI
) -> None:
    tokens = post(tiny, "/tokenize", {"model": MODEL, "messages": MESSAGES})
    chat = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=1)
    assert chat.usage is not None
    assert tokens["count"] == chat.usage.prompt_tokens


def test_completions_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.completions.create(model=MODEL, prompt="Hello", max_tokens=8, temperature=0)
    pieces = list(
        client.completions.create(
            model=MODEL, prompt="Hello", max_tokens=8, temperature=0, stream=True
        )
    )
    assert whole.choices[0].text
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text
    assert len(pieces) > 1


def test_errors_are_readable(tiny: Served, client: openai.OpenAI) -> None:
    """The model makes no embeddings, and there is no other."""
    with pytest.raises(openai.APIStatusError) as caught:
        client.embeddings.create(model=MODEL, input="Hello")
    assert 400 <= caught.value.status_code < 500
    with pytest.raises(openai.NotFoundError, match="gone"):
        client.completions.create(model="gone", prompt="Hello")
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(tiny, "/tokenize", {"prompt": 5})
    with refused.value as error:
        assert error.code == 400
        assert json.load(error)["error"]["message"]
