"""The parts of the benchmarks that decide what a figure is worth."""

import json

import pytest

from benchmarks.added import CASES, Added, Pair
from benchmarks.replies import ReplyReader, WrongReplyError, check
from benchmarks.requests import SIZES, request_body
from benchmarks.run import GOALS, ROWS, loads_at
from benchmarks.tables import Figure, goals_table
from benchmarks.upstream import stream_writes, whole_reply
from translators.translation import Translation


@pytest.mark.parametrize("size", SIZES)
def test_requests_ask_the_same_in_both_dialects(size: str) -> None:
    asked = json.loads(request_body("responses", "stream-100", size))
    sent = Translation.between("responses", "chat").request(asked)
    chat = json.loads(request_body("chat", "stream-100", size))
    chat["max_completion_tokens"] = chat.pop("max_tokens")  # the newer name
    assert sorted(sent) == sorted(chat)
    assert sent["messages"][-1]["content"] == chat["messages"][-1]["content"]


@pytest.mark.parametrize(
    ("size", "bytes_at_most"), [("1 KB", 1200), ("4 KB", 4200), ("32 KB", 32768)]
)
def test_requests_are_as_large_as_their_column_says(size: str, bytes_at_most: int) -> None:
    for dialect in ("chat", "responses"):
        assert 0.9 * bytes_at_most < len(request_body(dialect, "whole", size)) < bytes_at_most


@pytest.mark.parametrize("dialect", ["chat", "responses"])
def test_replies_are_read_in_any_cut(dialect: str) -> None:
    writes, _ = stream_writes(dialect, "stream-20", include_usage=True)
    stream = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"".join(writes)
    for reply, model in ((whole_reply(dialect, "whole"), "whole"), (stream, "stream-20")):
        reader = ReplyReader()
        ends = [reader.feed(reply[i : i + 1]) for i in range(len(reply))]
        assert ends.index(True) == len(reply) - 1
        check(dialect, reader.take(), model)


@pytest.mark.parametrize("dialect", ["chat", "responses"])
def test_a_stream_without_one_of_its_deltas_is_wrong(dialect: str) -> None:
    writes, _ = stream_writes(dialect, "stream-20", include_usage=True)
    with pytest.raises(WrongReplyError, match="of 180 characters"):
        check(dialect, b"".join([*writes[:5], *writes[6:]]), "stream-20")


def test_a_reply_without_its_token_ids_is_wrong() -> None:
    reader = ReplyReader()
    assert reader.feed(whole_reply("chat", "tokens-4"))  # beside the message, not on it
    with pytest.raises(WrongReplyError, match="token ids"):
        check("chat", reader.take(), "tokens-4")


def test_what_is_added_is_the_mean_of_the_pairs() -> None:
    added = Added(CASES[0], [Pair(100, 108), Pair(104, 113), Pair(96, 106)])
    assert added.mean == Pair(100, 109)
    assert added.span == pytest.approx((8, 10.42), abs=0.01)
    assert added.goal().verdict() == "reached"
    assert Added(CASES[0], [Pair(100, 111)]).goal().verdict() == "missed"


def test_a_goal_that_was_not_measured_is_not_reached() -> None:
    figures = [
        Figure("fast", 299.0, "us", at_most=300),
        Figure("slow", 301.0, "us", at_most=300),
        Figure("twice", 1.7, "times", at_least=1.8),
        Figure("joined", None, "us", at_most=30),
        Figure("aside", 5.0, "s"),
    ]
    verdicts = [line.split("|")[-2].strip() for line in goals_table(figures).splitlines()[2:]]
    assert verdicts == ["reached", "missed", "missed", "not measured"]


def test_goals_are_of_rows_and_loads_that_exist() -> None:
    units = {load.unit for load in loads_at([32])}
    assert set(GOALS) <= {row.title for row in ROWS}
    assert all(set(limits) <= units for limits in GOALS.values())
