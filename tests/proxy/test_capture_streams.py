"""Streams of captures, put together again."""

from collections.abc import Callable, Sequence

import pytest

from proxy import corpus, goldens
from proxy.capture.streams import Assembled, assemble
from proxy.corpus import Case
from tests import cases
from tests.proxy.dialects import (
    DONE,
    USAGE,
    chat_chunk,
    chat_stream,
    responses_reply,
    responses_stream,
    sse,
)
from translators.errors import UpstreamProtocolError
from translators.wire import JSON, decode

BOTH = [
    pytest.param(case, id=case.folder.name)
    for case in cases.STREAM_CASES
    if corpus.REPLY in case.files and case.facts.fold is None
    # Its stream and its reply have different second choices.
    if case.upstream == "chat" and case.folder.name != "only-the-first-choice-is-read"
]
"""Chat upstreams that were asked twice, for a whole reply and for a stream."""


OF_RESPONSES = [
    pytest.param(case, id=case.folder.name)
    for case in cases.STREAM_CASES
    if case.upstream == "responses"
]


def chat(*pieces: bytes) -> tuple[JSON, Assembled]:
    found = assemble("chat", pieces)
    assert found.document is not None
    return decode(found.document), found


def chunk(index: int, finish: str | None = None, **members: JSON) -> bytes:
    base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return sse({**base, "choices": [{"index": index, "finish_reason": finish, **members}]})


def said(value: JSON) -> JSON:
    """A reply without what is absent, and without what is new in each reply."""
    if isinstance(value, dict):
        minted = ("id", "created", "model", "system_fingerprint")
        return {k: said(v) for k, v in value.items() if v not in (None, [], "") and k not in minted}
    return [said(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("case", BOTH)
def test_chat_stream_is_the_same_as_the_whole_reply(case: Case) -> None:
    found = assemble("chat", [case.read(corpus.STREAM)])
    assert found.document is not None
    whole = decode(case.read(corpus.REPLY))
    assert goldens.first_difference(said(whole), said(decode(found.document))) == ""
    assert found.ending == "complete"


@pytest.mark.parametrize("case", BOTH[::7])
def test_pieces_of_a_stream_may_be_cut_anywhere(case: Case) -> None:
    stream = case.read(corpus.STREAM)
    whole = assemble("chat", [stream]).document
    assert whole == assemble("chat", [stream[i : i + 1] for i in range(len(stream))]).document


def test_all_choices_with_log_probs_refusal_and_token_ids() -> None:
    def probs(*tokens: str) -> JSON:
        return {"content": [{"token": token, "logprob": -0.5} for token in tokens], "refusal": None}

    document, found = chat(
        chunk(0, delta={"role": "assistant", "content": ""}, prompt_token_ids=[1, 2]),
        chunk(1, delta={"role": "assistant", "content": ""}),
        chunk(1, delta={"refusal": "I "}, token_ids=[9]),
        chunk(0, delta={"content": "a"}, logprobs=probs("a"), token_ids=[3]),
        chunk(1, delta={"refusal": "can't."}, token_ids=[8]),
        chunk(0, delta={"content": "b c"}, logprobs=probs("b", " c"), token_ids=[4, 5]),
        chunk(0, "length", delta={}, token_ids=[], stop_reason=None),
        chunk(1, "stop", delta={}, stop_reason=7),
        sse({"id": "c", "object": "chat.completion.chunk", "choices": [], "usage": USAGE}),
        DONE,
    )
    assert document == {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "usage": USAGE,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "ab c"},
                "finish_reason": "length",
                "prompt_token_ids": [1, 2],
                "logprobs": probs("a", "b", " c"),
                "token_ids": [3, 4, 5],
                "stop_reason": None,
            },
            {
                "index": 1,
                "message": {"role": "assistant", "content": None, "refusal": "I can't."},
                "finish_reason": "stop",
                "token_ids": [9, 8],
                "stop_reason": 7,
            },
        ],
    }
    assert (found.ending, found.first) == ("complete", 2)


def test_parts_and_texts_of_a_content_stay_in_order() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Six"}]}
    reference = {"type": "reference", "reference_ids": [0]}
    contents: list[JSON] = ["", [thought], "4", "2", "", [reference], "."]
    document, _ = chat(*[chunk(0, delta={"content": content}) for content in contents])
    assert document["choices"][0]["message"]["content"] == [
        thought,
        {"type": "text", "text": "42"},
        reference,
        {"type": "text", "text": "."},
    ]


