"""Vendor members of requests that mean something to a translation."""

import pytest

from translators.vendor import wants_json
from translators.wire import JSON


@pytest.mark.parametrize(
    ("outputs", "wanted"),
    [
        ({"json": {"type": "object"}}, True),
        ({"json": '{"type": "object"}'}, True),
        ({"json_object": True}, True),
        ({"json_object": False}, False),
        ({"json": None, "regex": "a+"}, False),
        ({"choice": ["a", "b"]}, False),
        (["json"], False),
        (None, False),
    ],
)
def test_structured_outputs_may_ask_for_json(outputs: JSON, wanted: bool) -> None:
    assert wants_json({"structured_outputs": outputs}) == wanted
    assert not wants_json({"structured": outputs})
