"""Replies of Completions upstreams, whole and streamed, with one choice or several."""

import pytest

from tests.translators.streams import context, frame
from translators.canonical import Message, Reasoning, Role, StopReason, Text, Usage
from translators.completions import schema
from translators.completions.reader import CompletionsReader
from translators.completions.response import read_logprobs, read_response
from translators.context import Context
from translators.errors import UpstreamProtocolError
from translators.events import Event, ResponseFailed, fold
from translators.profiles import ThinkTags
from translators.sse import Frame
from translators.token_ids import carried
from translators.translation import Translation
from translators.unfold import unfold
from translators.wire import JSON, decode, encode

DONE = Frame(None, b"[DONE]")
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def choice(text: str, index: int = 0, finish: str | None = "stop", **members: JSON) -> JSON:
    return {"index": index, "text": text, "finish_reason": finish, **members}


def reply(*choices: JSON, **members: JSON) -> JSON:
    head = {"id": "cmpl-1", "object": "text_completion", "created": 5, "model": "m"}
    return {**head, "choices": [*choices], **members}


def said(text: str) -> Message:
    return Message(Role.ASSISTANT, [Text(text)])


def events_of(*chunks: JSON, ctx: Context | None = None, done: bool = True) -> list[Event]:
    reader = CompletionsReader(ctx or context())
    frames = [frame(chunk) for chunk in chunks] + [DONE] * done
    return [e for each in frames for e in reader.feed(each)] + reader.finish()


# --- whole replies ---------------------------------------------------------------------------


def test_a_text() -> None:
    response = read_response(reply(choice(" Hi"), usage=USAGE), context())
    assert (response.id, response.model, response.created) == ("cmpl-1", "m", 5)
    assert response.output == [said(" Hi")]
    assert response.stop is StopReason.STOP
    assert response.usage == Usage(3, 2, 5)
    assert response.alternatives == []


@pytest.mark.parametrize("text", ["", None])
def test_no_text_is_an_empty_message(text: str | None) -> None:
    assert read_response(reply({"text": text}), context()).output == [said("")]


def test_a_text_that_was_cut() -> None:
    response = read_response(reply(choice("Hi", finish="length")), context())
    assert response.stop is StopReason.LENGTH
    assert response.output[0].status.value == "incomplete"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("tags", "text"),
    [(ThinkTags.TAGS, "<think>Hm.</think>Hi"), (ThinkTags.OPENED, "Hm.</think>Hi")],
)
def test_reasoning_in_the_text(tags: ThinkTags, text: str) -> None:
    output = [Reasoning(["Hm."]), said("Hi")]
    assert read_response(reply(choice(text)), context(think_tags=tags)).output == output
    streamed = events_of(
        *(reply(choice(c, finish=None)) for c in text),
        reply(choice("")),
        ctx=context(think_tags=tags),
    )
    assert fold(streamed).output == output


def test_vendor_members_are_kept() -> None:
    members: JSON = {"stop_reason": 7, "token_ids": [1, 2], "prompt_token_ids": [3]}
    response = read_response(reply(choice("Hi", **members), kv_transfer_params={}), context())
    assert response.extra == {**members, "kv_transfer_params": {}}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"choices": []},
        {"choices": "x"},
        {"choices": ["x"]},
        {"choices": [{"text": 5}]},
        {"choices": [{"text": "", "logprobs": {"tokens": 5}}]},
    ],
)
def test_a_reply_that_breaks_the_schema(body: JSON) -> None:
    with pytest.raises(UpstreamProtocolError):
        read_response(body, context())


def test_an_error_in_a_reply_of_status_200() -> None:
    error = read_response({"error": {"message": "no", "code": 400}}, context()).error
    assert error is not None
    assert (error.message, error.status) == ("no", 400)


def test_errors_name_the_callers_member() -> None:
    translation = Translation.between("responses", "completions")
    for theirs, ours in [
        ("prompt", "input"),
        ("max_tokens", "max_output_tokens"),
        ("top_k", "top_k"),
    ]:
        body = encode({"error": {"message": "no", "param": theirs}})
        assert translation.error(400, body)[1]["error"]["param"] == ours


# --- token ids -------------------------------------------------------------------------------


