"""The corpus under ``fixtures/``, read once for all tests."""

from pathlib import Path
from typing import Final

from proxy.corpus import Case, find_cases, find_sse_cases

FIXTURES: Final = Path(__file__).parent.parent / "fixtures"
CASES: Final[list[Case]] = list(find_cases(FIXTURES))
SSE_CASES: Final[list[Case]] = list(find_sse_cases(FIXTURES))
STREAM_CASES: Final[list[Case]] = [
    case for case in CASES if case.has_stream and not case.facts.known_gap
]
