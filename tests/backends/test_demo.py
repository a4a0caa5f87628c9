"""The demo: what it says, that it says the same streamed or not, and that the SDK believes it."""

import base64
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from typing import Any, TypeAlias

import jsonschema  # type: ignore[import-untyped]  # it has no type hints of its own
import msgspec
import pytest
from openai import AsyncOpenAI, BadRequestError, pydantic_function_tool
from pydantic import BaseModel

from backends.base import Backend, UpstreamRequest
from backends.demo import DemoBackend
from backends.demo.filler import Filler
from backends.demo.model import split_words
from tests.upstream import ScriptedUpstream, serve_backend

JSON: TypeAlias = Any

WEATHER: JSON = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "note": {"type": "string"},
            },
            "required": ["city", "unit"],
        },
    },
}
ADD: JSON = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Sum of two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "number"}},
            "required": ["a", "b"],
        },
    },
}
QUIET: JSON = {"reasoning_effort": "none"}


def chat(text: str, **more: JSON) -> JSON:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


async def post(document: JSON, backend: Backend | None = None) -> tuple[int, bytes]:
    backend = backend or DemoBackend(pause_s=0, clock=lambda: 1000.5)
    body = msgspec.json.encode(document)
    reply = await backend.send(UpstreamRequest("POST", "/chat/completions", body=body))
    try:
        return reply.status, b"".join([chunk async for chunk in reply.chunks()])
    finally:
        await reply.aclose()


async def ask(document: JSON) -> JSON:
    """The whole reply, after checking that the stream of the same request adds up to it."""
    status, body = await post(document)
    assert status == 200, body
    whole = msgspec.json.decode(body)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    _, stream = await post({**document, **options})
    chunks = list(read_events(stream))
    assert chunks.pop() == {
        **{key: whole[key] for key in ("id", "created", "model", "usage")},
        "object": "chat.completion.chunk",
        "choices": [],
    }
    for choice in whole["choices"]:
        assert fold(chunks, choice["index"]) == {
            "reasoning": choice["message"]["reasoning"] or "",
            "content": choice["message"]["content"] or "",
            "tool_calls": choice["message"].get("tool_calls", []),
            "logprobs": (choice["logprobs"] or {"content": []})["content"],
            "finish_reason": choice["finish_reason"],
            "stop_reason": choice["stop_reason"],
        }
    return whole


def read_events(stream: bytes) -> Iterator[JSON]:
    *events, done, rest = stream.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    return (msgspec.json.decode(event.removeprefix(b"data: ")) for event in events)


def fold(chunks: list[JSON], index: int) -> JSON:
    """What the chunks of one choice add up to."""
    total: JSON = {"reasoning": "", "content": "", "tool_calls": [], "logprobs": []}
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    for choice in [choice for choice in choices if choice["index"] == index]:
        assert "finish_reason" not in total, "a chunk after the last"
        delta = choice["delta"]
        for name in ("reasoning", "content"):
            total[name] += delta.get(name, "")
        for call in delta.get("tool_calls", []):
            if "id" in call:
                assert call["index"] == len(total["tool_calls"])
                function = {**call["function"], "arguments": ""}
                total["tool_calls"].append({"id": call["id"], "type": "function"})
                total["tool_calls"][-1]["function"] = function
            else:
                function = total["tool_calls"][call["index"]]["function"]
                function["arguments"] += call["function"]["arguments"]
        total["logprobs"] += (choice["logprobs"] or {"content": []})["content"]
        if choice["finish_reason"] is not None:
            total |= {name: choice[name] for name in ("finish_reason", "stop_reason")}
    return total


def calls_of(reply: JSON) -> list[tuple[str, JSON]]:
    message = reply["choices"][0]["message"]
    return [
        (call["function"]["name"], msgspec.json.decode(call["function"]["arguments"]))
        for call in message.get("tool_calls", [])
    ]


def content_of(reply: JSON) -> str:
    content: str = reply["choices"][0]["message"]["content"]
    return content


