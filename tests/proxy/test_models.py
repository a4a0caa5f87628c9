"""Many names over few upstreams, each with settings of its own."""

import pytest
from structlog.typing import EventDict

from proxy.loading import load
from proxy.settings import Model, Settings, Upstream, public
from tests.proxy.caller import ask
from tests.proxy.conftest import RunProxy
from tests.proxy.dialects import (
    CHAT,
    RESPONSES,
    chat_reply,
    chat_request,
    chat_stream,
    responses_reply,
    responses_request,
    streaming,
    texts_of,
)
from tests.upstream import Reply, ScriptedUpstream
from translators.wire import JSON

pytestmark = pytest.mark.server

CHAT_UPSTREAM = pytest.mark.parametrize(
    ("path", "request_"),
    [(CHAT, chat_request), (RESPONSES, responses_request)],
    ids=["relayed", "translated"],
)
"""Callers of a chat upstream: one's requests are relayed, the other's are translated."""


def answering() -> ScriptedUpstream:
    """An upstream that speaks both dialects."""
    replies = {CHAT: chat_reply(), RESPONSES: responses_reply()}
    return ScriptedUpstream(handler=lambda request: Reply.json(replies[request.path]))


def serving(
    upstream: ScriptedUpstream, *models: Model, speaks: str = "chat", **members: JSON
) -> Settings:
    return Settings(
        upstreams={"main": Upstream(url=upstream.url, speaks=speaks)},
        models=list(models),
        **members,
    )


@CHAT_UPSTREAM
async def test_ten_names_over_one_upstream(
    path: str, request_: JSON, running_proxy: RunProxy
) -> None:
    """What holds for one name does not hold for its neighbours."""
    models = [
        Model(
            name=f"m{n}",
            upstream="main",
            upstream_model="real",
            defaults={"temperature": n / 10},
            sets={"seed": n},
            chat_template_kwargs={"n": n},
        )
        for n in range(10)
    ]
    async with answering() as upstream:
        proxy = await running_proxy(serving(upstream, *models))
        answers = [await ask(proxy.port, path, request_(model=m.name)) for m in models]
    for n, sent in enumerate(request.json for request in upstream.requests):
        assert (sent["model"], sent["temperature"], sent["seed"]) == ("real", n / 10, n)
        assert sent["chat_template_kwargs"] == {"n": n}
    assert [answer.json["model"] for answer in answers] == [model.name for model in models]


@CHAT_UPSTREAM
async def test_metadata_for_the_upstream(
    path: str, request_: JSON, running_proxy: RunProxy
) -> None:
    model = Model(
        name="m",
        upstream="main",
        chat_template_kwargs={"a": "setting", "b": "setting"},
        defaults={"top_k": 1, "min_p": 0.1},
    )
    metadata = {
        "chat_template_kwargs": '{"b": "metadata"}',
        "extra_body": '{"top_k": 2, "temperature": 0.5}',
        "user": "u",
    }
    async with answering() as upstream:
        proxy = await running_proxy(serving(upstream, model))
        answer = await ask(proxy.port, path, request_(metadata=metadata, temperature=0))
    sent = upstream.requests[0].json
    assert sent["chat_template_kwargs"] == {"a": "setting", "b": "metadata"}
    assert (sent["top_k"], sent["min_p"], sent["temperature"]) == (2, 0.1, 0)
    assert sent.get("metadata", {"user": "u"}) == {"user": "u"}
    if path == RESPONSES:
        assert answer.json["metadata"] == metadata


async def test_metadata_is_stripped_in_translations_to_responses(running_proxy: RunProxy) -> None:
    async with answering() as upstream:
        proxy = await running_proxy(serving(upstream, Model("m", "main"), speaks="responses"))
        metadata = {"extra_body": '{"truncation": "auto"}', "user": "u"}
        await ask(proxy.port, CHAT, chat_request(metadata=metadata))
    sent = upstream.requests[0].json
    assert (sent["metadata"], sent["truncation"]) == ({"user": "u"}, "auto")


@CHAT_UPSTREAM
@pytest.mark.parametrize("name", ["chat_template_kwargs", "extra_body"])
async def test_wrong_metadata_is_refused(
    name: str, path: str, request_: JSON, running_proxy: RunProxy
) -> None:
    async with answering() as upstream:
        proxy = await running_proxy(serving(upstream))
        answer = await ask(proxy.port, path, request_(metadata={name: "[]"}))
    assert (answer.status, answer.error["param"]) == (400, f"metadata.{name}")
    assert upstream.requests == []


