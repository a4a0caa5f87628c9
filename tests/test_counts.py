"""What translations cost, in Python instructions, and that it grows with their size only."""

import json

import pytest

from benchmarks import counts
from translators.translation import Translation
from translators.wire import JSON


def test_translations_cost_what_they_did() -> None:
    """More than a tenth above the committed counts is a regression: ``benchmarks/counts.py``."""
    committed = json.loads(counts.PATH.read_text()).get(counts.VERSION)
    found = counts.measure()
    if committed is None:  # another Python: the test below still holds
        assert found
        return
    slower = {name: n for name, n in found.items() if n > committed[name] * counts.TOLERANCE}
    assert not slower, f"committed: {committed}; new ones: python -m benchmarks.counts --write"


@pytest.mark.parametrize(("caller", "upstream"), counts.PAIRS)
def test_long_streams_cost_no_more_per_chunk(caller: str, upstream: str) -> None:
    counted = [counts.count_stream(caller, upstream, deltas) for deltas in (0, 150, 1000)]
    none, some, many = counted
    assert (many - none) / 1000 <= (some - none) / 150 * 1.05


@pytest.mark.parametrize(("caller", "upstream"), counts.PAIRS)
def test_long_conversations_cost_no_more_per_turn(caller: str, upstream: str) -> None:
    """A call's result is brought to its call without a search through all that was said."""
    none, some, many = (count_turns(caller, upstream, turns) for turns in (0, 20, 200))
    assert (many - none) / 200 <= (some - none) / 20 * 1.05


def count_turns(caller: str, upstream: str, turns: int) -> int:
    """Instructions of a request whose conversation has so many calls with their results."""
    said: list[JSON] = [{"role": "user", "content": "Hi"}]
    for i in range(turns):
        call_id, function = f"call_{i}", {"name": "look", "arguments": "{}"}
        if caller == "chat":
            call = {"id": call_id, "type": "function", "function": function}
            said.append({"role": "assistant", "tool_calls": [call]})
            said.append({"role": "tool", "tool_call_id": call_id, "content": "x"})
        else:
            said.append({"type": "function_call", "call_id": call_id, **function})
            said.append({"type": "function_call_output", "call_id": call_id, "output": "x"})
    body = {"model": "m", "messages" if caller == "chat" else "input": said}

    def work() -> None:
        Translation.between(caller, upstream).request(body)

    work()  # some things are made at their first use
    return counts.count(work)
