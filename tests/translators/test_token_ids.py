"""Token ids: asked for, gathered from vLLM's replies, carried by items, and sent back."""

from typing import Any

import pytest

from translators import CODECS
from translators.canonical import Item, Message, Opaque, Reasoning, Role, ToolCall
from translators.chat.token_ids import Gatherer, ask, ask_for_prompt, read_prompt
from translators.dialect import Dialect
from translators.errors import MalformedRequest, UnsupportedFeature, UpstreamProtocolError
from translators.token_ids import carried, carry, read_token_ids
from translators.translation import Translation
from translators.wire import JSON, decode, encode

PROMPT, GENERATED, PROBS = [1, 2], [3, 4], [-0.25, -0.5]
BUNDLE: dict[str, JSON] = {
    "prompt_token_ids": PROMPT,
    "generation_token_ids": GENERATED,
    "generation_log_probs": PROBS,
}
REQUEST: dict[str, JSON] = {"model": "m", "messages": []}


# --- the members ---------------------------------------------------------------------------


def test_members_are_read_as_they_are() -> None:
    """Numbers keep their form, and what is not a token member stays out."""
    given = {**BUNDLE, "generation_log_probs": [0, -1e-7], "routed_experts": "b64", "id": "x"}
    expected = {name: value for name, value in given.items() if name != "id"}
    assert expected == read_token_ids(given, "input[0]")
    assert read_token_ids({"id": "x"}, "input[0]") == {}
    assert read_token_ids(dict.fromkeys(BUNDLE), "input[0]") == {}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt_token_ids": None}, "prompt_token_ids"),
        ({"generation_token_ids": None}, "generation_token_ids"),
        ({"generation_log_probs": None}, "generation_log_probs"),
        ({"prompt_token_ids": [1, "2"]}, "prompt_token_ids[1]"),
        ({"prompt_token_ids": [True]}, "prompt_token_ids[0]"),
        ({"generation_token_ids": "3"}, "generation_token_ids"),
        ({"generation_log_probs": [-0.25]}, "generation_log_probs"),
    ],
)
def test_partial_or_wrong_members_are_refused(change: JSON, param: str) -> None:
    with pytest.raises(MalformedRequest) as caught:
        read_token_ids({**BUNDLE, **change}, "input[3]")
    assert caught.value.param == f"input[3].{param}"


def test_experts_alone_are_partial() -> None:
    with pytest.raises(MalformedRequest):
        read_token_ids({"routed_experts": "b64"}, "input[0]")


def test_only_items_of_the_model_carry_them() -> None:
    items: list[Item] = [Message(Role.ASSISTANT, []), Reasoning(), ToolCall("c", "f", "{}")]
    for item in items:
        carry(item, BUNDLE)
        assert carried(item) == BUNDLE
    opaque = Opaque(Dialect.RESPONSES, "x", {})
    carry(opaque, BUNDLE)
    assert carried(opaque) == {}


# --- asking --------------------------------------------------------------------------------


def test_ask() -> None:
    body, asked = ask({**REQUEST, "stream": True})
    assert body == {
        **REQUEST,
        "stream": True,
        "stream_options": {"include_usage": True},
        "logprobs": True,
        "top_logprobs": 0,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }
    assert (asked.logprobs, asked.token_ids, asked.usage) == (False, False, False)


def test_callers_log_probs_keep_their_texts() -> None:
    body, asked = ask({**REQUEST, "logprobs": True, "top_logprobs": 3})
    assert "return_tokens_as_token_ids" not in body
    assert (body["top_logprobs"], asked.logprobs) == (3, True)
    assert ask({**REQUEST, "logprobs": True, "top_logprobs": None})[0]["top_logprobs"] == 0


def test_what_the_caller_asks_for_is_noted() -> None:
    request = {**REQUEST, "stream_options": {"include_usage": True}, "return_token_ids": True}
    asked = ask(request)[1]
    assert asked.usage
    assert asked.token_ids


@pytest.mark.parametrize(("name", "value"), [("n", 2), ("include_reasoning", False)])
def test_requests_that_exclude_token_ids(name: str, value: JSON) -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        ask({**REQUEST, name: value})
    assert caught.value.param == name