def wanting_token_ids() -> Context:
    ctx = context()
    ctx.token_ids = True
    return ctx


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"token_ids": [1]},
        {"prompt_token_ids": [1]},
        {"prompt_token_ids": [1], "token_ids": [2]},
        {"prompt_token_ids": [1], "logprobs": {"tokens": ["Hi"], "token_logprobs": [-1.0]}},
        {
            "prompt_token_ids": [1],
            "token_ids": [2],
            "logprobs": {"tokens": ["Hi"], "token_logprobs": [None]},
        },
    ],
)
def test_token_ids_that_are_incomplete(members: JSON) -> None:
    with pytest.raises(UpstreamProtocolError):
        read_response(reply(choice("Hi", **members)), wanting_token_ids())
    reader = CompletionsReader(wanting_token_ids())
    reader.feed(frame(reply(choice("H", finish=None))))
    with pytest.raises(UpstreamProtocolError):
        reader.feed(frame(reply(choice("i", **members))))


def test_a_reply_that_says_nothing_needs_no_token_ids() -> None:
    assert read_response(reply(choice("")), wanting_token_ids()).output == [said("")]


def test_token_ids_are_those_of_the_first_choice() -> None:
    """Settings may ask for more of them, which nobody reads."""
    told: JSON = {"prompt_token_ids": [1], "logprobs": {"token_logprobs": [-1.0]}}
    choices = [choice("b", 1, token_ids=[9], **told), choice("a", 0, token_ids=[2], **told)]
    (item,) = read_response(reply(*choices), wanting_token_ids()).output
    assert carried(item)["generation_token_ids"] == [2]


# --- log-probs -------------------------------------------------------------------------------


def entry(token: str, logprob: float, *top: tuple[str, float]) -> JSON:
    others = [{"token": t, "logprob": p, "bytes": list(t.encode())} for t, p in top]
    own = {"token": token, "logprob": logprob, "bytes": list(token.encode())}
    return {**own, "top_logprobs": others}


PROBS: JSON = {
    "tokens": ["H", "é"],
    "token_logprobs": [-2.5, -0.1],
    "top_logprobs": [{"H": -2.5, "A": -0.3, "B": -1.0}, {"é": -0.1, "e": -4.0}],
    "text_offset": [0, 1],
}


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        (0, [entry("H", -2.5), entry("é", -0.1)]),
        (
            2,
            [
                entry("H", -2.5, ("A", -0.3), ("B", -1.0)),
                entry("é", -0.1, ("é", -0.1), ("e", -4.0)),
            ],
        ),
    ],
)
def test_log_probs_are_those_of_the_likeliest_tokens(top: int, expected: JSON) -> None:
    """The token itself is among them only where it is one of the likeliest."""
    ctx = context()
    ctx.top_logprobs = top
    response = read_response(reply(choice("Hé", logprobs=PROBS)), ctx)
    assert response.output == [Message(Role.ASSISTANT, [Text("Hé", logprobs=expected)])]


def test_log_probs_of_a_stream() -> None:
    probs = [
        {"tokens": ["a"], "token_logprobs": [-1], "top_logprobs": None},
        {"tokens": ["b"], "token_logprobs": [-2], "top_logprobs": None},
    ]
    chunks = [
        reply(choice("a", finish=None, logprobs=probs[0])),
        reply(choice("b", logprobs=probs[1])),
    ]
    part = Text("ab", logprobs=[entry("a", -1), entry("b", -2)])
    assert fold(events_of(*chunks)).output == [Message(Role.ASSISTANT, [part])]


def test_bytes_of_a_part_of_a_character_are_unknown() -> None:
    logprobs = schema.Logprobs(["\N{REPLACEMENT CHARACTER}"], [-1.0])
    assert read_logprobs(logprobs, 0)[0]["bytes"] is None


# --- streams ---------------------------------------------------------------------------------


def test_a_stream_is_the_whole_reply() -> None:
    chunks = [
        reply(choice(" H", finish=None, prompt_token_ids=[3], token_ids=[1])),
        reply(choice("i", token_ids=[2])),
        reply(usage=USAGE),
    ]
    whole = choice(" Hi", prompt_token_ids=[3], token_ids=[1, 2])
    expected = read_response(reply(whole, usage=USAGE), context())
    assert fold(events_of(*chunks)) == expected
    assert fold(events_of(*chunks, done=False)) == expected


def test_a_stream_that_breaks_off() -> None:
    *_, last = events_of(reply(choice("H", finish=None)), done=False)
    assert isinstance(last, ResponseFailed)
    assert last.error.code == "upstream_stream_truncated"


def test_an_error_in_a_stream_is_its_end() -> None:
    ctx = context()
    events = events_of(
        reply(choice("H", finish=None)),
        {"error": {"message": "no", "code": 500, "param": "prompt"}},
        reply(choice("i")),
        ctx=ctx,
    )
    assert isinstance(events[-1], ResponseFailed)
    assert (events[-1].error.message, events[-1].error.param) == ("no", "items")


