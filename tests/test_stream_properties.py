"""What holds for every stream case beside its golden."""

import random
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest

from proxy import corpus, outcomes
from proxy.corpus import Case
from tests import cases
from tests.oracle.responses_stream import check_responses_stream
from tests.oracle.streams import check_stream
from translators.events import fold
from translators.sse import Frame, SSEDecoder
from translators.wire import JSON, decode, decode_object

STREAMS = [pytest.param(case, id=case.id) for case in cases.STREAM_CASES]
RESPONSES = [pytest.param(c, id=c.id) for c in cases.STREAM_CASES if c.caller == "responses"]
REPLAYED = [
    pytest.param(case, id=case.id)
    for case in cases.STREAM_CASES
    if (case.caller, case.upstream) == ("responses", "chat")  # a raw prompt has no earlier turns
]
CUTTINGS = 3
"""How many random ways each stream is cut."""


def run(case: Case, pieces: Iterable[bytes]) -> bytes:
    stream = case.begin().stream()
    return b"".join([stream.feed(piece) for piece in pieces]) + stream.finish()


def cut(body: bytes, rng: random.Random) -> list[bytes]:
    places = sorted(rng.sample(range(len(body) + 1), min(len(body), 12)))
    return [body[a:b] for a, b in pairwise([0, *places, len(body)])]


def line_feeds(stream: bytes) -> bytes:
    return stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def bare(item: JSON) -> JSON:
    """An item as Codex replays it."""
    return {name: value for name, value in item.items() if name not in ("id", "status")}


@pytest.mark.parametrize("case", STREAMS)
def test_output_does_not_depend_on_the_pieces(case: Case) -> None:
    body = case.read(corpus.STREAM)
    whole = run(case, [body])
    assert whole == run(case, (body[i : i + 1] for i in range(len(body))))
    rng = random.Random(case.id)
    for _ in range(CUTTINGS):
        assert whole == run(case, cut(body, rng))


@pytest.mark.parametrize("case", STREAMS)
def test_every_cut_gives_the_same_frames(case: Case) -> None:
    """Only the decoder sees where the stream was cut: all else works on frames."""
    body = case.read(corpus.STREAM)

    def frames(*pieces: bytes) -> list[Frame]:
        decoder = SSEDecoder()
        found = [frame for piece in pieces for frame in decoder.feed(piece)]
        return found + decoder.finish()

    whole = frames(body)
    for place in range(1, len(body)):
        assert whole == frames(body[:place], body[place:])


@pytest.mark.parametrize("case", STREAMS)
def test_output_does_not_depend_on_the_line_ends(case: Case) -> None:
    body = line_feeds(case.read(corpus.STREAM))
    whole = run(case, [body])
    rng = random.Random(case.id)
    for line_end in (b"\r\n", b"\r"):
        other = body.replace(b"\n", line_end)
        assert whole == run(case, [other])
        assert whole == run(case, cut(other, rng))
        assert whole == run(case, (other[i : i + 1] for i in range(len(other))))


@pytest.mark.parametrize("case", STREAMS)
def test_events_are_legal(case: Case) -> None:
    fold(outcomes.read_events(case, case.begin()))


@pytest.mark.parametrize("case", STREAMS)
def test_output_keeps_the_rules(case: Case) -> None:
    check_stream(case, case.golden("caller.stream.sse"))


@pytest.mark.parametrize("case", STREAMS)
def test_a_cut_stream_keeps_the_rules(case: Case) -> None:
    body = case.read(corpus.STREAM)
    rng = random.Random(case.id)
    for end in (0, *(rng.randint(0, len(body)) for _ in range(10))):
        check_stream(case, run(case, [body[:end]]))


@pytest.mark.parametrize("case", RESPONSES)
def test_output_equals_that_of_a_whole_reply(case: Case) -> None:
    """The reply that the folded events give is the stream's terminal response."""
    final = check_responses_stream(case.golden("caller.stream.sse"))
    translation = case.begin()
    response = fold(outcomes.read_events(case, translation))
    if response.error is None:
        assert final == translation.write(response)


@pytest.mark.parametrize("form", [dict, bare], ids=["as-it-is", "bare"])
@pytest.mark.parametrize("case", REPLAYED)
def test_output_is_accepted_as_the_next_input(case: Case, form: Callable[[JSON], JSON]) -> None:
    """A produced ``output``, sent back as ``input``, is the assistant's turn with all it said."""
    output = check_responses_stream(case.golden("caller.stream.sse"))["output"]
    request = decode_object(case.read(corpus.REQUEST))
    before = request["input"]
    if isinstance(before, str):
        before = [{"role": "user", "content": before}]
    first = case.translation().request(request)["messages"]
    results = [
        {"type": result_of(item["type"]), "call_id": item["call_id"], "output": "Done."}
        for item in output
        if "call_id" in item
    ]
    request["input"] = [*before, *(form(item) for item in output), *results]
    turns = case.translation().request(request)["messages"][len(first) :]
    assert len(results) == [turn["role"] for turn in turns].count("tool")
    said, thoughts, calls = said_by([turn for turn in turns if turn["role"] == "assistant"])
    assert [item["call_id"] for item in output if "call_id" in item] == [*calls]
    expected = said_in(output)
    plain = {call_id: calls[call_id] for call_id in expected[2]}
    assert expected == (said, thoughts, plain)


def result_of(call: str) -> str:
    return "tool_search_output" if call == "tool_search_call" else f"{call}_output"


def said_in(output: list[JSON]) -> tuple[str, str, dict[str, str]]:
    """Texts and reasoning without white space, and inputs by call id, of Responses items.

    Built-in tools are left out: their calls have members instead of a text.
    """
    parts = [part for item in output for part in item.get("content", ()) if "content" in item]
    thoughts = [part for item in output for part in item.get("summary", ())]
    raw = [part for part in parts if part["type"] == "reasoning_text"]
    said = [p.get("text", p.get("refusal")) for p in parts if p["type"] != "reasoning_text"]
    calls = {
        item["call_id"]: item.get("input", item.get("arguments"))
        for item in output
        if item["type"] in ("function_call", "custom_tool_call")
    }
    return squeeze(said), squeeze([part["text"] for part in raw or thoughts]), calls


def said_by(turns: list[JSON]) -> tuple[str, str, dict[str, str]]:
    """The same of Chat messages, built-in tools included."""
    calls = {
        call["id"]: unwrap(call["function"]["arguments"])
        for turn in turns
        for call in turn.get("tool_calls", ())
    }
    said = [turn["content"] or "" for turn in turns]
    thoughts = [turn.get("reasoning", turn.get("reasoning_content", "")) for turn in turns]
    return squeeze(said), squeeze(thoughts), calls


def unwrap(arguments: str) -> str:
    """A call's arguments; broken ones and the text of custom tools are sent inside an object."""
    match decode(arguments.encode()):
        case {"_raw": str(text)} | {"input": str(text)}:
            return text
    return arguments


def squeeze(texts: Iterable[str]) -> str:
    return "".join("".join(texts).split())