async def test_quotes_after_reasoning() -> None:
    """The reply has vLLM's shape, and counts words."""
    reply = await ask(chat("The  sea\nis blue"))
    message = reply["choices"][0]["message"]
    assert (
        message["content"]
        == 'You said: "The  sea\nis blue". I am dragoman-demo, and quoting is all I can do.'
    )
    assert message["reasoning"] == "The user wrote 4 words. I can quote them."
    assert (reply["model"], reply["created"]) == ("m", 1000)
    assert reply["usage"] == {
        "prompt_tokens": 4,
        "completion_tokens": 25,
        "total_tokens": 29,
        "completion_tokens_details": {"reasoning_tokens": 9},
    }
    assert reply == await ask(chat("The  sea\nis blue"))


@pytest.mark.parametrize(
    "off",
    [
        {"reasoning_effort": "none"},
        {"include_reasoning": False},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ],
)
async def test_reasoning_can_be_turned_off(off: JSON) -> None:
    reply = await ask(chat("Hello, who are you?", **off))
    assert reply["choices"][0]["message"]["reasoning"] is None
    assert "stands in for a language model" in content_of(reply)


async def test_counts_images_and_admits_that_it_cannot_see() -> None:
    data = base64.b64encode(bytes(68)).decode()
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/cat.jpg"}},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
    ]
    reply = await ask({"model": "m", "messages": [{"role": "user", "content": parts}]})
    assert (
        "I received 2 images (image/png, 68 bytes; by URL, not fetched), but I cannot see"
        in content_of(reply)
    )
    assert "I also received input_audio" in content_of(reply)


@pytest.mark.parametrize(
    ("text", "more", "expected"),
    [
        ("Weather in Oslo?", {}, ["Oslo"]),
        ("weather in Oslo and in Lima", {}, ["Oslo", "Lima"]),
        ("weather in Oslo, New York and São Paulo", {}, ["Oslo", "New York", "São Paulo"]),
        ("weather in Oslo and in Lima", {"parallel_tool_calls": False}, ["Oslo"]),
        ("weather here", {}, ["weather here"]),
        ("Tell a joke", {}, []),
        ("weather in Oslo", {"tool_choice": "none"}, []),
        ("Tell a joke", {"tool_choice": "required"}, ["Tell a joke"]),
    ],
)
async def test_calls_a_tool_for_each_place(text: str, more: JSON, expected: list[str]) -> None:
    reply = await ask(chat(text, tools=[ADD, WEATHER] if expected else [WEATHER], **more))
    if more.get("tool_choice") == "required":
        assert calls_of(reply) == [("add", {"a": 0, "b": 0})]
    else:
        arguments = [{"city": city, "unit": "celsius"} for city in expected]
        assert calls_of(reply) == [("get_weather", filled) for filled in arguments]
    assert reply["choices"][0]["finish_reason"] == ("tool_calls" if expected else "stop")


async def test_fills_numbers_and_enumerations_from_the_message() -> None:
    tools = [WEATHER, ADD]
    assert calls_of(await ask(chat("add 2 and 3.5", tools=tools))) == [("add", {"a": 2, "b": 3.5})]
    reply = await ask(chat("weather in Rome, in Fahrenheit please", tools=tools))
    cities = [arguments["city"] for _, arguments in calls_of(reply)]
    assert [arguments["unit"] for _, arguments in calls_of(reply)] == ["fahrenheit"] * len(cities)


async def test_a_named_choice_ends_with_stop() -> None:
    """As in vLLM, where the content beside a demanded call is an empty string."""
    named = {"type": "function", "function": {"name": "add"}}
    reply = await ask(chat("weather in Oslo", tools=[WEATHER, ADD], tool_choice=named, n=2))
    assert calls_of(reply)[0][0] == "add"
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert content_of(reply) == ""
    ids = [choice["message"]["tool_calls"][0]["id"] for choice in reply["choices"]]
    assert len(set(ids)) == 2


async def test_quotes_tool_results() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather in Oslo?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "rainy"}]},
    ]
    reply = await ask({"model": "m", "messages": messages, "tools": [WEATHER]})
    assert content_of(reply) == 'get_weather answered: "rainy".'