@pytest.mark.parametrize("body", [5, [], {"choices": 5}, {"choices": [{"text": 5}]}])
def test_a_frame_that_breaks_the_schema(body: JSON) -> None:
    with pytest.raises(UpstreamProtocolError):
        CompletionsReader(context()).feed(frame(body))


# --- several choices -------------------------------------------------------------------------


def several(number: int) -> Context:
    ctx = context()
    ctx.choices = number
    return ctx


def test_choices_are_alternatives_in_the_order_of_their_index() -> None:
    choices = (choice("b", 1, "length"), choice("a", 0), choice("c", 2, token_ids=[5]))
    response = read_response(reply(*choices, usage=USAGE), several(3))
    assert response.output == [said("a")]
    assert [other.stop for other in response.alternatives] == [StopReason.LENGTH, StopReason.STOP]
    assert [other.extra for other in response.alternatives] == [{}, {"token_ids": [5]}]
    assert [other.usage for other in response.alternatives] == [None, None]


SEVERAL = [
    reply(choice("b1", 1, None)),
    reply(choice("a1", 0, None), choice("b2", 1, "length", token_ids=[4])),
    reply(choice("a2", 0, token_ids=[3])),
    reply(usage=USAGE),
]


def test_choices_of_a_stream_are_alternatives() -> None:
    response = fold(events_of(*SEVERAL, ctx=several(2)))
    assert response.output == [said("a1a2")]
    assert response.usage == Usage(3, 2, 5)
    (other,) = response.alternatives
    assert (other.id, other.stop) == ("cmpl-1", StopReason.LENGTH)
    assert other.output[0].parts == [Text("b1b2")]  # type: ignore[union-attr]
    assert fold(unfold(response)) == response


def test_a_chat_caller_gets_every_choice() -> None:
    translation = Translation.between("chat", "completions")
    translation.request({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "n": 2})
    whole = translation.reply(
        reply(
            choice("a", 0, token_ids=[3], prompt_token_ids=[1]),
            choice("b", 1, "length", token_ids=[4], prompt_token_ids=[1]),
        )
    )
    told = [
        (c["index"], c["message"]["content"], c["finish_reason"], c["token_ids"])
        for c in whole["choices"]
    ]
    assert told == [(0, "a", "stop", [3]), (1, "b", "length", [4])]
    assert whole["prompt_token_ids"] == [1]
    assert "prompt_token_ids" not in whole["choices"][1]


def test_a_chat_caller_gets_every_choice_of_a_stream() -> None:
    translation = Translation.between("chat", "completions")
    options = {"stream": True, "stream_options": {"include_usage": True}}
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "n": 2, **options}
    translation.request(body)
    stream = translation.stream()
    out = stream.feed(b"".join(b"data: " + encode(chunk) + b"\n\n" for chunk in SEVERAL))
    out += stream.feed(b"data: [DONE]\n\n")
    *frames, done, end = out.split(b"\n\n")
    assert (done, end) == (b"data: [DONE]", b"")
    chunks = [decode(each.removeprefix(b"data: ")) for each in frames]
    assert {chunk["id"] for chunk in chunks} == {"cmpl-1"}
    texts, finishes = ["", ""], ["", ""]
    tokens: list[JSON] = [None, None]
    for chunk in chunks[:-1]:
        (part,) = chunk["choices"]
        texts[part["index"]] += part["delta"].get("content", "")
        if part["finish_reason"]:
            finishes[part["index"]] = part["finish_reason"]
            tokens[part["index"]] = part["token_ids"]
    assert (texts, finishes, tokens) == (["a1a2", "b1b2"], ["stop", "length"], [[3], [4]])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == USAGE


def test_a_failure_of_one_choice_is_the_streams() -> None:
    chunks = [reply(choice("a", 0)), reply(choice("b", 1, None))]
    *_, last = events_of(*chunks, ctx=several(2), done=False)
    assert isinstance(last, ResponseFailed)


def test_choices_that_nobody_asked_for_are_left_aside() -> None:
    """The operator's settings may ask for some, of a caller that reads one."""
    body = reply(*(choice(text, index) for index, text in enumerate("abc")))
    assert read_response(body, context()).alternatives == []
    assert len(read_response(body, several(2)).alternatives) == 1
    assert fold(events_of(*SEVERAL)).output == [said("a1a2")]
    assert fold(events_of(*SEVERAL)).alternatives == []
