"""Token ids through a running proxy: both dialects, whole and streamed."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.settings import Model, Settings, Upstream
from tests.proxy.caller import Answer, Call, ask, read_frames
from tests.proxy.conftest import RunningProxy, RunProxy
from tests.proxy.dialects import CHAT, DONE, RESPONSES, chat_request, responses_request, sse
from tests.upstream import Abort, Piece, ReceivedRequest, Reply, ScriptedUpstream, StreamReply
from translators.wire import JSON

pytestmark = pytest.mark.server

PROMPT, GENERATED, PROBS = [1, 2, 3], [4, 5], [-0.25, -0.5]
BUNDLE: dict[str, JSON] = {
    "prompt_token_ids": PROMPT,
    "generation_token_ids": GENERATED,
    "generation_log_probs": PROBS,
}
TEXTS = ["Hi", "!"]
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
HEAD = {"id": "c", "created": 1, "model": "m"}

both = pytest.mark.parametrize("path", [CHAT, RESPONSES])
either_way = pytest.mark.parametrize("is_stream", [False, True])


class FakeVLLM:
    """A Chat server that gives token ids as vLLM does; an old one only in log-probs."""

    def __init__(self) -> None:
        self.is_old = False
        self.tokens: JSON = PROMPT
        self.usage: JSON = USAGE
        self.choice: dict[str, JSON] = {}
        self.may_end = asyncio.Event()
        self.may_end.set()

    def answer(self, request: ReceivedRequest) -> Reply | StreamReply:
        if request.path == "/tokenize":
            return Reply.json({"count": 3, "tokens": self.tokens})
        body = request.json
        return StreamReply(self.chunks(body)) if body.get("stream") else self.whole(body)

    def entries(self, body: JSON, at: slice) -> JSON:
        if not body.get("logprobs"):
            return None
        named = body.get("return_tokens_as_token_ids")
        tokens = [f"token_id:{token}" for token in GENERATED] if named else TEXTS
        pairs = list(zip(tokens, PROBS, strict=True))[at]
        return {"content": [{"token": token, "logprob": prob} for token, prob in pairs]}

    def token_ids(self, body: JSON, ids: list[int]) -> list[int] | None:
        return ids if body.get("return_token_ids") and not self.is_old else None

    def whole(self, body: JSON) -> Reply:
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": "Hi!"},
            "logprobs": self.entries(body, slice(None)),
            "finish_reason": "stop",
            "token_ids": self.token_ids(body, GENERATED),
            **self.choice,
        }
        prompt = self.token_ids(body, PROMPT)
        document = {**HEAD, "choices": [choice], "prompt_token_ids": prompt, "usage": self.usage}
        return Reply.json(document)

    def chunks(self, body: JSON) -> list[Piece]:
        """The role, what a parser holds back, the text, the end, and the usage."""
        said: list[JSON] = [{"role": "assistant", "content": ""}, {}, {"content": "Hi!"}, {}]
        choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in said]
        for i, choice in enumerate(choices[1:3]):
            choice["logprobs"] = self.entries(body, slice(i, i + 1))
            if ids := self.token_ids(body, GENERATED[i : i + 1]):
                choice["token_ids"] = ids
        choices[-1] |= {"finish_reason": "stop", **self.choice}
        chunks: list[dict[str, JSON]] = [{**HEAD, "choices": [choice]} for choice in choices]
        chunks[0]["prompt_token_ids"] = self.token_ids(body, PROMPT)
        if (body.get("stream_options") or {}).get("include_usage"):
            chunks.append({**HEAD, "choices": [], "usage": self.usage})
        frames = [sse(chunk) for chunk in chunks]
        return [*frames[:3], self.may_end, *frames[3:], DONE]


@pytest.fixture
def vllm() -> FakeVLLM:
    return FakeVLLM()


@pytest.fixture
async def upstream(vllm: FakeVLLM) -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream(handler=vllm.answer) as upstream:
        yield upstream


@pytest.fixture
async def proxy(upstream: ScriptedUpstream, running_proxy: RunProxy) -> RunningProxy:
    """A proxy whose model ``m`` has token ids and whose model ``plain`` has none."""
    models = [
        Model(name="m", upstream="vllm", token_ids=True),
        Model(name="plain", upstream="vllm", upstream_model="m"),
    ]
    upstreams = {"vllm": Upstream(url=upstream.url, speaks="chat")}
    return await running_proxy(Settings(upstreams=upstreams, models=models))


def request(path: str, is_stream: bool, **members: JSON) -> JSON:
    made = chat_request() if path == CHAT else responses_request()
    return {**made, "stream": is_stream, **members}


def bundle_of(carrier: JSON) -> JSON:
    return {name: carrier.get(name) for name in BUNDLE}


def carriers(answer: Answer, path: str, is_stream: bool) -> list[JSON]:
    """All places in which a reply has to have the token ids."""
    if path == CHAT and not is_stream:
        return [answer.json["choices"][0]["message"]]
    if path == CHAT:
        ends = [f["choices"][0] for f in answer.events if f["choices"]]
        return [choice["delta"] for choice in ends if choice["finish_reason"]]
    if not is_stream:
        return [answer.json["output"][-1]]
    done = [f["item"] for f in answer.events if f["type"] == "response.output_item.done"]
    return [done[-1], answer.events[-1]["response"]["output"][-1]]


@both
@either_way
@pytest.mark.parametrize("is_old", [False, True])
async def test_reply_carries_token_ids(
    path: str, is_stream: bool, is_old: bool, vllm: FakeVLLM, proxy: RunningProxy
) -> None:
    vllm.is_old = is_old
    answer = await ask(proxy.port, path, request(path, is_stream))
    assert answer.status == 200
    found = [bundle_of(carrier) for carrier in carriers(answer, path, is_stream)]
    assert found
    assert all(bundle == BUNDLE for bundle in found)
    assert answer.body.count(b"generation_token_ids") == len(found)


async def test_old_upstream_is_asked_at_its_root(
    vllm: FakeVLLM, proxy: RunningProxy, upstream: ScriptedUpstream
) -> None:
    vllm.is_old = True
    asked = request(CHAT, False, tools=[], chat_template_kwargs={"a": 1}, temperature=0)
    await ask(proxy.port, CHAT, asked, {"authorization": "Bearer k"})
    generation, tokenize = upstream.requests
    assert (tokenize.method, tokenize.path) == ("POST", "/tokenize")
    members = ("model", "messages", "tools", "chat_template_kwargs")
    assert tokenize.json == {name: asked[name] for name in members}
    assert tokenize.headers["authorization"] == generation.headers["authorization"] == "Bearer k"


@either_way
async def test_asking_for_the_prompt_needs_no_place(
    is_stream: bool, vllm: FakeVLLM, upstream: ScriptedUpstream, running_proxy: RunProxy
) -> None:
    """A stream that waited for a second place would wait for itself."""
    vllm.is_old = True
    members: JSON = {"max_concurrent": 1, "queue_limit": 0}
    upstreams = {"vllm": Upstream(url=upstream.url, speaks="chat", **members)}
    models = [Model(name="m", upstream="vllm", token_ids=True)]
    proxy = await running_proxy(Settings(upstreams=upstreams, models=models))
    answer = await ask(proxy.port, CHAT, request(CHAT, is_stream))
    assert [bundle_of(carrier) for carrier in carriers(answer, CHAT, is_stream)] == [BUNDLE]


@either_way
async def test_rest_of_a_relayed_reply_is_as_without_the_setting(
    is_stream: bool, proxy: RunningProxy
) -> None:
    """Apart from the name, the bundle, and vendor members that are null without it."""
    answer = await ask(proxy.port, CHAT, request(CHAT, is_stream))
    plain = await ask(proxy.port, CHAT, request(CHAT, is_stream, model="plain"))
    assert answer.headers["content-type"] == plain.headers["content-type"]

    def rest(frame: JSON) -> JSON:
        if frame == "[DONE]":
            return frame
        choice = {k: v for k, v in frame["choices"][0].items() if v is not None}
        name = "delta" if "delta" in choice else "message"
        choice[name] = {k: v for k, v in choice[name].items() if k not in BUNDLE}
        members = {**frame, "choices": [choice]}
        return {k: v for k, v in members.items() if k != "model" and v is not None}

    def said(answer: Answer) -> list[JSON]:
        frames = answer.frames if is_stream else [answer.json]
        return [rest(frame) for frame in frames]

    empty = {"index": 0, "delta": {}}
    expected = [f for f in said(plain) if f == "[DONE]" or f["choices"] != [empty]]
    assert said(answer) == expected


@either_way
async def test_callers_own_log_probs_stay(is_stream: bool, proxy: RunningProxy) -> None:
    answer = await ask(proxy.port, CHAT, request(CHAT, is_stream, logprobs=True))
    frames = answer.events if is_stream else [answer.json]
    logprobs = [choice.get("logprobs") for frame in frames for choice in frame["choices"]]
    entries = [entry for probs in logprobs if probs for entry in probs["content"]]
    assert [entry["token"] for entry in entries] == TEXTS
    assert [bundle_of(c) for c in carriers(answer, CHAT, is_stream)] == [BUNDLE]


@either_way
async def test_callers_own_token_ids_stay(is_stream: bool, proxy: RunningProxy) -> None:
    answer = await ask(proxy.port, CHAT, request(CHAT, is_stream, return_token_ids=True))
    frames = answer.events if is_stream else [answer.json]
    choices = [choice for frame in frames for choice in frame["choices"]]
    assert frames[0]["prompt_token_ids"] == PROMPT
    assert [i for choice in choices for i in choice.get("token_ids") or ()] == GENERATED


async def test_responses_caller_gets_the_log_probs_it_includes(proxy: RunningProxy) -> None:
    include = ["message.output_text.logprobs"]
    answer = await ask(proxy.port, RESPONSES, request(RESPONSES, False, include=include))
    (item,) = answer.json["output"]
    assert [entry["token"] for entry in item["content"][0]["logprobs"]] == TEXTS
    assert bundle_of(item) == BUNDLE


@pytest.mark.parametrize("wants_usage", [False, True])
async def test_usage_chunk_only_if_asked_for(wants_usage: bool, proxy: RunningProxy) -> None:
    options = {"stream_options": {"include_usage": True}} if wants_usage else {}
    answer = await ask(proxy.port, CHAT, request(CHAT, True, **options))
    assert [f["usage"] for f in answer.events if "usage" in f] == [USAGE] * wants_usage
    assert answer.frames[-1] == "[DONE]"


async def test_name_by_a_pattern(upstream: ScriptedUpstream, running_proxy: RunProxy) -> None:
    settings = Settings(
        upstreams={"vllm": Upstream(url=upstream.url, speaks="chat")},
        models=[Model(name="*", upstream="vllm", token_ids=True)],
    )
    proxy = await running_proxy(settings)
    answer = await ask(proxy.port, CHAT, request(CHAT, False))
    assert bundle_of(answer.json["choices"][0]["message"]) == BUNDLE


async def test_several_choices_are_refused(proxy: RunningProxy, upstream: ScriptedUpstream) -> None:
    answer = await ask(proxy.port, CHAT, request(CHAT, False, n=2))
    assert (answer.status, answer.error["param"]) == (400, "n")
    assert upstream.requests == []


# --- replay --------------------------------------------------------------------------------

SAID = {"role": "assistant", "content": "Hi!"}
USER = {"role": "user", "content": "Hello"}


@both
async def test_earlier_turn_goes_back_with_its_token_ids(
    path: str, proxy: RunningProxy, upstream: ScriptedUpstream
) -> None:
    turns = [USER, {**SAID, **BUNDLE}, USER]
    asked = {"model": "m", "messages" if path == CHAT else "input": turns}
    assert (await ask(proxy.port, path, asked)).status == 200
    assert upstream.requests[0].json["messages"] == turns


@both
async def test_reply_can_be_sent_back_as_it_is(
    path: str, proxy: RunningProxy, upstream: ScriptedUpstream
) -> None:
    answer = (await ask(proxy.port, path, request(path, False))).json
    member = "messages" if path == CHAT else "input"
    turn = [answer["choices"][0]["message"]] if path == CHAT else answer["output"]
    asked = {"model": "m", member: [USER, *turn, USER]}
    assert (await ask(proxy.port, path, asked)).status == 200
    assert upstream.requests[1].json["messages"][1] == {**SAID, **BUNDLE}


@both
async def test_prefix_of_the_callers_passes(
    path: str, vllm: FakeVLLM, proxy: RunningProxy, upstream: ScriptedUpstream
) -> None:
    """NeMo RL's server takes it; nothing else is derived from it here."""
    vllm.is_old = True
    await ask(proxy.port, path, request(path, False, required_prefix_token_ids=[1, 2]))
    assert [r.json["required_prefix_token_ids"] for r in upstream.requests] == [[1, 2], [1, 2]]


