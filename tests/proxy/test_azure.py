"""Azure OpenAI as an upstream: its URLs, and replies with verdicts of content filters."""

import pytest

from proxy.loading import load
from proxy.routing import Router
from proxy.settings import Settings
from proxy.upstreams import build_upstreams
from tests.proxy.caller import ask
from tests.proxy.conftest import RunProxy
from tests.proxy.dialects import (
    CHAT,
    DONE,
    RESPONSES,
    chat_chunk,
    chat_reply,
    chat_request,
    responses_request,
    sse,
    streaming,
    texts_of,
)
from tests.upstream import Reply, ScriptedUpstream
from translators.wire import JSON

pytestmark = pytest.mark.server

VERSION = "2024-10-21"
SAFE = {"hate": {"filtered": False, "severity": "safe"}}
PROMPT_VERDICT = [{"prompt_index": 0, "content_filter_results": SAFE}]


def azure(upstream: ScriptedUpstream, **members: JSON) -> Settings:
    """Settings as from a file."""
    endpoint = f"http://127.0.0.1:{upstream.port}"
    table = {"azure": {"endpoint": endpoint, **members}, "key": "k"}
    models = [{"name": "gpt", "upstream": "az", "upstream_model": "my-gpt"}]
    return load(None, {"upstreams.az": table, "models": models}, {})


@pytest.mark.parametrize(
    ("path", "request_"), [(CHAT, chat_request), (RESPONSES, responses_request)]
)
@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, "/openai/v1/chat/completions"),
        (
            {"form": "deployments", "api_version": VERSION},
            f"/openai/deployments/my-gpt/chat/completions?api-version={VERSION}",
        ),
    ],
)
async def test_the_model_is_the_deployment(
    members: JSON, expected: str, path: str, request_: JSON, running_proxy: RunProxy
) -> None:
    async with ScriptedUpstream(Reply.json(chat_reply())) as upstream:
        proxy = await running_proxy(azure(upstream, **members))
        answer = await ask(proxy.port, path, request_(model="gpt"), {"authorization": "Bearer x"})
    (sent,) = upstream.requests
    assert (sent.path, sent.json["model"]) == (expected, "my-gpt")
    assert sent.headers["api-key"] == "k"
    assert "authorization" not in sent.headers
    assert (answer.status, answer.json["model"]) == (200, "gpt")


async def test_without_models_the_callers_name_is_the_deployment(running_proxy: RunProxy) -> None:
    async with ScriptedUpstream(Reply.json(chat_reply())) as upstream:
        settings = azure(upstream, form="deployments", api_version=VERSION)
        proxy = await running_proxy(Settings(upstreams=settings.upstreams))
        await ask(proxy.port, CHAT, chat_request(model="d"))
        assert (await ask(proxy.port, CHAT, {"model": 5})).status == 500
    paths = [request.path for request in upstream.requests]
    assert paths[0] == f"/openai/deployments/d/chat/completions?api-version={VERSION}"
    assert paths[1] == f"/openai/chat/completions?api-version={VERSION}"


async def test_a_name_too_long_for_a_url_is_the_callers_fault(running_proxy: RunProxy) -> None:
    async with ScriptedUpstream() as upstream:
        settings = azure(upstream, form="deployments", api_version=VERSION)
        proxy = await running_proxy(Settings(upstreams=settings.upstreams))
        answer = await ask(proxy.port, CHAT, chat_request(model="d" * 70_000))
    assert (answer.status, answer.error["code"]) == (400, "invalid_url")
    assert upstream.requests == []


async def test_it_is_spoken_to_as_openai_is() -> None:
    """An empty body would find out nothing: its URL has no deployment."""
    async with ScriptedUpstream() as upstream:
        settings = azure(upstream)
    assert settings.upstreams["az"].profile == "openai"
    (built,) = build_upstreams(settings)
    route = Router([built], settings.models, 0).find("gpt")
    assert (await built.dialect()).value == "chat"
    assert route.profile.refusal_field
    await built.backend.aclose()


async def test_verdicts_of_filters_in_a_translated_stream(running_proxy: RunProxy) -> None:
    """The first chunk has no choices and no id, and chunks without a delta's text follow."""
    verdict = {
        "id": "",
        "object": "",
        "created": 0,
        "model": "",
        "choices": [],
        "prompt_filter_results": PROMPT_VERDICT,
    }
    offsets = {"check_offset": 0, "start_offset": 0, "end_offset": 5}
    late: JSON = {"index": 0, "finish_reason": None, "content_filter_results": SAFE}
    frames = [
        sse(verdict),
        chat_chunk(role="assistant", content="", refusal=None),
        chat_chunk("Hel"),
        chat_chunk("lo"),
        sse({**verdict, "choices": [{**late, "content_filter_offsets": offsets}]}),
        sse({**verdict, "choices": [{**late, "delta": {}, "finish_reason": "stop"}]}),
        DONE,
    ]
    async with ScriptedUpstream(streaming(*frames)) as upstream:
        proxy = await running_proxy(azure(upstream))
        answer = await ask(proxy.port, RESPONSES, responses_request(model="gpt", stream=True))
    assert texts_of(answer.frames) == ["Hel", "lo"]
    assert answer.events[0]["type"] == "response.created"
    final = answer.events[-1]
    assert (final["type"], final["response"]["status"]) == ("response.completed", "completed")
    assert final["response"]["model"] == "gpt"
    assert final["response"]["created_at"] > 0


async def test_verdicts_of_filters_in_a_translated_reply(running_proxy: RunProxy) -> None:
    reply = chat_reply(prompt_filter_results=PROMPT_VERDICT)
    reply["choices"][0] |= {"content_filter_results": SAFE, "finish_reason": "content_filter"}
    async with ScriptedUpstream(Reply.json(reply)) as upstream:
        proxy = await running_proxy(azure(upstream))
        answer = await ask(proxy.port, RESPONSES, responses_request(model="gpt"))
    assert answer.json["status"] == "incomplete"
    assert answer.json["incomplete_details"] == {"reason": "content_filter"}
    assert answer.json["output"][0]["content"][0]["text"] == "Hi"


async def test_a_refused_prompt(running_proxy: RunProxy) -> None:
    """The error of a filter says so in its code and in what is inside it."""
    error = {
        "message": "The response was filtered.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": SAFE,
        },
    }
    async with ScriptedUpstream(Reply.json({"error": error}, 400)) as upstream:
        proxy = await running_proxy(azure(upstream))
        answer = await ask(proxy.port, RESPONSES, responses_request(model="gpt"))
    assert (answer.status, answer.error["code"]) == (400, "content_filter")
    assert answer.error["message"] == error["message"]
