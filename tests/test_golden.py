"""Every case folder under ``fixtures/``; ``--update-goldens`` rewrites what differs."""

import pytest

from proxy import corpus, goldens, outcomes
from proxy.corpus import Case
from tests import cases
from translators.sse import Frame, SSEDecoder

CASES = [
    pytest.param(
        case,
        id=case.id,
        marks=[pytest.mark.xfail(reason=case.facts.known_gap)] if case.facts.known_gap else [],
    )
    for case in cases.CASES
]
SSE_CASES = [pytest.param(case, id=case.id) for case in cases.SSE_CASES]


@pytest.fixture
def is_update(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-goldens"))


@pytest.mark.parametrize("case", CASES)
def test_case(case: Case, is_update: bool) -> None:
    outcome = outcomes.translate(case)
    if is_update and not case.facts.known_gap:
        goldens.update(case, outcome)
    else:
        goldens.compare(case, outcome)


@pytest.mark.parametrize("case", SSE_CASES)
def test_framing(case: Case, is_update: bool) -> None:
    frames = outcomes.frames_of(case)
    if is_update:
        (case.folder / corpus.FRAMES).write_bytes(goldens.pretty(frames))
        case = corpus.load_case(case.folder)
    goldens.compare_json(case, corpus.FRAMES, frames)


@pytest.mark.parametrize("case", SSE_CASES)
def test_framing_does_not_depend_on_the_pieces(case: Case) -> None:
    stream = case.read(corpus.FRAMED)
    decoder = SSEDecoder()
    frames = [frame for byte in stream for frame in decoder.feed(bytes([byte]))]
    frames += decoder.finish()
    assert case.golden(corpus.FRAMES) == [_as_json(frame) for frame in frames]


def _as_json(frame: Frame) -> dict[str, str | None]:
    return {"event": frame.event, "data": frame.data.decode()}