@pytest.mark.parametrize(("path", "at"), [(CHAT, "messages[1]"), (RESPONSES, "input[1]")])
async def test_partial_token_ids_are_refused(
    path: str, at: str, proxy: RunningProxy, upstream: ScriptedUpstream
) -> None:
    turns = [USER, {**SAID, "prompt_token_ids": [1]}, USER]
    asked = {"model": "m", "messages" if path == CHAT else "input": turns}
    answer = await ask(proxy.port, path, asked)
    assert (answer.status, answer.error["param"]) == (400, f"{at}.generation_token_ids")
    assert upstream.requests == []


async def test_without_the_setting_a_relayed_turn_stays_as_it_is(
    proxy: RunningProxy, upstream: ScriptedUpstream
) -> None:
    turns = [USER, {**SAID, "prompt_token_ids": [1]}, USER]
    await ask(proxy.port, CHAT, {"model": "plain", "messages": turns})
    assert upstream.requests[0].json["messages"] == turns


# --- faults --------------------------------------------------------------------------------

FAULTS: dict[str, tuple[dict[str, JSON], JSON, str]] = {
    "no-log-probs": ({"logprobs": None}, PROMPT, "no log-probs"),
    "half": ({"token_ids": None}, PROMPT, "without 'choices[0].token_ids'"),
    "disagreement": ({"token_ids": [9]}, PROMPT, "two different"),
    "no-prompt": ({}, "x", "tokens"),
    "another-prompt": ({}, [1, 2], "counts 3 prompt tokens"),
}


