"""Random ids are of one form, and never the same."""

import re

from proxy.ids import random_hex, random_id


def test_ids_differ_beyond_what_is_drawn_at_once() -> None:
    found = [random_hex() for _ in range(1000)]
    assert len(set(found)) == 1000
    assert all(re.fullmatch("[0-9a-f]{32}", digits) for digits in found)


def test_ids_have_their_prefix() -> None:
    assert re.fullmatch("resp_[0-9a-f]{32}", random_id("resp"))