SCHEMAS: dict[str, JSON] = {
    "nested": {
        "type": "object",
        "properties": {
            "person": {
                "type": "object",
                "properties": {"age": {"type": "integer", "minimum": 18}},
                "required": ["age"],
            },
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 2},
            "kind": {"const": "x"},
            "size": {"enum": ["small", "large"]},
            "left out": {"type": "string"},
        },
        "required": ["person", "tags", "kind", "size"],
        "additionalProperties": False,
    },
    "references": {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "minLength": 80},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
                "required": ["name", "next", "children"],
            }
        },
        "type": "object",
        "properties": {"root": {"allOf": [{"$ref": "#/$defs/node"}]}},
        "required": ["root"],
    },
    "scalars": {
        "type": "object",
        "properties": {
            "a": {"type": ["integer", "null"], "exclusiveMinimum": 3, "maximum": 5},
            "b": {"type": "number", "exclusiveMaximum": 0},
            "c": {"type": "string", "format": "date"},
            "d": {"type": "boolean"},
            "e": {"type": "null"},
            "f": {"oneOf": [{"type": "array", "prefixItems": [{"type": "integer"}]}]},
            "g": True,
        },
        "required": list("abcdefg"),
    },
    "empty": {},
}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
async def test_fills_a_json_schema(schema: JSON) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    reply = await ask(chat("Make it large, 7 times", response_format=form))
    instance = msgspec.json.decode(content_of(reply))
    jsonschema.Draft202012Validator(schema).validate(instance)
    if schema is SCHEMAS["nested"]:
        expected = {"person": {"age": 18}, "tags": ["Mak", "Mak"], "kind": "x", "size": "large"}
        assert instance == expected


def test_ends_a_schema_that_has_no_end() -> None:
    """A schema without finite instances gives something nevertheless."""
    schema = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
    assert Filler("").fill(schema, schema) == {"a": None}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": [], "required": True},
        {"type": "object", "properties": {"a": {"enum": 3, "anyOf": {}}}, "required": ["a", 1]},
        {"type": "array", "minItems": "2", "prefixItems": None},
        {"type": "number", "minimum": None, "exclusiveMinimum": True},
        {"type": 5, "format": [], "maxLength": "x"},
        {"$ref": "#/$defs/none/at/all"},
    ],
)
def test_survives_what_is_no_schema(schema: JSON) -> None:
    """Members of the wrong type count as absent."""
    msgspec.json.encode(Filler("1").fill(schema, schema))


async def test_gives_any_json_object() -> None:
    reply = await ask(chat('say "x"', response_format={"type": "json_object"}))
    assert msgspec.json.decode(content_of(reply)) == {"echo": 'say "x"'}


async def test_stops_at_the_token_limit() -> None:
    """Words of reasoning count too, and a cut ends with length."""
    limited = await ask(chat("one two three", max_tokens=11))
    message = limited["choices"][0]["message"]
    assert message["content"] == "You said:"
    assert limited["choices"][0]["finish_reason"] == "length"
    assert limited["usage"]["completion_tokens"] == 11
    newer_name_wins = await ask(chat("one", max_completion_tokens=2, max_tokens=9))
    assert newer_name_wins["choices"][0]["message"]["content"] is None


async def test_cuts_arguments() -> None:
    reply = await ask(chat("weather in Oslo", tools=[WEATHER], max_tokens=3, **QUIET))
    (call,) = reply["choices"][0]["message"]["tool_calls"]
    assert call["function"]["arguments"] == '{"city": "Oslo",'
    assert reply["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("stop", ["and", ["three", "and"]])
async def test_stops_at_a_stop_string(stop: JSON) -> None:
    """The string itself is not sent, and ``stop_reason`` names it."""
    reply = await ask(chat("one and three", stop=stop))
    (choice,) = reply["choices"]
    assert choice["message"]["content"] == 'You said: "one '
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "and")


