"""Completions upstreams behind both APIs: prompts, replies, streams and what can go wrong."""

import msgspec
import pytest

from proxy.settings import Model, Settings, Upstream
from tests.proxy.caller import Answer as CallersAnswer
from tests.proxy.caller import ask
from tests.proxy.conftest import RunProxy
from tests.proxy.dialects import (
    CHAT,
    DONE,
    RESPONSES,
    USAGE,
    chat_request,
    responses_request,
    sse,
    streaming,
    texts_of,
)
from tests.upstream import Answer, ReceivedRequest, Reply, ScriptedUpstream
from translators.wire import JSON

pytestmark = pytest.mark.server

both = pytest.mark.parametrize(
    ("path", "request_of"), [(CHAT, chat_request), (RESPONSES, responses_request)]
)
TOKENIZED = {"tokens": [5, 6, 7], "count": 3, "max_model_len": 10}


def completion(text: str | None = "Hi", finish: str | None = "stop", **members: JSON) -> JSON:
    choices = [] if text is None else [{"index": 0, "text": text, "finish_reason": finish}]
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
    return {**head, "choices": choices, **members}


def serving(request: ReceivedRequest) -> Answer:
    """What a vLLM would answer, in pieces if asked to."""
    if request.path == "/tokenize":
        return Reply.json(TOKENIZED)
    assert request.path == "/v1/completions"
    if not request.json.get("stream"):
        return Reply.json(completion(usage=USAGE))
    pieces = [completion("H", None), completion("i", "stop"), completion(None, usage=USAGE)]
    return streaming(*(sse(piece) for piece in pieces), DONE)


def using(upstream: ScriptedUpstream, render: str = "chat-template", **members: JSON) -> Settings:
    speaking = Upstream(url=upstream.url, speaks="completions", render=render, **members)
    return Settings(upstreams={"default": speaking})


def text_of(document: JSON) -> str:
    if "output" in document:
        return str(document["output"][0]["content"][0]["text"])
    return str(document["choices"][0]["message"]["content"])


@both
@pytest.mark.parametrize(
    ("render", "sent"),
    [
        ("raw", {"prompt": "Hello"}),
        ("chat-template", {"prompt": [5, 6, 7], "max_tokens": 7}),
    ],
)
async def test_an_answer(
    render: str, sent: JSON, path: str, request_of: JSON, running_proxy: RunProxy
) -> None:
    async with ScriptedUpstream(handler=serving) as upstream:
        proxy = await running_proxy(using(upstream, render))
        answer = await ask(proxy.port, path, request_of())
    assert answer.status == 200
    assert text_of(answer.json) == "Hi"
    assert answer.json["usage"]["total_tokens"] == 5
    assert upstream.requests[-1].json == {"model": "m", **sent}
    assert len(upstream.requests) == (1 if render == "raw" else 2)


@both
@pytest.mark.parametrize("render", ["raw", "chat-template"])
async def test_a_stream(render: str, path: str, request_of: JSON, running_proxy: RunProxy) -> None:
    async with ScriptedUpstream(handler=serving) as upstream:
        proxy = await running_proxy(using(upstream, render))
        options = {"stream": True}
        answer = await ask(proxy.port, path, request_of(**options))
    assert answer.is_whole
    assert texts_of(answer.frames) == ["H", "i"]
    assert upstream.requests[-1].json["stream_options"] == {"include_usage": True}
    accepted = [request.headers["accept"] for request in upstream.requests]
    assert accepted == ["application/json", "text/event-stream"][-len(accepted) :]


