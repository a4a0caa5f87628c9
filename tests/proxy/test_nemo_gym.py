"""NeMo Gym's clients with Dragoman in the place of its model server.

Each case is what its agents send, and what its own ``vllm_model`` server (commit 07d6b0d) did with
it on the same upstream: what went to vLLM, and what the caller got. Differences, all of which are
in ``docs/nemo-gym.md``, are marked.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from backends.transport import AsyncioTransport
from proxy.settings import Capture, Model, Overflow, Settings, Upstream
from tests.backends.processes import until
from tests.proxy.caller import read_frames
from tests.proxy.captured import read_records
from tests.proxy.conftest import RunningProxy, RunProxy
from tests.proxy.dialects import CHAT, RESPONSES, chat_chunk, chat_reply
from tests.upstream import Answer, ReceivedRequest, Reply, ScriptedUpstream, StreamReply
from translators.wire import JSON

pytestmark = pytest.mark.server

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "",
    "parameters": SCHEMA,
    "strict": True,
}
CALL = {"name": "get_weather", "arguments": '{"city": "SF"}'}
IDS: JSON = {
    "prompt_token_ids": [1, 2, 3],
    "generation_token_ids": [11, 12],
    "generation_log_probs": [-0.5, -0.25],
}
OVERFLOW = "This model's maximum context length is 4096 tokens. However, your request has 5000."


def vllm(request: ReceivedRequest) -> Answer:
    """A vLLM that acts on the last message's text."""
    body: Any = request.json
    last = body["messages"][-1]
    text = last["content"] if last["role"] == "user" else "done"
    if text == "too long":
        return Reply.json({"error": {"message": OVERFLOW, "type": "BadRequestError"}}, 400)
    if text == "broken":
        return Reply.json({"error": {"message": "engine died", "type": "InternalServerError"}}, 500)
    message: JSON = {"role": "assistant", "content": "Hello there."}
    if text == "think":
        message["reasoning"] = "I think."
    if text == "use the tool":
        call = {"id": "call_1", "type": "function", "function": CALL}
        message.update(content=None, reasoning="Need tool.", tool_calls=[call])
    if text == "empty":
        message["content"] = None
    finish = "tool_calls" if "tool_calls" in message else "length" if text == "cut" else "stop"
    if body.get("stream"):
        return StreamReply.sse(
            *(read_frames(chunk)[0] for chunk in (chat_chunk(reasoning="I think."),)),
            *(read_frames(chat_chunk(text))[0] for text in ("Hello", " there.")),
            read_frames(chat_chunk(finish="stop"))[0],
        )
    choice: JSON = {"index": 0, "message": message, "finish_reason": finish}
    reply = chat_reply(choices=[choice], model="served")
    if body.get("return_token_ids"):
        probs = zip(IDS["generation_token_ids"], IDS["generation_log_probs"], strict=True)
        tokens = [{"token": f"token_id:{i}", "logprob": p, "top_logprobs": []} for i, p in probs]
        choice.update(logprobs={"content": tokens}, token_ids=IDS["generation_token_ids"])
        reply.update(prompt_token_ids=IDS["prompt_token_ids"])
    return Reply.json(reply)


class Gym:
    """A client as NeMo Gym's: without a cookie jar, a reply's cookie passed on by hand."""

    def __init__(self, proxy: RunningProxy, upstream: ScriptedUpstream) -> None:
        url = f"http://127.0.0.1:{proxy.port}"
        self._client = httpx.AsyncClient(transport=AsyncioTransport(), base_url=url)
        self._upstream = upstream

    async def close(self) -> None:
        await self._client.aclose()

    async def post(
        self, path: str, body: JSON, cookie: str = ""
    ) -> tuple[int, JSON, str, list[JSON]]:
        """Status, document and cookie of the reply, and the bodies that went to vLLM for it."""
        self._client.cookies.clear()
        before = len(self._upstream.requests)
        headers = {"cookie": cookie} if cookie else {}
        reply = await self._client.post(path, json=body, headers=headers)
        sent: list[JSON] = [request.json for request in self._upstream.requests[before:]]
        given = reply.headers.get("set-cookie", "").partition(";")[0]
        return reply.status_code, reply.json(), given, sent

    async def get(self, path: str) -> tuple[int, JSON]:
        reply = await self._client.get(path)
        return reply.status_code, reply.json()

    async def stream(self, path: str, body: JSON) -> list[JSON]:
        reply = await self._client.post(path, json=body)
        assert reply.status_code == 200
        return read_frames(reply.content)

    async def episode(self, body: JSON, path: str) -> list[JSON]:
        """What its simple agent does: call tools until a message comes without calls.

        Replayed items have the members that were in the reply, in the order of its types.
        """
        outputs: list[JSON] = []
        cookie = ""
        while True:
            turn = {**body, "input": body["input"] + outputs}
            status, response, cookie, _ = await self.post(path, turn, cookie)
            assert status == 200
            outputs += [dict(sorted(item.items())) for item in response["output"]]
            calls = [item for item in response["output"] if item["type"] == "function_call"]
            if response["incomplete_details"] or not calls:
                return outputs
            for call in calls:
                output = {"call_id": call["call_id"], "output": "rainy"}
                outputs.append({**output, "type": "function_call_output"})


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream(handler=vllm) as upstream:
        yield upstream