async def test_gives_several_choices() -> None:
    """They differ, and alternate in a stream."""
    reply = await ask(chat("x", n=3))
    contents = [choice["message"]["content"] for choice in reply["choices"]]
    assert [content.split(":")[0] for content in contents] == [
        "Choice 1 of 3",
        "Choice 2 of 3",
        "Choice 3 of 3",
    ]
    _, stream = await post(chat("x", n=3, stream=True))
    order = [chunk["choices"][0]["index"] for chunk in read_events(stream)]
    assert order == [0, 1, 2] * (len(order) // 3)


async def test_gives_log_probabilities() -> None:
    """Every token has one; the alternatives begin with the token and fall."""
    reply = await ask(chat("ä", logprobs=True, top_logprobs=3, **QUIET))
    entries = reply["choices"][0]["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == content_of(reply)
    for entry in entries:
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert entry["top_logprobs"][0]["token"] == entry["token"]
        ranked = [one["logprob"] for one in entry["top_logprobs"]]
        assert entry["logprob"] == ranked[0] <= 0
        assert all(better > worse for better, worse in pairwise(ranked))
    assert (await ask(chat("x", logprobs=True)))["choices"][0]["logprobs"]["content"]


async def test_usage_is_streamed_only_if_asked_for() -> None:
    _, stream = await post(chat("x", stream=True))
    assert all("usage" not in chunk for chunk in read_events(stream))


def roles(*names: str) -> JSON:
    return {"messages": [{"role": name, "content": "x"} for name in names]}


def part(kind: str) -> JSON:
    return {"messages": [{"role": "user", "content": [{"type": kind, "text": "x"}]}]}


def tool_choice(choice: JSON) -> JSON:
    return {"tools": [ADD], "tool_choice": choice}


def response_format(**members: JSON) -> JSON:
    return {"response_format": {"type": "json_schema", **members}}


REFUSED: list[tuple[JSON, str | None]] = [
    ({"tools": []}, "tools"),
    ({"tools": [{"type": "custom", "function": {"name": "a"}}]}, "body.tools.0.type"),
    ({"tool_choice": "auto"}, "tool_choice"),
    (tool_choice("any"), "tool_choice"),
    (tool_choice({"type": "function", "function": {"name": "b"}}), "tool_choice"),
    (tool_choice({"type": "allowed_tools"}), "body.tool_choice.function"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"n": 0}, "n"),
    ({"n": 1000}, "n"),
    ({"max_tokens": "many"}, "body.max_tokens"),
    ({"reasoning_effort": "ultra"}, "body.reasoning_effort"),
    (response_format(), "response_format"),
    (response_format(json_schema={"name": "s"}), "body.response_format.json_schema.schema"),
    (roles(), None),
    (roles("user", "system"), None),
    (roles("developer", "user"), None),
    (roles("critic"), None),
    (part("input_text"), "type"),
    (part("output_text"), "type"),
]


@pytest.mark.parametrize(("more", "param"), REFUSED)
async def test_refuses_what_vllm_refuses(more: JSON, param: str | None) -> None:
    status, body = await post({**chat("x"), **more})
    error = msgspec.json.decode(body)["error"]
    assert status == 400
    assert (error["type"], error["param"], error["code"]) == ("BadRequestError", param, 400)
    assert error["message"]


@pytest.mark.parametrize("missing", ["model", "messages"])
async def test_refuses_a_body_without(missing: str) -> None:
    status, body = await post({key: value for key, value in chat("x").items() if key != missing})
    assert (status, msgspec.json.decode(body)["error"]["param"]) == (400, f"body.{missing}")


@pytest.mark.parametrize("body", [b"", b"{", b'{"model": "\xff"}', b"[]"])
async def test_refuses_what_is_not_json(body: bytes) -> None:
    reply = await DemoBackend().send(UpstreamRequest("POST", "/chat/completions", body=body))
    assert reply.status == 400


async def test_knows_only_the_models_it_was_given() -> None:
    backend = DemoBackend(models=["a", "b"], pause_s=0)
    status, body = await post(chat("x"), backend)
    error = msgspec.json.decode(body)["error"]
    assert (status, error["type"], error["code"]) == (404, "NotFoundError", 404)
    assert (await post({**chat("x"), "model": "b"}, backend))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200),
        ("GET", "/models", 200),
        ("GET", "/chat/completions", 405),
        ("POST", "/responses", 404),
    ],
)
async def test_routes(method: str, path: str, status: int) -> None:
    reply = await DemoBackend().send(UpstreamRequest(method, path))
    body = b"".join([chunk async for chunk in reply.chunks()])
    assert reply.status == status
    if status == 404:
        assert msgspec.json.decode(body) == {"detail": "Not Found"}