async def test_the_question_for_a_prompt(running_proxy: RunProxy) -> None:
    """Model, key and settings are those of the request itself; options are not asked about."""
    async with ScriptedUpstream(handler=serving) as upstream:
        settings = Settings(
            upstreams=using(upstream, key="secret").upstreams,
            models=[
                Model(
                    name="base",
                    upstream_model="m",
                    defaults={"max_tokens": 4},
                    sets={"chat_template_kwargs": {"a": 1}},
                )
            ],
        )
        proxy = await running_proxy(settings)
        await ask(proxy.port, CHAT, chat_request(temperature=0) | {"model": "base"})
    asked, sent = upstream.requests
    assert asked.path == "/tokenize"
    assert asked.headers["authorization"] == sent.headers["authorization"] == "Bearer secret"
    assert asked.headers["x-request-id"] == sent.headers["x-request-id"]
    assert asked.json == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hello"}],
        "chat_template_kwargs": {"a": 1},
    }
    assert sent.json == {"model": "m", "temperature": 0, "max_tokens": 4, "prompt": [5, 6, 7]}


@both
@pytest.mark.parametrize("status", [404, 405, 501])
async def test_an_upstream_that_renders_nothing(
    status: int, path: str, request_of: JSON, running_proxy: RunProxy
) -> None:
    async with ScriptedUpstream(Reply.json({"detail": "Not Found"}, status)) as upstream:
        proxy = await running_proxy(using(upstream))
        answer = await ask(proxy.port, path, request_of())
    assert answer.status == 502
    assert "/tokenize" in answer.error["message"]
    assert "raw" in answer.error["message"]
    assert len(upstream.requests) == 1


@both
async def test_a_template_that_raises(path: str, request_of: JSON, running_proxy: RunProxy) -> None:
    error = {"message": "roles must alternate", "type": "BadRequestError", "param": "messages"}
    async with ScriptedUpstream(Reply.json({"error": error}, 400)) as upstream:
        proxy = await running_proxy(using(upstream))
        answer = await ask(proxy.port, path, request_of())
    assert answer.status == 400
    assert answer.error["message"] == "roles must alternate"
    assert answer.error["param"] == ("messages" if path == CHAT else "input")


async def test_a_model_that_the_upstream_does_not_know(running_proxy: RunProxy) -> None:
    """Not to be taken for an endpoint that is missing."""
    error = {"message": "The model `m` does not exist.", "type": "NotFoundError"}
    async with ScriptedUpstream(Reply.json({"error": error}, 404)) as upstream:
        proxy = await running_proxy(using(upstream))
        answer = await ask(proxy.port, CHAT, chat_request())
    assert answer.status == 404
    assert answer.error["code"] == "model_not_found"


async def test_an_upstream_that_is_busy_rendering(running_proxy: RunProxy) -> None:
    busy = Reply.json({"error": "busy"}, 503, {"retry-after": "7"})
    async with ScriptedUpstream(busy) as upstream:
        proxy = await running_proxy(using(upstream))
        answer = await ask(proxy.port, RESPONSES, responses_request(stream=True))
    assert answer.status == 503
    assert answer.headers["retry-after"] == "7"


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"tokens":"x"}'])
async def test_a_prompt_that_cannot_be_read(body: bytes, running_proxy: RunProxy) -> None:
    async with ScriptedUpstream(Reply(200, body=body)) as upstream:
        proxy = await running_proxy(using(upstream))
        answer = await ask(proxy.port, CHAT, chat_request())
    assert answer.status == 502
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, chat_request(tools=[{"type": "function", "function": {"name": "f"}}]), "tools"),
        (RESPONSES, responses_request(tools=[{"type": "function", "name": "f"}]), "tools"),
        (CHAT, chat_request() | {"messages": [{"role": "assistant", "content": "a"}]}, "messages"),
        (
            RESPONSES,
            responses_request() | {"input": [{"role": "assistant", "content": "a"}]},
            "input",
        ),
    ],
)
async def test_what_a_raw_prompt_cannot_say(
    path: str, body: JSON, param: str, running_proxy: RunProxy
) -> None:
    async with ScriptedUpstream(handler=serving) as upstream:
        proxy = await running_proxy(using(upstream, "raw"))
        answer = await ask(proxy.port, path, body)
    assert answer.status == 400
    assert answer.error["param"] == param
    assert answer.error["code"] == "unsupported_feature"
    assert upstream.requests == []