@both
@pytest.mark.parametrize("fault", FAULTS)
async def test_fault_of_a_whole_reply(
    path: str, fault: str, vllm: FakeVLLM, proxy: RunningProxy
) -> None:
    vllm.choice, vllm.tokens, words = FAULTS[fault]
    vllm.is_old = "prompt" in fault
    answer = await ask(proxy.port, path, request(path, False))
    assert (answer.status, answer.error["code"]) == (502, "upstream_invalid_response")
    assert words in answer.error["message"]


async def test_fault_of_a_relayed_stream(vllm: FakeVLLM, proxy: RunningProxy) -> None:
    vllm.choice = {"token_ids": [9]}
    answer = await ask(proxy.port, CHAT, request(CHAT, True))
    *before, last = answer.frames
    assert last["error"]["code"] == "upstream_invalid_response"
    assert [f["choices"][0]["delta"].get("content") for f in before] == ["", "Hi!"]


async def test_fault_of_a_translated_stream(vllm: FakeVLLM, proxy: RunningProxy) -> None:
    vllm.choice = {"token_ids": [9]}
    vllm.may_end.clear()
    async with Call(proxy.port, RESPONSES, request(RESPONSES, True)) as call:
        assert await call.head() == 200
        vllm.may_end.set()
        frames = read_frames(b"".join([chunk async for chunk in call.chunks()]))
    failed = frames[-2]
    assert (failed["type"], frames[-1]) == ("response.failed", "[DONE]")
    assert "two different" in failed["response"]["error"]["message"]
    assert failed["response"]["output"][0]["content"][0]["text"] == "Hi!"


