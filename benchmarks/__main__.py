"""Every measurement, and what was aimed at beside it.

Run ``python -m benchmarks [--quick] [--write]``; ``benchmarks/README.md`` says how to read it.
"""

import argparse
import sys
from typing import Final

from benchmarks import added, beside_vllm, delay, limits, machine, run, workers
from benchmarks.replies import WrongReplyError
from benchmarks.tables import figures_table, goals_table
from tests.extras.cache import Unavailable

RESULTS: Final = machine.ROOT / "benchmarks" / "RESULTS.md"
CHART: Final = RESULTS.with_name("results.svg")
PACKAGES: Final = ("uvloop", "uvicorn", "httptools", "litestar", "httpx", "msgspec")


def main() -> int:
    """Measure and print; with ``--write`` also keep it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="All measurements.")
    parser.add_argument("--quick", action="store_true", help="the most important in a minute")
    parser.add_argument("--write", action="store_true", help="replace benchmarks/RESULTS.md")
    args = parser.parse_args()
    parts: dict[str, str] = {}

    def keep(title: str, part: str) -> None:
        parts[title] = f"## {title}\n\n{part}"
        print(parts[title], end="\n\n", flush=True)

    try:
        costs = _costs(quick=args.quick)
        keep("Cost", run.report(costs))
        delays = delay.measure(quick=args.quick)
        keep("First byte", delay.report(delays))
        limited = limits.measure(quick=args.quick)
        keep("Limits", figures_table(limited))
        goals = [*costs.goals(), *delays.goals(), *limited]
        if not args.quick:
            shared = workers.measure(workers.UNLIMITED, rounds=6)
            keep("Workers", workers.report(shared))
            goals += shared.goals()
            three = added.measure()
            keep("What names, replicas and captures add", added.report(three))
            goals += [one.goal() for one in three]
            keep("Beside vLLM's own Responses", _beside_vllm())
    except (machine.StartError, WrongReplyError) as exc:
        print(f"stopped: {exc}", file=sys.stderr)
        return 1
    keep("Goals", goals_table(goals))
    if args.write:
        command = f"python -m benchmarks {' '.join(sys.argv[1:])}"
        facts = "\n".join(f"- {name}: {value}" for name, value in machine.describe(PACKAGES))
        RESULTS.write_text(
            f"# Results\n\n![CPU time per request and chunk]({CHART.name})\n\n"
            f"Made by `{command}`. How to read it: `benchmarks/README.md`.\n\n{facts}\n\n"
            + "\n\n".join([parts.pop("Goals"), *parts.values(), ""])
        )
        CHART.write_text(run.chart(costs))
    return 0


def _costs(*, quick: bool) -> run.Results:
    """CPU time: all of it, or of some rows at the fewest connections."""
    if quick:
        rows = [row for row in run.ROWS if row.quick]
        return run.measure(rows, run.loads_at(run.CONNECTIONS[:1]), rounds=1, seconds=0.7)
    return run.measure(run.ROWS, run.loads_at(run.CONNECTIONS))


def _beside_vllm() -> str:
    try:
        return beside_vllm.report()
    except Unavailable as exc:
        return f"Left out: {exc}."


if __name__ == "__main__":
    sys.exit(main())