@both
async def test_losses_are_told(path: str, request_of: JSON, running_proxy: RunProxy) -> None:
    async with ScriptedUpstream(handler=serving) as upstream:
        proxy = await running_proxy(using(upstream))
        answer = await ask(proxy.port, path, request_of(prompt_cache_key="k"))
    assert answer.headers["x-dragoman-loss"].startswith("prompt_cache_key:")


@both
@pytest.mark.parametrize(
    "metadata",
    [
        {"chat_template_kwargs": '{"a": 1}'},
        {"extra_body": '{"chat_template_kwargs": {"a": 1}}'},
    ],
)
async def test_a_raw_prompt_has_no_template(
    metadata: JSON, path: str, request_of: JSON, running_proxy: RunProxy
) -> None:
    async with ScriptedUpstream(handler=serving) as upstream:
        proxy = await running_proxy(using(upstream, "raw"))
        answer = await ask(proxy.port, path, request_of(metadata=metadata))
    assert answer.headers["x-dragoman-loss"].startswith("chat_template_kwargs: a raw prompt")
    assert upstream.requests[0].json == {"model": "m", "prompt": "Hello"}


async def test_a_model_may_be_spoken_to_in_completions(running_proxy: RunProxy) -> None:
    """While others of the same upstream are spoken to in Chat."""
    async with ScriptedUpstream(handler=serving) as upstream:
        settings = Settings(
            upstreams={"default": Upstream(url=upstream.url, speaks="chat")},
            models=[
                Model(
                    name="base",
                    speaks="completions",
                    overrides={"render": "chat-template"},
                    chat_template_kwargs={"a": 1},
                )
            ],
        )
        proxy = await running_proxy(settings)
        answer = await ask(proxy.port, RESPONSES, responses_request() | {"model": "base"})
    assert text_of(answer.json) == "Hi"
    asked, sent = upstream.requests
    assert asked.json["chat_template_kwargs"] == {"a": 1}
    assert sent.json == {"model": "base", "prompt": [5, 6, 7], "max_tokens": 7}


# --- token ids ---------------------------------------------------------------------------------


PIECES: JSON = [
    {"text": "", "token_ids": [], "prompt_token_ids": [5, 6, 7], "logprobs": None},
    {"text": "H", "token_ids": [8], "logprobs": {"tokens": ["H"], "token_logprobs": [-0.5]}},
    {
        "text": "i",
        "token_ids": [9, 2],
        "routed_experts": [[1]],
        "logprobs": {"tokens": ["i", ""], "token_logprobs": [-1, 0]},
    },
]
"""As vLLM gives them: the prompt's before anything is said."""
TOKENS = {
    "prompt_token_ids": [5, 6, 7],
    "generation_token_ids": [8, 9, 2],
    "generation_log_probs": [-0.5, -1, 0],
    "routed_experts": [[1]],
}


def sampling(request: ReceivedRequest) -> Answer:
    """A vLLM that gives token ids."""
    if request.path == "/tokenize":
        return Reply.json(TOKENIZED)
    assert request.json["return_token_ids"] is True
    if request.json.get("stream"):
        ends = [None, None, "stop"]
        chunks = [
            completion() | {"choices": [{"index": 0, **piece, "finish_reason": end}]}
            for piece, end in zip(PIECES, ends, strict=True)
        ]
        return streaming(*map(sse, chunks), sse(completion(None, usage=USAGE)), DONE)
    probs = {"tokens": ["H", "i", ""], "token_logprobs": [-0.5, -1, 0]}
    members = {"token_ids": [8, 9, 2], "prompt_token_ids": [5, 6, 7], "logprobs": probs}
    members["routed_experts"] = [[1]]
    choice = {"index": 0, "text": "Hi", "finish_reason": "stop", **members}
    return Reply.json(completion() | {"choices": [choice], "usage": USAGE})