async def test_stream_keeps_what_came_before_a_question_that_fails(running_proxy: RunProxy) -> None:
    """Although all of it came at once."""
    vllm = FakeVLLM()
    vllm.is_old = True

    def answer(request: ReceivedRequest) -> Abort | StreamReply:
        if request.path == "/tokenize":
            return Abort()
        pieces = vllm.chunks(request.json)
        return StreamReply([b"".join(piece for piece in pieces if isinstance(piece, bytes))])

    async with ScriptedUpstream(handler=answer) as upstream:
        settings = Settings(
            upstreams={"vllm": Upstream(url=upstream.url, speaks="chat")},
            models=[Model(name="m", upstream="vllm", token_ids=True)],
        )
        proxy = await running_proxy(settings)
        *before, last = (await ask(proxy.port, CHAT, request(CHAT, True))).frames
    assert last["error"]["code"] == "upstream_stream_truncated"
    assert [f["choices"][0]["delta"].get("content") for f in before] == ["", "Hi!"]


@both
async def test_no_tokenize_at_the_upstream(path: str, running_proxy: RunProxy) -> None:
    vllm = FakeVLLM()
    vllm.is_old = True

    def answer(request: ReceivedRequest) -> Reply | StreamReply:
        return Reply(404) if request.path == "/tokenize" else vllm.answer(request)

    async with ScriptedUpstream(handler=answer) as upstream:
        settings = Settings(
            upstreams={"vllm": Upstream(url=upstream.url, speaks="chat")},
            models=[Model(name="m", upstream="vllm", token_ids=True)],
        )
        proxy = await running_proxy(settings)
        found = await ask(proxy.port, path, request(path, False))
        assert found.status == 502
        assert "/tokenize answered with status 404" in found.error["message"]