@pytest.fixture
async def gym(
    upstream: ScriptedUpstream, running_proxy: RunProxy, tmp_path: Path
) -> AsyncIterator[Gym]:
    """As the document shows it, with token ids for one name."""
    every = Model(name="*", upstream="policy", upstream_model="served")
    settings = Settings(
        upstreams={"policy": Upstream(url=upstream.url, speaks="chat", key="dummy_key")},
        models=[
            msgspec.structs.replace(
                every, context_overflow=Overflow.INCOMPLETE, defaults={"top_k": 20}
            ),
            msgspec.structs.replace(every, name="training", token_ids=True),
            msgspec.structs.replace(
                every,
                name="pinned",
                sets={"temperature": 0.3},
                defaults={"top_k": 5},
                chat_template_kwargs={"enable_thinking": True, "y": 2},
            ),
        ],
        capture=Capture(dir=str(tmp_path)),
    )
    gym = Gym(await running_proxy(settings), upstream)
    yield gym
    await gym.close()


def user(content: JSON) -> list[JSON]:
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("request_", "messages"),
    [
        ({"input": user("hi")}, user("hi")),
        # NeMo Gym sends one text part; a string says the same to every template
        ({"input": "hi"}, user("hi")),
        (
            {"input": user("hi"), "instructions": "Be brief."},
            [{"role": "system", "content": "Be brief."}, *user("hi")],
        ),
        (
            {
                "input": [{"role": "system", "content": "A"}, *user("hi")],
                "instructions": "Be brief.",
            },
            [{"role": "system", "content": "Be brief.\n\nA"}, *user("hi")],
        ),
        (
            {
                "input": [
                    *user("use the tool"),
                    {
                        "id": "rs_1",
                        "summary": [{"text": "Need tool.", "type": "summary_text"}],
                        "type": "reasoning",
                        "encrypted_content": None,
                    },
                    {"type": "function_call", "id": "call_1", "call_id": "call_1", **CALL},
                    {"call_id": "call_1", "output": "rainy", "type": "function_call_output"},
                ],
                "tools": [TOOL],
            },
            [
                *user("use the tool"),
                # NeMo Gym sends "" for null, and the reasoning under two names
                {
                    "role": "assistant",
                    "content": None,
                    "reasoning": "Need tool.",
                    "tool_calls": [{"id": "call_1", "type": "function", "function": CALL}],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": "rainy"},
            ],
        ),
    ],
    ids=["items", "text", "instructions", "folded", "second turn"],
)
async def test_messages_that_vllm_gets(request_: JSON, messages: JSON, gym: Gym) -> None:
    """No client names a model; the served one is asked for."""
    status, document, _, [sent] = await gym.post(RESPONSES, request_)
    assert (status, document["model"], sent["model"]) == (200, "served", "served")
    assert sent["messages"] == messages


async def test_members_that_vllm_gets(gym: Gym) -> None:
    request = {
        "input": user("hi"),
        "tools": [TOOL],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "max_output_tokens": 50,
        "temperature": 1.0,
        "top_p": 0.9,
        "reasoning": {"effort": "low"},
    }
    _, _, _, [sent] = await gym.post(RESPONSES, request)
    function = {k: v for k, v in TOOL.items() if k != "type"}
    del sent["messages"]
    assert sent == {
        "model": "served",
        "tools": [{"type": "function", "function": function}],  # NeMo Gym leaves "strict" out
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "max_completion_tokens": 50,  # "max_tokens" with NeMo Gym, which vLLM calls deprecated
        "temperature": 1.0,
        "top_p": 0.9,
        "reasoning_effort": "low",
        "top_k": 20,
    }


def kinds(document: JSON) -> list[str]:
    return [item["type"] for item in document["output"]]


@pytest.mark.parametrize(
    ("text", "types", "status", "reason"),
    [
        ("hi", ["message"], "completed", None),
        ("think", ["reasoning", "message"], "completed", None),
        ("use the tool", ["reasoning", "function_call"], "completed", None),
        ("empty", ["message"], "completed", None),
        ("cut", ["message"], "incomplete", "max_output_tokens"),
        ("too long", ["message"], "incomplete", "max_output_tokens"),
    ],
)
async def test_replies(
    text: str, types: list[str], status: str, reason: str | None, gym: Gym
) -> None:
    """An agent ends at a message without calls, so that an empty reply has one as well."""
    code, document, _, _ = await gym.post(RESPONSES, {"input": user(text), "tools": [TOOL]})
    assert code == 200
    assert (kinds(document), document["status"]) == (types, status)
    assert (document["incomplete_details"] or {}).get("reason") == reason
    if document["output"][0]["type"] == "reasoning":
        [summary] = document["output"][0]["summary"]
        assert summary["text"] in ("I think.", "Need tool.")
    if text in ("empty", "too long"):
        assert document["output"][-1]["content"][0]["text"] == ""
    assert (document["usage"] is None) is (text == "too long")


