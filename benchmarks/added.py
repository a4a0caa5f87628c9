"""What ten model names, three replicas and captures add to the CPU time of a request.

Run ``python -m benchmarks.added [--rounds N] [--pairs N]``. Of two processes of the same code one
costs a few percent more than the other, and a minute on a shared machine half as much again as the
next. So there are several pairs of a plain server and one that has all three; both of a pair are
loaded one after the other, and only what one is beside the other counts.
"""

import argparse
import contextlib
import random
import statistics
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

from benchmarks import machine
from benchmarks.run import DELTAS, SINGLE_PER_S, Load, Row, sample
from benchmarks.servers import ALIAS, Running, running
from benchmarks.tables import Figure, markdown_table, number

CONNECTIONS: Final = 32
LIMIT_PERCENT: Final = 10
_SETTLE_S: Final = 1.5
"""Captures are written up to 0.2 s, and brought to the disk up to 1.2 s, after a reply."""

_TOKENS: Final = "tokens-256"
_STREAM: Final = f"stream-{DELTAS}-{1000 * CONNECTIONS // SINGLE_PER_S}ms"
_FULL: Final = "dragoman-full"


class Case(NamedTuple):
    """A kind of request."""

    title: str
    dialect: str
    load: Load
    plain: str = "dragoman-chat"
    """The server without the three."""

    def row(self, *, is_full: bool) -> Row:
        """How the servers are asked."""
        row = Row(self.title, self.plain, self.dialect, settle_s=_SETTLE_S)
        if not is_full:
            return row
        return row._replace(server=_FULL, prefix="/ng-rollout/benchmark-{}", alias=ALIAS)


def _load(model: str, size: str) -> Load:
    return Load("request", CONNECTIONS, model, size)


CASES: Final = (
    *(
        Case(f"Responses over Chat, {size} in", "responses", _load("whole", size))
        for size in ("1 KB", "4 KB", "32 KB")
    ),
    Case(
        "Responses over Chat, 4 KB in, 256 tokens with ids and log-probs out",
        "responses",
        _load(_TOKENS, "4 KB"),
        "dragoman-named",
    ),
    Case(
        f"Responses over Chat, 4 KB in, stream of {DELTAS} single chunks",
        "responses",
        _load(_STREAM, "4 KB"),
    ),
    *(
        Case(f"Chat on Chat (relayed), {size} in", "chat", _load("whole", size))
        for size in ("4 KB", "32 KB")
    ),
)


class Pair(NamedTuple):
    """CPU time of a request in microseconds, without the three and with them."""

    plain_us: float
    full_us: float


class Added(NamedTuple):
    """What was measured of one case, pair by pair of samples."""

    case: Case
    pairs: Sequence[Pair]

    @property
    def percent(self) -> float:
        """How much more a request costs: the median of the pairs."""
        return statistics.median(self._percents())

    @property
    def middle(self) -> tuple[float, float]:
        """Between which shares the middle half of the pairs lies."""
        shares = self._percents()
        low, _, high = statistics.quantiles(shares if len(shares) > 1 else shares * 2, n=4)
        return low, high

    def _percents(self) -> list[float]:
        return [100 * (pair.full_us / pair.plain_us - 1) for pair in self.pairs]

    def goal(self) -> Figure:
        """The share, beside what was aimed at."""
        title = f"names, replicas, captures: {self.case.title}"
        return Figure(title, self.percent, "% more CPU", LIMIT_PERCENT)


def measure(
    cases: Sequence[Case] = CASES, *, pairs: int = 2, rounds: int = 4, seconds: float = 1.0
) -> list[Added]:
    """Measure all cases in turns.

    Args:
        cases: What is asked.
        pairs: How many servers of each kind take part.
        rounds: How often each of them is measured.
        seconds: How long requests are started in each sample.

    Raises:
        machine.StartError: A server did not start, or replies were wrong.
    """
    names = [*dict.fromkeys(case.plain for case in cases), _FULL]
    models = list(dict.fromkeys(["whole", *(case.load.model for case in cases)]))
    found: dict[Case, list[Pair]] = {case: [] for case in cases}
    upstream, upstream_port = machine.start_upstream()
    try:
        with contextlib.ExitStack() as stack:
            started = [
                stack.enter_context(running(names, upstream_port, models)) for _ in range(pairs)
            ]
            for turn in range(rounds):
                for case in cases:
                    print(f"round {turn + 1} of {rounds}: {case.title}", file=sys.stderr)
                    found[case] += [_take(case, servers, seconds) for servers in started]
    finally:
        machine.stop(upstream)
    return [Added(case, pairs) for case, pairs in found.items()]


def _take(case: Case, servers: dict[str, Running], seconds: float) -> Pair:
    """One sample of each server, in any order."""
    order = [False, True]
    random.shuffle(order)
    units = DELTAS if case.load.streams else 1
    us = {}
    for is_full in order:
        row = case.row(is_full=is_full)
        assert row.server is not None
        server = servers[row.server]
        taken = sample(server.port, server.pid, row, case.load, seconds)
        assert taken.cpu_us is not None
        us[is_full] = taken.cpu_us * units
    return Pair(us[False], us[True])


NOTES: Final = """\
CPU us per request, {connections} connections, each a rollout of its own; medians of {samples}
pairs of samples. What is written and synced after the last reply counts.
*Middle half*: between which shares the middle half of the pairs of samples lies."""


def report(found: Sequence[Added]) -> str:
    """The table and how it came about."""
    lines = []
    for added in found:
        plain = statistics.median(pair.plain_us for pair in added.pairs)
        full = statistics.median(pair.full_us for pair in added.pairs)
        low, high = added.middle
        shares = [f"{added.percent:.1f} %", f"{low:.1f} to {high:.1f} %"]
        lines.append([added.case.title, number(plain), number(full), *shares])
    table = markdown_table(["", "without", "with all three", "added", "middle half"], lines)
    samples = len(found[0].pairs)
    return f"{table}\n\n{NOTES.format(connections=CONNECTIONS, samples=samples)}"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.added", description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=2, help="processes of each kind")
    parser.add_argument("--only", default="", help="cases whose title contains this")
    args = parser.parse_args()
    cases = [case for case in CASES if args.only.lower() in case.title.lower()]
    try:
        found = measure(cases, pairs=args.pairs, rounds=args.rounds)
    except machine.StartError as exc:
        print(f"stopped: {exc}", file=sys.stderr)
        return 1
    print(report(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
