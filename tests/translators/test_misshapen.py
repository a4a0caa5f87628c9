"""Bodies with a member missing or of another type are refused, and nothing else happens."""

import copy
import random

import pytest

from proxy import corpus
from proxy.corpus import Case
from tests import cases
from tests.oracle.streams import check_stream
from translators.errors import TranslationError
from translators.sse import Frame, SSEDecoder, encode_frame
from translators.wire import JSON, decode, encode

CASES = [pytest.param(c, id=c.id) for c in cases.CASES]
REPLIES = [pytest.param(c, id=c.id) for c in cases.CASES if corpus.REPLY in c.files]
STREAMS = [pytest.param(c, id=c.id) for c in cases.CASES if c.has_stream]
VALUES: list[JSON] = [None, 5, -1, 1.5, True, "", "x", [], [1], ["x"], [None], [{}], {}, {"a": 1}]
TRIES = 6
GIVEN = ("logprobs", "annotations")
"""What is passed on as it is."""


def places(value: JSON) -> list[tuple[JSON, JSON]]:
    """Every container in a document with every key or index in it."""
    steps = value.items() if isinstance(value, dict) else enumerate(value)
    found: list[tuple[JSON, JSON]] = []
    for key, inner in steps:
        found.append((value, key))
        if isinstance(inner, dict | list) and key not in GIVEN:
            found += places(inner)
    return found


def misshape(document: JSON, rng: random.Random) -> JSON:
    document = copy.deepcopy(document)
    container, key = rng.choice(places(document) or [({}, "x")])
    if isinstance(container, dict) and rng.random() < 0.2:
        container.pop(key, None)
    else:
        container[key] = copy.deepcopy(rng.choice(VALUES))
    return document


@pytest.mark.parametrize("case", CASES)
def test_request(case: Case) -> None:
    rng = random.Random(case.id)
    body = decode(case.read(corpus.REQUEST))
    for _ in range(TRIES):
        try:
            encode(case.translation().request(misshape(body, rng)))
        except TranslationError as error:
            assert error.message


@pytest.mark.parametrize("case", REPLIES)
def test_reply(case: Case) -> None:
    rng = random.Random(case.id)
    body = decode(case.read(corpus.REPLY))
    for _ in range(TRIES if body else 0):
        try:
            encode(case.begin().reply(misshape(body, rng)))
        except TranslationError as error:
            assert error.status == 502


@pytest.mark.parametrize("case", STREAMS)
def test_stream(case: Case) -> None:
    rng = random.Random(case.id)
    decoder = SSEDecoder()
    frames = decoder.feed(case.read(corpus.STREAM)) + decoder.finish()
    readable = [i for i, frame in enumerate(frames) if frame.data[:1] == b"{"]
    for _ in range(TRIES if readable else 0):
        changed = [*frames]
        i = rng.choice(readable)
        try:
            body = misshape(decode(frames[i].data), rng)
        except TranslationError:
            continue
        changed[i] = Frame(frames[i].event, encode(body))
        stream = case.begin().stream()
        out = (
            stream.feed(b"".join(encode_frame(frame.event, frame.data) for frame in changed))
            + stream.finish()
        )
        assert stream.is_over
        check_stream(case, out)