async def test_errors_and_broken_streams_stay_what_they_are(running_proxy: RunProxy) -> None:
    refused = Reply.json({"error": {"message": "No.", "code": 400}}, 400)
    broken = StreamReply([sse({**HEAD, "choices": [{"delta": {"content": "H"}}]}), Abort()])
    error = StreamReply([sse({"error": {"message": "No.", "code": 500}}), DONE])
    strange = StreamReply([sse({"choices": None}), sse([]), DONE])
    async with ScriptedUpstream(refused, broken, error, strange) as upstream:
        settings = Settings(
            upstreams={"vllm": Upstream(url=upstream.url, speaks="chat")},
            models=[Model(name="m", upstream="vllm", token_ids=True)],
        )
        proxy = await running_proxy(settings)
        answer = await ask(proxy.port, CHAT, request(CHAT, False))
        assert (answer.status, answer.json) == (400, {"error": {"message": "No.", "code": 400}})
        answer = await ask(proxy.port, CHAT, request(CHAT, True))
        assert [list(frame) for frame in answer.frames] == [[*HEAD, "choices"], ["error"]]
        answer = await ask(proxy.port, CHAT, request(CHAT, True))
        assert answer.frames == [{"error": {"message": "No.", "code": 500}}, "[DONE]"]
        answer = await ask(proxy.port, CHAT, request(CHAT, True))
        assert answer.frames == [{"choices": None}, [], "[DONE]"]