@pytest.mark.parametrize("n", [None, 1])
def test_one_choice_is_asked_for(n: JSON) -> None:
    assert ask({**REQUEST, "n": n})[0]["n"] == n


def test_prompt_is_asked_for_with_all_that_makes_it() -> None:
    request = {**REQUEST, "tools": [], "required_prefix_token_ids": [1], "temperature": 0}
    expected = {**REQUEST, "tools": [], "required_prefix_token_ids": [1]}
    assert expected == ask_for_prompt(request)
    assert read_prompt({"count": 2, "tokens": [1, 2]}) == [1, 2]
    with pytest.raises(UpstreamProtocolError):
        read_prompt({"count": 2})


# --- gathering -----------------------------------------------------------------------------


def entries(*tokens: str) -> JSON:
    content: list[JSON] = [
        {"token": token, "logprob": prob, "bytes": None, "top_logprobs": []}
        for token, prob in zip(tokens, PROBS, strict=False)
    ]
    return {"content": content}


NAMED = entries("token_id:3", "token_id:4")


def reply(message: JSON = None, usage: JSON = None, **members: JSON) -> dict[str, JSON]:
    """A whole reply as vLLM gives it, with members of the choice changed."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "Hi", **(message or {})},
        "logprobs": NAMED,
        "finish_reason": "stop",
        "token_ids": GENERATED,
        **members,
    }
    return {"id": "c", "choices": [choice], "prompt_token_ids": PROMPT, "usage": usage}


def without_prompt(body: dict[str, JSON]) -> dict[str, JSON]:
    return {**body, "prompt_token_ids": None}


def gather(body: dict[str, JSON], prompt: list[int] | None = None, **request: JSON) -> JSON:
    gatherer = Gatherer(ask({**REQUEST, **request})[1])
    gatherer.take(body)
    assert gatherer.lacks_prompt is (prompt is not None)
    return gatherer.token_ids(prompt)


def test_inline_token_ids() -> None:
    assert gather(reply()) == BUNDLE


def test_callers_texts_do_not_contradict() -> None:
    assert gather(reply(logprobs=entries("H", "i")), logprobs=True) == BUNDLE


def test_token_ids_in_log_probs() -> None:
    usage = {"prompt_tokens": 2, "completion_tokens": 2}
    body = without_prompt(reply(token_ids=None, usage=usage))
    assert gather(body, PROMPT) == BUNDLE
    assert gather({**body, "usage": None}, PROMPT) == BUNDLE


def test_token_ids_on_the_message() -> None:
    body = without_prompt(reply(BUNDLE, token_ids=None, logprobs=None))
    assert gather(body) == BUNDLE
    assert gather(reply(BUNDLE)) == BUNDLE


def test_routed_experts_pass() -> None:
    expected = {**BUNDLE, "routed_experts": "b64"}
    assert gather(reply(routed_experts="b64")) == expected
    assert gather(reply({**BUNDLE, "routed_experts": "b64"})) == expected


@pytest.mark.parametrize(
    ("body", "prompt", "words"),
    [
        (reply(token_ids=None), None, "choices[0].token_ids"),
        (without_prompt(reply()), None, "prompt_token_ids"),
        (reply(logprobs=None), None, "no log-probs"),
        (reply(logprobs={"content": None}), None, "no log-probs"),
        (reply(logprobs=entries("token_id:3")), None, "two different"),
        (reply(logprobs=entries("token_id:3", "token_id:5")), None, "two different"),
        (reply(logprobs=entries("H")), None, "generation_log_probs"),
        (without_prompt(reply(token_ids=None, logprobs=entries("H", "i"))), [1], "no token ids"),
        (
            without_prompt(reply(token_ids=None, usage={"completion_tokens": 3})),
            PROMPT,
            "3 generated tokens, but gave 2",
        ),
        (
            without_prompt(reply(token_ids=None, usage={"prompt_tokens": 3})),
            PROMPT,
            "3 prompt tokens, but gave 2",
        ),
        (reply({**BUNDLE, "prompt_token_ids": [9]}), None, "'prompt_token_ids'"),
        (
            reply({**BUNDLE, "generation_token_ids": [9, 9]}),
            None,
            "'generation_token_ids'",
        ),
    ],
)
def test_partial_or_contradicting_sources(body: Any, prompt: Any, words: str) -> None:
    with pytest.raises(UpstreamProtocolError) as caught:
        gather(body, prompt)
    assert words in caught.value.message


@pytest.mark.parametrize(
    "body",
    [
        reply({"prompt_token_ids": PROMPT}),
        reply(token_ids=["3"]),
        reply(logprobs={"content": [{"token": "token_id:3", "logprob": None}]}),
        {**reply(), "prompt_token_ids": "1 2"},
        {"choices": ["x"]},
    ],
)
def test_members_of_a_wrong_type(body: Any) -> None:
    with pytest.raises(UpstreamProtocolError):
        Gatherer(ask(REQUEST)[1]).take(body)


def test_what_was_not_asked_for_is_taken_out() -> None:
    stripped = Gatherer(ask(REQUEST)[1]).take(reply(BUNDLE, stop_reason=None))
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "Hi"},
        "logprobs": None,
        "finish_reason": "stop",
        "stop_reason": None,
    }
    assert stripped == {"id": "c", "choices": [choice], "usage": None}


def test_what_was_asked_for_stays() -> None:
    request = {**REQUEST, "logprobs": True, "return_token_ids": True}
    body = reply(logprobs=entries("H", "i"))
    assert Gatherer(ask(request)[1]).take(body) == body


def test_chunks_add_up() -> None:
    """vLLM gives the prompt with the first chunk, and each chunk its own tokens."""
    gatherer = Gatherer(ask({**REQUEST, "stream": True})[1])
    gatherer.take({"choices": [{"index": 0, "delta": {"content": ""}}], "prompt_token_ids": PROMPT})
    for token, prob in zip(GENERATED, PROBS, strict=True):
        logprobs = {"content": [{"token": f"token_id:{token}", "logprob": prob}]}
        choice = {"index": 0, "delta": {}, "logprobs": logprobs, "token_ids": [token]}
        assert gatherer.take({"choices": [choice]}) == {
            "choices": [{"index": 0, "delta": {}, "logprobs": None}]
        }
    assert gatherer.token_ids() == BUNDLE


# --- through a translation -----------------------------------------------------------------


def translation(*, token_ids: bool = True) -> Translation:
    made = Translation.between("responses", "chat")
    made.ctx.token_ids = token_ids
    return made


def ask_of(items: list[JSON], *, token_ids: bool = True) -> tuple[list[JSON], list[str]]:
    """The messages that items become, and the losses on the way."""
    made = translation(token_ids=token_ids)
    body = made.request({"model": "m", "input": items})
    return body["messages"], [loss.param for loss in made.losses]


USER: JSON = {"role": "user", "content": "Hello"}
SAID: JSON = {"role": "assistant", "content": "Hi"}
THOUGHT: JSON = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}]}
CALL: JSON = {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a":1 }'}
RESULT: JSON = {"type": "function_call_output", "call_id": "c", "output": "ok"}


@pytest.mark.parametrize(
    "turn",
    [
        [{**SAID, **BUNDLE}],
        [THOUGHT, {**SAID, **BUNDLE}],
        [THOUGHT, SAID, {**CALL, **BUNDLE}],
        [{**CALL, **BUNDLE}],
        [{**THOUGHT, **BUNDLE}],
        [{**SAID, **BUNDLE, "generation_token_ids": [8, 8]}, {**CALL, **BUNDLE}],
    ],
)
def test_turn_goes_back_with_the_token_ids_of_its_last_item(turn: list[JSON]) -> None:
    results = [RESULT] if turn[-1].get("type") == "function_call" else []
    messages, losses = ask_of([USER, *turn, *results, USER])
    assert {name: messages[1].get(name) for name in BUNDLE} == BUNDLE
    assert all(BUNDLE.keys().isdisjoint(message) for message in messages[2:])
    assert losses == []


def test_turns_keep_their_own_token_ids() -> None:
    other = {**BUNDLE, "generation_token_ids": [7, 7]}
    messages, _ = ask_of([USER, {**SAID, **BUNDLE}, USER, {**SAID, **other}, USER, SAID, USER])
    found = [message.get("generation_token_ids") for message in messages]
    assert found == [None, [3, 4], None, [7, 7], None, None, None]


def test_reasoning_at_the_end_goes_to_the_turn_before_it() -> None:
    messages, _ = ask_of([USER, SAID, {**THOUGHT, **BUNDLE}])
    assert messages[1:] == [{**SAID, "reasoning": "Hm", **BUNDLE}]


@pytest.mark.parametrize("item", [SAID, THOUGHT, CALL])
def test_token_ids_are_lost_where_none_are_given(item: JSON) -> None:
    messages, losses = ask_of([USER, {**item, **BUNDLE}, RESULT, USER], token_ids=False)
    assert all(BUNDLE.keys().isdisjoint(message) for message in messages)
    assert "input" in losses


CONTENT = "\n\nÄ  \u2028“x” \U0001f600 \t</think> \n"
REASONING = "\nHm.\r\n  <think> é\u00a0\n"
ARGUMENTS = '{"b" :1.0,  "a":"\\u00e9é", "n":1e2}\n'


def long_reply(content: str) -> dict[str, JSON]:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": ARGUMENTS}}
    message = {
        "role": "assistant",
        "content": content,
        "reasoning": REASONING,
        "tool_calls": [call],
        **BUNDLE,
    }
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    return {"id": "x", "created": 1, "model": "m", "choices": [choice]}


def chunks_of(body: dict[str, JSON]) -> bytes:
    """The frames of a stream that says the same, a few characters in each."""
    message = body["choices"][0]["message"]
    call = message["tool_calls"][0]
    function = {"name": "f", "arguments": ""}
    deltas: list[JSON] = [{"reasoning": c} for c in message["reasoning"]]
    deltas += [{"content": c} for c in message["content"]]
    deltas += [{"tool_calls": [{"index": 0, **call, "function": function}]}]
    for char in ARGUMENTS:
        deltas.append({"tool_calls": [{"index": 0, "function": {"arguments": char}}]})
    choices = [{"index": 0, "delta": delta} for delta in deltas]
    choices.append({"index": 0, "delta": BUNDLE, "finish_reason": "tool_calls"})
    frames = [encode({"id": "x", "choices": [choice]}) for choice in choices]
    return b"".join(b"data: " + frame + b"\n\n" for frame in [*frames, b"[DONE]"])


def output_of(body: dict[str, JSON], *, is_stream: bool) -> list[JSON]:
    """The output that a Responses caller gets and sends back."""
    made = translation()
    made.request({"model": "m", "input": "Hello", "stream": is_stream})
    if not is_stream:
        return list(made.reply(body)["output"])
    out = made.stream().feed(chunks_of(body))
    last = [line for line in out.split(b"\n") if line.startswith(b"data: {")][-1]
    return list(decode(last[6:])["response"]["output"])


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("content", [CONTENT, "\n\n"])
def test_texts_come_back_to_the_letter(content: str, is_stream: bool) -> None:
    """Content (blank content too), reasoning and arguments, byte for byte."""
    output = output_of(long_reply(content), is_stream=is_stream)
    assert [item["type"] for item in output] == ["reasoning", "message", "function_call"]
    assert [carries(item) for item in output] == [False, False, True]
    messages, losses = ask_of([USER, *output, RESULT])
    turn = messages[1]
    assert turn["content"] == content
    assert turn["reasoning"] == REASONING
    assert turn["tool_calls"][0]["function"]["arguments"] == ARGUMENTS
    assert {name: turn[name] for name in BUNDLE} == BUNDLE
    assert losses == []


def carries(item: JSON) -> bool:
    return all(item.get(name) == value for name, value in BUNDLE.items())


@pytest.mark.parametrize("is_stream", [False, True])
def test_chat_reply_to_a_responses_body_has_them_too(is_stream: bool) -> None:
    """Some clients post a Responses body to the Chat path."""
    made = translation()
    made.request({"model": "m", "input": "Hello", "stream": is_stream})
    made.caller = CODECS[Dialect.CHAT]
    if not is_stream:
        assert carries(made.reply(long_reply(CONTENT))["choices"][0]["message"])
        return
    out = made.stream().feed(chunks_of(long_reply(CONTENT)))
    last = [line for line in out.split(b"\n") if b'"finish_reason":"tool_calls"' in line][-1]
    assert carries(decode(last[6:])["choices"][0]["delta"])