def rollouts(upstream: ScriptedUpstream, render: str = "raw", **members: JSON) -> Settings:
    model = {"name": "m", "upstream": "default", "token_ids": True, **members}
    return msgspec.structs.replace(using(upstream, render), models=[msgspec.convert(model, Model)])


def last_of(path: str, answer: CallersAnswer, *, is_stream: bool) -> JSON:
    """The Chat choice, the last item, or what a stream has in its place."""
    if path == CHAT:
        if not is_stream:
            return answer.json["choices"][0]
        return next(f["choices"][0] for f in answer.events if f["choices"][0]["finish_reason"])
    return (answer.events[-1]["response"] if is_stream else answer.json)["output"][-1]


@both
@pytest.mark.parametrize("render", ["raw", "chat-template"])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_token_ids(
    is_stream: bool, render: str, path: str, request_of: JSON, running_proxy: RunProxy
) -> None:
    async with ScriptedUpstream(handler=sampling) as upstream:
        proxy = await running_proxy(rollouts(upstream, render))
        answer = await ask(proxy.port, path, request_of(stream=is_stream))
    assert answer.status == 200
    last = last_of(path, answer, is_stream=is_stream)
    if path == CHAT:
        assert {"token_ids", "prompt_token_ids", "routed_experts"}.isdisjoint(last)
        assert last["logprobs"] is None
        last = last["delta" if is_stream else "message"]
    else:
        assert last["content"] == [
            {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}
        ]
    assert {name: last[name] for name in TOKENS} == TOKENS
    assert upstream.requests[-1].json["logprobs"] == 0


async def test_what_the_caller_asks_for_itself_stays(running_proxy: RunProxy) -> None:
    async with ScriptedUpstream(handler=sampling) as upstream:
        proxy = await running_proxy(rollouts(upstream))
        asked = chat_request(logprobs=True, top_logprobs=3, return_token_ids=True)
        reply = (await ask(proxy.port, CHAT, asked)).json
    (choice,) = reply["choices"]
    assert upstream.requests[0].json["logprobs"] == 3
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == ["H", "i", ""]
    assert (choice["token_ids"], reply["prompt_token_ids"]) == ([8, 9, 2], [5, 6, 7])
    assert choice["message"]["generation_token_ids"] == [8, 9, 2]


@both
async def test_no_token_ids_are_an_error(
    path: str, request_of: JSON, running_proxy: RunProxy
) -> None:
    async with ScriptedUpstream(handler=serving) as upstream:
        proxy = await running_proxy(rollouts(upstream))
        answer = await ask(proxy.port, path, request_of())
    assert answer.status == 502
    assert "gave no token ids" in answer.error["message"]


async def test_token_ids_of_one_choice_only(running_proxy: RunProxy) -> None:
    async with ScriptedUpstream(handler=sampling) as upstream:
        proxy = await running_proxy(rollouts(upstream))
        answer = await ask(proxy.port, CHAT, chat_request(n=2))
    assert (answer.status, answer.error["param"]) == (400, "n")
    assert upstream.requests == []


@both
@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_prompt_that_is_too_long(
    is_stream: bool, path: str, request_of: JSON, running_proxy: RunProxy
) -> None:
    message = (
        "This model's maximum context length is 10 tokens. However, you requested 16 tokens "
        "(12 in the messages, 4 in the completion)."
    )
    error = Reply.json({"error": {"message": message, "code": 400}}, 400)
    async with ScriptedUpstream(error, error) as upstream:
        settings = rollouts(upstream, context_overflow="incomplete")
        port = (await running_proxy(settings)).port
        answer = await ask(port, path, request_of(stream=is_stream))
        refused = (await running_proxy(rollouts(upstream, context_overflow="error"))).port
        assert (await ask(refused, path, request_of())).error["code"] == "context_length_exceeded"
    assert answer.status == 200
    if path == CHAT:
        last = last_of(path, answer, is_stream=is_stream)
        assert last["finish_reason"] == "length"
    else:
        response = answer.events[-1]["response"] if is_stream else answer.json
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
