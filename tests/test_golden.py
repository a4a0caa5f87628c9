"""Every case folder under ``fixtures/``; ``--update-goldens`` rewrites what differs."""

from pathlib import Path

import pytest

from tests import golden
from tests.golden import Case
from translators.sse import Frame, SSEDecoder

CASES = [
    pytest.param(
        case,
        id=case.id,
        marks=[pytest.mark.xfail(reason=case.facts.known_gap)] if case.facts.known_gap else [],
    )
    for case in golden.find_cases()
]
SSE_CASES = [pytest.param(case, id=case.id) for case in golden.find_sse_cases()]


@pytest.fixture
def is_update(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-goldens"))


@pytest.mark.parametrize("case", CASES)
def test_case(case: Case, is_update: bool) -> None:
    outcome = golden.translate(case)
    if is_update and not case.facts.known_gap:
        golden.update(case, outcome)
    else:
        golden.compare(case, outcome)


@pytest.mark.parametrize("case", SSE_CASES)
def test_framing(case: Case, is_update: bool) -> None:
    frames = golden.frames_of(case)
    if is_update:
        (case.folder / "frames.json").write_bytes(golden.pretty(frames))
    assert case.golden("frames.json") == frames


@pytest.mark.parametrize("case", SSE_CASES)
def test_framing_does_not_depend_on_the_pieces(case: Case) -> None:
    stream = case.read("stream.sse")
    decoder = SSEDecoder()
    frames = [frame for byte in stream for frame in decoder.feed(bytes([byte]))]
    frames += decoder.finish()
    assert case.golden("frames.json") == [_as_json(frame) for frame in frames]


def _as_json(frame: Frame) -> dict[str, str | None]:
    return {"event": frame.event, "data": frame.data.decode()}


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"case.toml": "source = 'spec'", "caller.txt": ""}, r"unknown files \['caller.txt'\]"),
        ({"caller.request.json": "{}"}, "case.toml is missing"),
        ({"case.toml": "notes = 'x'"}, "missing required field `source`"),
        ({"case.toml": "source = 'spec'\nsuorce = 'x'"}, "unknown field `suorce`"),
        ({"case.toml": "source = 5"}, "Expected `str`"),
        ({"case.toml": "source"}, "Expected '='"),
    ],
)
def test_a_case_that_breaks_the_grammar(tmp_path: Path, files: dict[str, str], fault: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(golden.BadCase, match=fault):
        golden.load_case(tmp_path, golden.INPUTS | golden.GOLDENS)


def test_a_case_of_the_grammar(tmp_path: Path) -> None:
    (tmp_path / "case.toml").write_text("source = 'spec'\nknown-gap = 'x'\nlosses = ['input']")
    case = golden.load_case(tmp_path, golden.INPUTS)
    assert golden.Facts("spec", losses=["input"], known_gap="x") == case.facts