async def test_gives_nothing_after_it_was_closed() -> None:
    body = msgspec.json.encode(chat("x", stream=True))
    reply = await DemoBackend(pause_s=0).send(
        UpstreamRequest("POST", "/chat/completions", body=body)
    )
    chunks = reply.chunks()
    await anext(chunks)
    await reply.aclose()
    assert [chunk async for chunk in chunks] == []


def test_words_add_up() -> None:
    """Splitting loses no white space."""
    for text in ("", " ", "a", " a  b\n\nc \n"):
        assert "".join(split_words(text)) == text


@pytest.fixture
async def client() -> AsyncIterator[AsyncOpenAI]:
    """The official SDK in front of the demo, over a real socket."""
    handler = serve_backend(DemoBackend(pause_s=0))
    async with (
        ScriptedUpstream(handler=handler) as upstream,
        AsyncOpenAI(base_url=upstream.url, api_key="none", max_retries=0) as sdk,
    ):
        yield sdk


class Answer(BaseModel):
    city: str
    degrees: list[float]


class GetWeather(BaseModel):
    """Current weather."""

    city: str


@pytest.mark.server
async def test_the_sdk_runs_a_tool_loop(client: AsyncOpenAI) -> None:
    """Streamed by the SDK's accumulator: two parallel calls, their results, an answer."""
    tools = [pydantic_function_tool(GetWeather)]
    history: list[Any] = [{"role": "user", "content": "Weather in Oslo and in Lima?"}]
    options: JSON = {"model": "any", "tools": tools, "stream_options": {"include_usage": True}}
    async with client.chat.completions.stream(messages=history, **options) as stream:
        first = await stream.get_final_completion()
    calls = first.choices[0].message.tool_calls or []
    assert [call.function.parsed_arguments for call in calls] == [
        GetWeather(city="Oslo"),
        GetWeather(city="Lima"),
    ]
    history.append(first.choices[0].message.model_dump(exclude_none=True, exclude={"parsed"}))
    for call, sky in zip(calls, ("rain", "sun"), strict=True):
        history.append({"role": "tool", "tool_call_id": call.id, "content": sky})
    async with client.chat.completions.stream(messages=history, **options) as stream:
        second = await stream.get_final_completion()
    assert (
        second.choices[0].message.content
        == 'GetWeather answered: "rain". GetWeather answered: "sun".'
    )


@pytest.mark.server
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"n": 2},
        {"logprobs": True, "top_logprobs": 2},
        {"tools": [WEATHER, ADD], "tool_choice": "required"},
    ],
)
async def test_the_sdk_adds_a_stream_up_to_the_whole(client: AsyncOpenAI, more: JSON) -> None:
    document = chat("Is it warm in Rome and in Lima", **more)
    whole = await client.chat.completions.create(**document)
    options: JSON = {**document, "stream_options": {"include_usage": True}}
    async with client.chat.completions.stream(**options) as stream:
        streamed = await stream.get_final_completion()
    assert streamed.id == whole.id
    assert streamed.usage == whole.usage
    for one, other in zip(streamed.choices, whole.choices, strict=True):
        assert one.finish_reason == other.finish_reason
        assert (one.message.content or "") == (other.message.content or "")
        assert (one.logprobs and one.logprobs.content) == (
            other.logprobs and other.logprobs.content
        )
        assert getattr(one.message, "reasoning", None) == getattr(other.message, "reasoning", None)
        assert [
            (call.id, call.function.name, call.function.arguments)
            for call in one.message.tool_calls or []
        ] == [
            (call.id, call.function.name, call.function.arguments)
            for call in other.message.tool_calls or []
            if call.type == "function"
        ]


@pytest.mark.server
async def test_the_sdk_parses_a_structured_answer(client: AsyncOpenAI) -> None:
    reply = await client.chat.completions.parse(
        model="any",
        messages=[{"role": "user", "content": "How warm is it?"}],
        response_format=Answer,
    )
    assert reply.choices[0].message.parsed == Answer(city="How warm is it?", degrees=[])


@pytest.mark.server
async def test_the_sdk_understands_refusals_and_the_model_list(client: AsyncOpenAI) -> None:
    with pytest.raises(BadRequestError, match="Unexpected message role"):
        await client.chat.completions.create(
            model="any", messages=[{"role": "developer", "content": "x"}]
        )
    assert [model.id async for model in client.models.list()] == ["dragoman-demo"]