def test_calls_come_together_however_a_server_tells_them() -> None:
    def calls(*entries: JSON) -> bytes:
        return chat_chunk(tool_calls=list(entries))

    document, _ = chat(
        calls({"index": 0, "id": "a", "type": "function", "function": {"name": "f"}}),
        calls({"index": 1, "id": "b", "type": "custom", "custom": {"name": "g", "input": "x"}}),
        calls({"index": 0, "function": {"arguments": '{"n"'}}),
        calls({"index": 1, "custom": {"input": "y"}}, {"index": 0, "function": {"arguments": ":"}}),
        calls({"index": 0, "id": "other", "function": {"arguments": "1}"}}),
        calls({"index": 0, "id": "c", "function": {"name": "h", "arguments": "{}"}}),
        calls({"id": "d", "function": {"name": "i", "arguments": "["}}),
        calls({"function": {"name": "i", "arguments": "]"}}),
        chat_chunk(finish="tool_calls"),
    )
    message = document["choices"][0]["message"]
    assert message["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"n":1}'}},
        {"id": "b", "type": "custom", "custom": {"name": "g", "input": "xy"}},
        {"id": "c", "type": "function", "function": {"name": "h", "arguments": "{}"}},
        {"id": "d", "type": "function", "function": {"name": "i", "arguments": "[]"}},
    ]


@pytest.mark.parametrize(
    ("pieces", "ending"),
    [
        ([chat_chunk("a"), chat_chunk(finish="stop")], "complete"),
        ([chat_chunk("a"), DONE], "complete"),
        ([chat_chunk("a")], None),
        ([chunk(0, "stop", delta={"content": "a"}), chunk(1, delta={"content": "b"})], None),
        ([chat_chunk("a"), b'data: {"id": "c", "cho'], None),
    ],
)
def test_end_of_a_chat_stream(pieces: Sequence[bytes], ending: str | None) -> None:
    document, found = chat(*pieces)
    assert document["choices"][0]["message"]["content"] == "a"
    assert found.ending == ending


def test_error_ends_a_chat_stream() -> None:
    error = {"message": "out of memory", "code": "oom"}
    document, found = chat(chat_chunk("a"), sse({"error": error}), DONE)
    assert document["choices"][0]["message"]["content"] == "a"
    assert document["error"] == error
    assert found.ending == "error"
    document, found = chat(b'event: error\ndata: "No."\n\n')
    assert (document, found.ending) == ({"error": "No."}, "error")