async def test_profile_and_policy_of_a_name(running_proxy: RunProxy) -> None:
    """One splits thoughts out of the text and shows them as content, the other does not."""
    models = [
        Model(
            name="thinker",
            upstream="main",
            overrides={"think_tags": "tags", "developer_role": True, "system_messages": "keep"},
            policy={"reasoning_as": "content"},
        ),
        Model(name="talker", upstream="main"),
    ]
    text = "<think>Hm.</think>Hi"
    asked = [{"role": role, "content": role} for role in ("developer", "user", "system")]
    async with ScriptedUpstream(handler=lambda _: Reply.json(chat_reply(text))) as upstream:
        proxy = await running_proxy(serving(upstream, *models))
        thinker, talker = [
            (await ask(proxy.port, RESPONSES, {"model": m.name, "input": asked})).json["output"]
            for m in models
        ]
    assert [item["type"] for item in thinker] == ["reasoning", "message"]
    assert thinker[0]["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert [item["type"] for item in talker] == ["message"]
    assert talker[0]["content"][0]["text"] == text
    kept, merged = [[m["role"] for m in r.json["messages"]] for r in upstream.requests]
    assert kept == ["developer", "user", "system"]
    assert merged == ["system", "user"]


@CHAT_UPSTREAM
async def test_reasoning_switched_off_and_on(
    path: str, request_: JSON, running_proxy: RunProxy
) -> None:
    models = [Model(name=n, upstream="main", reasoning=n == "on") for n in ("off", "on")]
    asked: dict[str, dict[str, JSON]] = {
        CHAT: {"off": {"reasoning_effort": "high"}, "on": {"reasoning_effort": "none"}},
        RESPONSES: {
            "off": {"reasoning": {"effort": "high"}},
            "on": {"reasoning": {"effort": "none"}},
        },
    }
    async with answering() as upstream:
        proxy = await running_proxy(serving(upstream, *models))
        for model in models:
            await ask(proxy.port, path, request_(model=model.name, **asked[path][model.name]))
    off, on = (request.json for request in upstream.requests)
    assert (off["reasoning_effort"], off["chat_template_kwargs"]) == (
        "none",
        {"enable_thinking": False},
    )
    assert "reasoning_effort" not in on
    assert on["chat_template_kwargs"] == {"enable_thinking": True}


@CHAT_UPSTREAM
async def test_headers_of_a_name(
    path: str, request_: JSON, running_proxy: RunProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They replace the caller's; another name does not have them."""
    monkeypatch.setenv("TENANT", "secret-2")
    headers = {"X-Team": "blue", "openai-project": "ours"}
    one = Model(name="m", upstream="main", headers=headers, headers_env={"x-tenant": "TENANT"})
    settings_ = [one, Model(name="other", upstream="main")]
    async with answering() as upstream:
        settings = serving(upstream, *settings_)
        proxy = await running_proxy(settings)
        for model in settings_:
            theirs = {"openai-project": "theirs"}
            await ask(proxy.port, path, request_(model=model.name), theirs)
    first, second = (request.headers for request in upstream.requests)
    assert (first["x-team"], first["x-tenant"]) == ("blue", "secret-2")
    assert first["openai-project"] == "ours"
    assert not {"x-team", "x-tenant"} & second.keys()
    assert second["openai-project"] == "theirs"
    shown = public(settings)["models"][0]
    assert shown["headers"] == {"X-Team": "(hidden)", "openai-project": "(hidden)"}
    assert shown["headers_env"] == {"x-tenant": "TENANT"}


PATTERNS = [
    Model(name="*", upstream="main", sets={"by": "all"}),
    Model(name="sql-*", upstream="main", sets={"by": "sql"}),
    Model(name="sql-*-x", upstream="main", sets={"by": "sql-x"}),
    Model(name="*-xyz", upstream="main", sets={"by": "xyz"}),
    Model(name="sql-a", upstream="main", sets={"by": "name"}),
    Model(name="fix*ed", upstream="main", upstream_model="real", sets={"by": "fixed"}),
    Model(name="a.c*", upstream="main", sets={"by": "dot"}),
    Model(name="*-*-*", upstream="main", sets={"by": "two"}),
    Model(name="ab*ba", upstream="main", sets={"by": "overlap"}),
    Model(name="ab*a", upstream="main", sets={"by": "ends"}),
]


@CHAT_UPSTREAM
@pytest.mark.parametrize(
    ("name", "by", "sent"),
    [
        ("sql-a", "name", "sql-a"),
        ("sql-b", "sql", "sql-b"),
        ("sql-", "sql", "sql-"),
        ("sql-b-x", "sql-x", "sql-b-x"),
        ("sql-xyz", "sql", "sql-xyz"),
        ("org/m-xyz", "xyz", "org/m-xyz"),
        ("Sql-b", "all", "Sql-b"),
        ("a.cd", "dot", "a.cd"),
        ("abcd", "all", "abcd"),
        ("fix\ned", "fixed", "real"),
        ("fixed", "fixed", "real"),
        ("fixe", "all", "fixe"),
        ("1-2-3", "two", "1-2-3"),
        ("1-2", "all", "1-2"),
        ("--", "two", "--"),
        ("aba", "ends", "aba"),
        ("ab", "all", "ab"),
    ],
)
async def test_patterns(
    name: str, by: str, sent: str, path: str, request_: JSON, running_proxy: RunProxy
) -> None:
    """A listed name first, then the longest pattern, then the first; each with its settings."""
    async with answering() as upstream:
        proxy = await running_proxy(serving(upstream, *PATTERNS))
        answer = await ask(proxy.port, path, request_(model=name))
    assert (upstream.requests[0].json["model"], upstream.requests[0].json["by"]) == (sent, by)
    if path == RESPONSES or name != sent:
        assert answer.json["model"] == name


@pytest.mark.parametrize(("model", "status"), [("other", 404), (None, 400), (5, 404)])
async def test_a_name_that_no_pattern_fits(
    model: JSON, status: int, running_proxy: RunProxy
) -> None:
    async with answering() as upstream:
        proxy = await running_proxy(serving(upstream, Model("sql-*", "main")))
        answer = await ask(proxy.port, CHAT, {"model": model, "messages": []})
    assert (answer.status, answer.error["param"]) == (status, "model")


def listing(*names: JSON) -> Reply:
    return Reply.json({"data": [{"id": name, "root": "/secret"} for name in names]})


def two(one: ScriptedUpstream, other: ScriptedUpstream, *models: Model) -> Settings:
    urls = {"one": one.url, "other": other.url}
    return Settings(
        upstreams={name: Upstream(url=url, speaks="chat") for name, url in urls.items()},
        models=list(models),
    )


async def test_the_list_has_what_patterns_let_through(running_proxy: RunProxy) -> None:
    """From each upstream the names that lead to it, once."""
    models = [
        Model("alias", "one", "real"),
        Model("sql-*", "one"),
        Model("*", "other"),
        Model("any-*", "one", "real"),
    ]
    async with (
        ScriptedUpstream(listing("real", "sql-1", "alias", 5)) as one,
        ScriptedUpstream(listing("sql-2", "m", "alias", "any-1")) as other,
    ):
        proxy = await running_proxy(two(one, other, *models))
        answer = await ask(proxy.port, "/v1/models", method="GET")
    assert [entry["id"] for entry in answer.json["data"]] == ["alias", "sql-1", "m"]
    assert b"secret" not in answer.body
    assert len(one.requests) == len(other.requests) == 1


async def test_a_listed_name_can_be_retrieved(running_proxy: RunProxy) -> None:
    async with ScriptedUpstream(listing("sql-1")) as one:
        proxy = await running_proxy(two(one, one, Model("sql-*", "one")))
        answer = await ask(proxy.port, "/v1/models/sql-1", method="GET")
    assert answer.json == {"id": "sql-1"}


async def test_an_upstream_without_a_list_leaves_the_others(
    running_proxy: RunProxy, log_lines: list[EventDict]
) -> None:
    async with ScriptedUpstream(Reply(500)) as one, ScriptedUpstream(listing("b")) as other:
        models = [Model("a*", "one"), Model("b*", "other")]
        proxy = await running_proxy(two(one, other, *models))
        answer = await ask(proxy.port, "/v1/models", method="GET")
    assert [entry["id"] for entry in answer.json["data"]] == ["b"]
    (line,) = [line for line in log_lines if line["log_level"] == "warning"]
    assert line["upstream"] == "one"


async def test_no_list_at_all_is_an_error(running_proxy: RunProxy) -> None:
    async with ScriptedUpstream(Reply.json({"error": {"message": "no"}}, 401)) as one:
        proxy = await running_proxy(two(one, one, Model("a*", "one")))
        answer = await ask(proxy.port, "/v1/models", method="GET")
    assert (answer.status, answer.error["message"]) == (401, "no")


@pytest.mark.parametrize(
    ("path", "request_"), [(CHAT, chat_request), (RESPONSES, responses_request)]
)
async def test_an_upstream_that_speaks_both_is_spoken_to_as_the_caller_speaks(
    path: str, request_: JSON, running_proxy: RunProxy
) -> None:
    async with answering() as upstream:
        proxy = await running_proxy(serving(upstream, speaks="both"))
        answer = await ask(proxy.port, path, request_())
    assert [request.path for request in upstream.requests] == [path]
    assert answer.json in (chat_reply(), responses_reply())


async def test_a_responses_body_on_the_chat_path_of_an_upstream_that_speaks_both(
    running_proxy: RunProxy,
) -> None:
    async with answering() as upstream:
        proxy = await running_proxy(serving(upstream, speaks="both"))
        answer = await ask(proxy.port, CHAT, responses_request())
    assert [request.path for request in upstream.requests] == [CHAT]
    assert answer.json["choices"][0]["message"]["content"] == "Hi"


TURNS: JSON = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi", "reasoning": "Hm."},
    {"role": "user", "content": "And?"},
]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_name_whose_requests_are_not_relayed(
    is_stream: bool, running_proxy: RunProxy
) -> None:
    """From Chat to Chat, so that profile and policy hold."""
    text = "<think>Hm.</think>Hi"
    reply = streaming(*chat_stream([text])) if is_stream else Reply.json(chat_reply(text))
    overrides = {"reasoning_history": "none", "think_tags": "tags"}
    model = Model(name="a", upstream_model="m", relay=False, overrides=overrides)
    async with ScriptedUpstream(reply) as upstream:
        settings = Settings(
            upstreams={"default": Upstream(url=upstream.url, speaks="chat")}, models=[model]
        )
        proxy = await running_proxy(settings)
        body = {"model": "a", "messages": TURNS, "top_k": 5, "stream": is_stream}
        answer = await ask(proxy.port, CHAT, body)
    sent = upstream.requests[0].json
    assert (sent["model"], sent["top_k"]) == ("m", 5)
    assert sent["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "And?"},
    ]
    if is_stream:
        assert texts_of(answer.frames) == ["Hi"]
        assert {frame["model"] for frame in answer.events} == {"a"}
    else:
        message = answer.json["choices"][0]["message"]
        assert (message["content"], message["reasoning"]) == ("Hi", "Hm.")


async def test_responses_that_are_not_relayed(running_proxy: RunProxy) -> None:
    async with ScriptedUpstream(Reply.json(responses_reply())) as upstream:
        upstreams = {"default": Upstream(url=upstream.url, speaks="responses", profile="vllm")}
        settings = Settings(upstreams=upstreams, models=[Model(name="a", relay=False)])
        proxy = await running_proxy(settings)
        answer = await ask(proxy.port, RESPONSES, {"model": "a", "input": TURNS[:2]})
        stored = {"model": "a", "input": "q", "previous_response_id": "r"}
        refused = await ask(proxy.port, RESPONSES, stored)
    assert [item["role"] for item in upstream.requests[0].json["input"]] == ["system", "user"]
    assert answer.json["output"][0]["content"][0]["text"] == "Hi"
    assert (refused.status, refused.error["param"]) == (400, "previous_response_id")


async def test_a_name_that_is_served_in_one_dialect_only(running_proxy: RunProxy) -> None:
    models = [Model("m", "main"), Model("pro", "main", speaks="responses")]
    async with answering() as upstream:
        proxy = await running_proxy(serving(upstream, *models, speaks="both"))
        for model in models:
            answer = await ask(proxy.port, CHAT, chat_request(model=model.name))
            assert answer.json["choices"][0]["message"]["content"] == "Hi"
    assert [request.path for request in upstream.requests] == [CHAT, RESPONSES]


def test_all_settings_of_a_model_can_be_read() -> None:
    model = {
        "name": "a",
        "upstream": "main",
        "upstream_model": "real",
        "speaks": "chat",
        "relay": False,
        "chat_template_kwargs": {"enable_thinking": True},
        "reasoning": True,
        "overrides": {"reasoning_field": None},
        "policy": {"orphans": "refuse"},
        "headers": {"x-a": "b"},
        "headers_env": {"x-b": "VARIABLE"},
    }
    found = load(
        None,
        {"upstreams.main.url": "http://x/v1", "models": [model]},
        {"VARIABLE": "secret"},
    ).models[0]
    assert {name: getattr(found, name) for name in model} == model
