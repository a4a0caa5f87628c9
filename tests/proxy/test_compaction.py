"""``POST /v1/responses/compact``: a conversation summed up by the upstream's model."""

import pytest

from proxy.settings import Model, Settings, Upstream
from tests.proxy.caller import ask
from tests.proxy.conftest import RunProxy
from tests.proxy.dialects import RESPONSES, chat_reply, responses_reply
from tests.proxy.test_streams import using
from tests.upstream import Reply, ScriptedUpstream
from translators.wire import JSON

pytestmark = pytest.mark.server

PATH = f"{RESPONSES}/compact"


@pytest.mark.parametrize("path", [PATH, "/responses/compact"])
async def test_summary_can_be_sent_back(path: str, running_proxy: RunProxy) -> None:
    """One sealed item, whose text the model sees on the next turn."""
    replies = [Reply.json(chat_reply("They agreed on blue.")), Reply.json(chat_reply())]
    async with ScriptedUpstream(*replies) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        items = [{"role": "user", "content": "Which colour?"}]
        answer = await ask(proxy.port, path, {"model": "m", "input": items})
        (item,) = answer.json["output"]
        assert (answer.json["object"], item["type"]) == ("response.compaction", "compaction")
        assert "blue" not in str(item)
        items = [item, {"role": "user", "content": "And now?"}]
        assert (await ask(proxy.port, RESPONSES, {"model": "m", "input": items})).status == 200
    assert "Which colour?" in str(upstream.requests[0].json["messages"])
    assert "They agreed on blue." in str(upstream.requests[1].json["messages"])


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "x"}, "model"),
        ({"model": "m", "input": 5}, "input"),
        ({"model": "m", "input": {"role": "user"}}, "input"),
        ({"model": "m", "input": ["x"]}, "input[0]"),
    ],
)
async def test_wrong_request(body: JSON, param: str, running_proxy: RunProxy) -> None:
    async with ScriptedUpstream() as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        answer = await ask(proxy.port, PATH, body)
    assert (answer.status, answer.error["param"]) == (400, param)


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (Reply.json({"error": {"message": "no"}}, 429, {"retry-after": "3"}), 429),
        (Reply.json({"error": {"message": "no", "code": 429}}, 200, {"retry-after": "3"}), 429),
        (Reply(200, {"retry-after": "3"}, b"<html>"), 502),
    ],
)
async def test_upstream_that_fails(reply: Reply, status: int, running_proxy: RunProxy) -> None:
    async with ScriptedUpstream(reply) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        answer = await ask(proxy.port, PATH, {"model": "m", "input": "x"})
    assert answer.status == status
    assert answer.error["message"]
    assert status != 429 or answer.headers["retry-after"] == "3"


async def test_model_of_another_name_with_its_sets(running_proxy: RunProxy) -> None:
    async with ScriptedUpstream(Reply.json(chat_reply())) as upstream:
        settings = Settings(
            upstreams={"main": Upstream(url=upstream.url, speaks="chat")},
            models=[Model(name="m", upstream="main", upstream_model="real", sets={"seed": 7})],
        )
        proxy = await running_proxy(settings)
        assert (await ask(proxy.port, PATH, {"model": "m", "input": "x"})).status == 200
    assert upstream.requests[0].json["model"] == "real"
    assert upstream.requests[0].json["seed"] == 7


async def test_upstream_of_the_same_dialect_does_it_itself(running_proxy: RunProxy) -> None:
    body = b'{"model": "m",  "input": "x"}'
    async with ScriptedUpstream(Reply.json(responses_reply())) as upstream:
        proxy = await running_proxy(using(upstream, "responses"))
        answer = await ask(proxy.port, PATH, body)
    assert answer.json == responses_reply()
    assert (upstream.requests[0].path, upstream.requests[0].body) == (PATH, body)