@pytest.mark.parametrize("data", [b"data: {\n\n", b"data: 1\n\n", b'data: {"choices": [1]}\n\n'])
def test_what_is_no_chat_chunk(data: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        assemble("chat", [data])


def test_signs_of_life_are_no_content() -> None:
    beats = [b": alive\n\n", chat_chunk(role="assistant", content=""), b": alive\n\n"]
    assert assemble("chat", [*beats, *chat_stream(["a"])[1:]]).first == 3
    start, *rest = responses_stream(["a"])
    beat = sse({"type": "response.in_progress", "response": {}, "sequence_number": 1})
    assert assemble("responses", [start, beat, beat, *rest]).first == 5
    assert assemble("chat", beats).first is None


def responses(*pieces: bytes) -> tuple[JSON, Assembled]:
    found = assemble("responses", pieces)
    assert found.document is not None
    return decode(found.document), found


@pytest.mark.parametrize("name", ["completed", "incomplete", "failed"])
@pytest.mark.parametrize("has_names", [True, False])
def test_last_event_has_the_whole_response(name: str, has_names: bool) -> None:
    response = responses_reply("a", note=1.50, error={"code": "oom"})
    pieces = [
        *responses_stream(["a"])[:-1],
        sse({"type": f"response.{name}", "response": response}),
    ]
    if not has_names:
        pieces = [piece.split(b"\n", 1)[1] for piece in pieces]
    document, found = responses(*pieces)
    assert document == response
    endings = {"completed": "complete", "incomplete": "incomplete", "failed": "error"}
    assert found.ending == endings[name]


@pytest.mark.parametrize("end", [b"", DONE])
def test_events_before_a_whole_response_are_not_read(end: bytes) -> None:
    """What the first content was is known by then, and the last event tells all."""
    *pieces, last = responses_stream(["a", "b"])
    document, found = responses(*pieces, b"data: {\n\n", last[:9], last[9:] + end)
    assert document["output"][0]["content"][0]["text"] == "ab"
    assert (found.ending, found.first) == ("complete", responses(*pieces, last)[1].first)


@pytest.mark.parametrize(
    "change",
    [
        lambda last: last.replace(b"\n", b"\r\n"),
        lambda last: last + b": bye\n\n",
        lambda last: b"id: 7\n" + last,
        lambda last: last.rstrip(b"\n"),
        lambda last: last.replace(b'"output":', b'\ndata: "output":'),
    ],
    ids=["crlf", "comment", "id", "no blank line", "two lines"],
)
def test_last_event_may_be_written_in_other_ways(change: Callable[[bytes], bytes]) -> None:
    *pieces, last = responses_stream(["a", "b"])
    assert responses(*pieces, change(last)) == responses(*pieces, last)


@pytest.mark.parametrize("case", OF_RESPONSES)
def test_responses_stream_is_the_same_however_it_is_cut(case: Case) -> None:
    def outcome(*pieces: bytes) -> object:
        try:
            found = assemble("responses", pieces)
        except UpstreamProtocolError as error:
            return str(error)
        return found.document, found.ending

    stream = case.read(corpus.STREAM)
    cut = outcome(*[stream[i : i + 50] for i in range(0, len(stream), 50)])
    assert cut == outcome(stream)


def test_response_is_kept_as_it_was_written() -> None:
    """Numbers and escapes stay; a line end between members does not."""
    data = b'{"response": {"n":  1.50,\n"big": 1e400, "text": "\\u00e9"}}'
    lines = b"\ndata: ".join(data.split(b"\n"))
    found = assemble("responses", [b"event: response.completed\ndata: " + lines + b"\n\n"])
    assert found.document == b'{"n":1.50,"big":1e400,"text":"\\u00e9"}'


def _cut_stream() -> list[bytes]:
    """Reasoning, a message, a refusal and calls, the last ones under way."""
    begun = responses_reply() | {"status": "in_progress", "output": [], "usage": None}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": []}
    call = {"id": "fc_1", "type": "function_call", "call_id": "a", "name": "f", "arguments": ""}
    custom = {"id": "ct_1", "type": "custom_tool_call", "call_id": "b", "name": "g", "input": ""}
    thought = {"id": "rs_1", "type": "reasoning", "summary": []}
    done = {**thought, "summary": [{"type": "summary_text", "text": "Hm."}]}
    text = {"type": "output_text", "text": "", "annotations": []}
    events: list[JSON] = [
        {"type": "response.created", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": thought},
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "H"},
        {"type": "response.output_item.done", "output_index": 0, "item": done},
        {"type": "response.output_item.added", "output_index": 1, "item": message},
        {"type": "response.content_part.added", "output_index": 1, "part": text},
        *(
            {
                "type": "response.output_text.delta",
                "output_index": 1,
                "content_index": 0,
                "delta": word,
                "logprobs": [{"token": word}],
            }
            for word in ("one ", "two")
        ),
        {
            "type": "response.refusal.delta",
            "output_index": 1,
            "content_index": 1,
            "delta": "No.",
        },
        {"type": "response.output_item.added", "output_index": 2, "item": call},
        {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": '{"n"'},
        {"type": "response.output_item.added", "output_index": 3, "item": custom},
        {"type": "response.custom_tool_call_input.delta", "output_index": 3, "delta": "x"},
        {"type": "response.custom_tool_call_input.delta", "output_index": 3, "delta": "y"},
    ]
    return [sse(event) for event in events]


def test_response_of_a_stream_that_was_cut() -> None:
    document, found = responses(*_cut_stream())
    assert document["id"] == "resp_1"
    assert [item["type"] for item in document["output"]] == [
        *("reasoning", "message", "function_call", "custom_tool_call")
    ]
    thought, message, call, custom = document["output"]
    assert thought["summary"][0]["text"] == "Hm."
    assert message["content"] == [
        {
            "type": "output_text",
            "text": "one two",
            "annotations": [],
            "logprobs": [{"token": "one "}, {"token": "two"}],
        },
        {"refusal": "No."},
    ]
    assert (call["arguments"], custom["input"]) == ('{"n"', "xy")
    assert (found.ending, found.first) == (None, 2)


def test_error_event_ends_a_responses_stream() -> None:
    error = {"type": "error", "code": "oom", "message": "out of memory"}
    document, found = responses(*_cut_stream(), sse(error))
    assert document["error"] == error
    assert document["output"][1]["content"][0]["text"] == "one two"
    assert found.ending == "error"


def test_response_with_a_lone_surrogate_is_read_all_the_same() -> None:
    data = b'{"type": "response.completed", "response": {"output": [], "text": "\\ud83d"}}'
    document, found = responses(b"data: " + data + b"\n\n")
    assert (document, found.ending) == ({"output": [], "text": "\ufffd"}, "complete")


@pytest.mark.parametrize("data", [b"data: {\n\n", b'event: x\ndata: "x"\n\n'])
def test_what_is_no_responses_event(data: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        assemble("responses", [data])