async def test_metadata_of_one_request(gym: Gym) -> None:
    """Low to high: settings, ``metadata``, the request, pinned settings."""
    metadata = {
        "chat_template_kwargs": '{"enable_thinking": false, "x": 1}',
        "extra_body": '{"top_k": 7, "temperature": 0.1, "top_p": 0.2}',
    }
    request = {"model": "pinned", "input": "hi", "metadata": metadata, "top_p": 0.7}
    _, document, _, [sent] = await gym.post(RESPONSES, request)
    assert (sent["top_k"], sent["temperature"], sent["top_p"]) == (7, 0.3, 0.7)
    assert sent["chat_template_kwargs"] == {"enable_thinking": False, "y": 2, "x": 1}
    assert "metadata" not in sent  # NeMo Gym sends the strings to vLLM as well
    assert document["metadata"] == metadata


async def test_bad_metadata_is_told(gym: Gym) -> None:
    """With NeMo Gym it is status 500 and the text of a Python exception."""
    request = {"input": "hi", "metadata": {"extra_body": "{nope"}}
    status, document, _, sent = await gym.post(RESPONSES, request)
    assert (status, document["error"]["param"], sent) == (400, "metadata.extra_body", [])


async def test_an_error_of_vllm_is_told(gym: Gym) -> None:
    """With NeMo Gym the request is sent three times, and the words are lost."""
    status, document, _, sent = await gym.post(RESPONSES, {"input": "broken"})
    assert (status, document["error"]["message"], len(sent)) == (500, "engine died", 1)


async def test_an_episode_with_token_ids(
    gym: Gym, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Two turns below a rollout's prefix; the second one takes the first one's tokens along."""
    body = {"model": "training", "input": user("use the tool"), "tools": [TOOL]}
    items = await gym.episode(body, f"/ng-rollout/task-1.0/training-token-capture{RESPONSES}")
    types = ["reasoning", "function_call", "function_call_output", "message"]
    assert [item["type"] for item in items] == types
    carried = [{k: v for k, v in item.items() if k in IDS} for item in items]
    assert carried == [{}, IDS, {}, IDS]
    first, second = (request.json for request in upstream.requests)
    for sent in (first, second):
        assert (sent["logprobs"], sent["top_logprobs"]) == (True, 0)
        assert (sent["return_token_ids"], sent["return_tokens_as_token_ids"]) == (True, True)
    assistant = second["messages"][1]
    assert {k: v for k, v in assistant.items() if k in IDS} == IDS
    assert assistant["tool_calls"][0]["function"] == CALL
    file = tmp_path / "task-1.0.capture.jsonl"
    await until(lambda: file.exists() and file.read_bytes().count(b"\n") == 2)
    records = read_records(tmp_path, "task-1.0")
    assert [record["dialect"] for record in records] == ["responses", "responses"]
    assert records[1]["response"]["output"][-1].items() >= IDS.items()


async def test_token_ids_in_chat(gym: Gym) -> None:
    request = {"model": "training", "messages": user("hi")}
    _, document, _, _ = await gym.post(CHAT, request)
    [choice] = document["choices"]
    assert {k: v for k, v in choice["message"].items() if k in IDS} == IDS
    assert (choice["logprobs"], "prompt_token_ids" in document) == (None, False)


async def test_some_of_the_token_ids_are_refused(gym: Gym) -> None:
    message = {"role": "assistant", "content": "Hi", "type": "message"}
    partial = {**message, "prompt_token_ids": [1], "generation_token_ids": [2]}
    request = {"model": "training", "input": [*user("hi"), partial, *user("more")]}
    status, document, _, _ = await gym.post(RESPONSES, request)
    assert (status, document["error"]["param"]) == (400, "input[1].generation_log_probs")


async def test_reasoning_in_chat_has_a_member_of_its_own(gym: Gym) -> None:
    """NeMo Gym writes it into ``content``, between tags."""
    _, document, _, _ = await gym.post(CHAT, {"messages": user("think")})
    message = document["choices"][0]["message"]
    assert (message["reasoning"], message["content"]) == ("I think.", "Hello there.")


async def test_a_long_prompt_in_chat(gym: Gym) -> None:
    status, document, _, _ = await gym.post(CHAT, {"messages": user("too long")})
    assert (status, document["choices"][0]["finish_reason"]) == (200, "length")
    assert document["id"] != "chtcmpl-123"  # which is NeMo Gym's, for all of them


async def test_streams_are_streams(gym: Gym) -> None:
    """NeMo Gym waits for the whole reply, and its streams have three kinds of events."""
    frames = await gym.stream(RESPONSES, {"input": "think", "stream": True})
    found = [frame["type"] for frame in frames if frame != "[DONE]"]
    assert found[0] == "response.created"
    assert found.count("response.output_text.delta") == 2
    assert found.count("response.output_item.done") == 2
    assert found[-1] == "response.completed"


async def test_liveness(gym: Gym) -> None:
    assert await gym.get("/") == (200, {"status": "ok"})
    assert await gym.get("/ng-rollout/task-1.0/") == (200, {"status": "ok"})
