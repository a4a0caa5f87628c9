"""What translations cost, in Python instructions, and that it grows with their size only."""

import json

import pytest

from benchmarks import counts


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
