"""What ten model names, three replicas and captures add to the CPU time of a request.

Run ``python -m benchmarks.added [--rounds N] [--pairs N]``. Of two processes of the same code one
costs a few percent more than the other, and a second on a shared machine half as much again as the
next. So there are several pairs of a plain server and one that has all three, they are loaded in
turn for short times, and medians are compared.

Here all processes share one core. On another one load and upstream would work at the same time as
the server or not, as it happens; where two cores are two threads of one, as in many virtual
machines, that slows the server by a half and more.
"""

import argparse
import contextlib
import random
import statistics
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

from benchmarks import machine
from benchmarks.run import DELTAS, SINGLE_PER_S, Load, Loaded, Row, loaded
from benchmarks.servers import ALIAS, Running, running
from benchmarks.tables import Figure, markdown_table, number

CONNECTIONS: Final = 32
LIMIT_PERCENT: Final = 10
_SAMPLE_S: Final = 0.5
_SETTLE_S: Final = 1.5
"""Captures are written up to 0.2 s, and brought to the disk up to 1.2 s, after a reply."""

_ROLLOUTS: Final = 512
"""So many that hardly two calls that are written together are of one rollout."""

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
    rollouts: int = 0
    """How many take turns; 0: each connection is one."""

    def row(self, *, is_full: bool) -> Row:
        """How the servers are asked."""
        if not is_full:
            return Row(self.title, self.plain, self.dialect)
        prefix = "/ng-rollout/benchmark-{}"
        return Row(self.title, _FULL, self.dialect, prefix=prefix, alias=ALIAS, paths=self.rollouts)


def _load(model: str, size: str) -> Load:
    return Load("request", CONNECTIONS, model, size)


_TRANSLATED: Final = "Responses over Chat"
_WITH_TOKENS: Final = "256 tokens with ids and log-probs out"

CASES: Final = (
    *(
        Case(f"{_TRANSLATED}, {size} in", "responses", _load("whole", size))
        for size in ("1 KB", "4 KB", "32 KB")
    ),
    Case(
        f"{_TRANSLATED}, 4 KB in, {_ROLLOUTS} rollouts",
        "responses",
        _load("whole", "4 KB"),
        rollouts=_ROLLOUTS,
    ),
    *(
        Case(title, "responses", _load(_TOKENS, "4 KB"), "dragoman-named", rollouts)
        for title, rollouts in (
            (f"{_TRANSLATED}, 4 KB in, {_WITH_TOKENS}", 0),
            (f"{_TRANSLATED}, 4 KB in, {_WITH_TOKENS}, {_ROLLOUTS} rollouts", _ROLLOUTS),
        )
    ),
    Case(
        f"{_TRANSLATED}, 4 KB in, stream of {DELTAS} single chunks",
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

    @property
    def percent(self) -> float:
        """How much more a request costs."""
        return 100 * (self.full_us / self.plain_us - 1)


class Added(NamedTuple):
    """What was measured of one case, by each pair of processes."""

    case: Case
    pairs: Sequence[Pair]

    @property
    def mean(self) -> Pair:
        """Both costs, the mean of the pairs."""
        return Pair(*map(statistics.mean, zip(*self.pairs, strict=True)))

    @property
    def span(self) -> tuple[float, float]:
        """The least and the largest share that a pair shows."""
        shares = [pair.percent for pair in self.pairs]
        return min(shares), max(shares)

    def goal(self) -> Figure:
        """The share, beside what was aimed at."""
        title = f"names, replicas, captures: {self.case.title}"
        return Figure(title, self.mean.percent, "% more CPU", LIMIT_PERCENT)


def measure(cases: Sequence[Case] = CASES, *, pairs: int = 3, rounds: int = 8) -> list[Added]:
    """Measure one case after the other.

    Args:
        cases: What is asked.
        pairs: How many processes of each kind take part.
        rounds: How many samples of each are taken.

    Raises:
        machine.StartError: A server did not start, or replies were wrong.
    """
    found = []
    upstream, upstream_port = machine.start_upstream(machine.PROXY_CORE)
    try:
        for case in cases:
            print(case.title, file=sys.stderr)
            with contextlib.ExitStack() as stack:
                sides = [_start_pair(stack, case, upstream_port) for _ in range(pairs)]
                found.append(Added(case, _compare(case, sides, rounds)))
    finally:
        machine.stop(upstream)
    return found


class _Side(NamedTuple):
    """A server and its load."""

    server: Running
    load: Loaded
    settle_s: float


def _start_pair(stack: contextlib.ExitStack, case: Case, upstream_port: int) -> list[_Side]:
    """A plain server and one that has all three, with their loads."""
    models = sorted({"whole", case.load.model})
    servers = stack.enter_context(running([case.plain, _FULL], upstream_port, models))
    sides = []
    for is_full in (False, True):
        row = case.row(is_full=is_full)
        assert row.server is not None
        server = servers[row.server]
        load = loaded(server.port, row, case.load, _SAMPLE_S, core=machine.PROXY_CORE)
        sides.append(_Side(server, stack.enter_context(load), _SETTLE_S if is_full else 0.0))
    return sides


def _compare(case: Case, pairs: Sequence[Sequence[_Side]], rounds: int) -> list[Pair]:
    """The median costs of each pair; in every round all sides are loaded, in any order."""
    sides = [side for pair in pairs for side in pair]
    taken: dict[_Side, list[float]] = {side: [] for side in sides}
    for side in sides:  # once around, so that the files of all rollouts are there
        side.load.sample(side.server.pid, side.settle_s)
    for _ in range(rounds):
        for side in random.sample(sides, len(sides)):
            one = side.load.sample(side.server.pid, side.settle_s)
            assert one.cpu_us is not None
            taken[side].append(one.cpu_us * case.load.units)
    return [Pair(*(statistics.median(taken[side]) for side in pair)) for pair in pairs]


NOTES: Final = """\
CPU us per request, {connections} connections, each a rollout of its own where nothing else is said.
Means of {pairs} pairs of processes, each the median of its samples. What the process writes and
syncs after the last reply counts. *Pairs*: the least and the largest share that a pair shows."""


def report(found: Sequence[Added]) -> str:
    """The table and how it came about."""
    lines = []
    for added in found:
        low, high = added.span
        shares = [f"{added.mean.percent:.1f} %", f"{low:.1f} to {high:.1f} %"]
        lines.append([added.case.title, *map(number, added.mean), *shares])
    table = markdown_table(["", "without", "with all three", "added", "pairs"], lines)
    return f"{table}\n\n{NOTES.format(connections=CONNECTIONS, pairs=len(found[0].pairs))}"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.added", description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=3, help="processes of each kind")
    parser.add_argument("--only", default="", help="cases whose title contains this")
    args = parser.parse_args()
    cases = [case for case in CASES if args.only.lower() in case.title.lower()]
    return machine.show(lambda: report(measure(cases, pairs=args.pairs, rounds=args.rounds)))


if __name__ == "__main__":
    sys.exit(main())
