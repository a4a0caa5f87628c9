"""Responses bodies that come to the Chat path, as some clients send them."""

import pytest

from proxy.settings import Settings, Upstream
from tests.proxy.caller import ask
from tests.proxy.conftest import RunProxy
from tests.proxy.dialects import (
    CHAT,
    chat_reply,
    chat_stream,
    responses_reply,
    responses_request,
)
from tests.upstream import Reply, ScriptedUpstream, StreamReply


@pytest.mark.parametrize(("speaks", "member"), [("chat", "messages"), ("responses", "input")])
async def test_the_reply_is_a_chat_one(running_proxy: RunProxy, speaks: str, member: str) -> None:
    reply = Reply.json(chat_reply() if speaks == "chat" else responses_reply())
    async with ScriptedUpstream(reply) as upstream:
        settings = Settings(upstreams={"default": Upstream(url=upstream.url, speaks=speaks)})
        proxy = await running_proxy(settings)
        answer = await ask(proxy.port, CHAT, responses_request("Hello", instructions="Be brief."))
        sent = upstream.requests[0].json
    assert answer.json["choices"][0]["message"]["content"] == "Hi"
    assert [message["role"] for message in sent[member]] == ["system", "user"]


async def test_the_stream_is_a_chat_one(running_proxy: RunProxy) -> None:
    async with ScriptedUpstream(StreamReply(chat_stream(["Hi"]))) as upstream:
        settings = Settings(upstreams={"default": Upstream(url=upstream.url, speaks="chat")})
        proxy = await running_proxy(settings)
        answer = await ask(proxy.port, CHAT, responses_request(stream=True))
    assert {frame["object"] for frame in answer.frames[:-1]} == {"chat.completion.chunk"}
    assert answer.frames[-1] == "[DONE]"


async def test_errors_name_members_of_the_body(running_proxy: RunProxy) -> None:
    async with ScriptedUpstream() as upstream:
        settings = Settings(upstreams={"default": Upstream(url=upstream.url, speaks="chat")})
        proxy = await running_proxy(settings)
        body = responses_request(previous_response_id="resp_1")
        answer = await ask(proxy.port, CHAT, body)
    assert (answer.status, answer.error["param"]) == (400, "previous_response_id")
