"""Every measurement, and what was aimed at beside it.

Run ``python -m benchmarks [--quick] [--write]``; ``benchmarks/README.md`` says how to read it.
"""

import argparse
import sys
from typing import Final

from benchmarks import beside_vllm, delay, limits, machine, run
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
    try:
        costs = _costs(quick=args.quick)
        delays = delay.measure(quick=args.quick)
        limited = limits.measure(quick=args.quick)
    except machine.StartError as exc:
        print(f"stopped: {exc}", file=sys.stderr)
        return 1
    parts = {
        "Goals": goals_table([*costs.goals(), *delays.goals(), *limited]),
        "Cost": run.report(costs),
        "First byte": delay.report(delays),
        "Limits": figures_table(limited),
    }
    if not args.quick:
        try:
            parts["Beside vLLM's own Responses"] = beside_vllm.report()
        except (Unavailable, machine.StartError) as exc:
            print(f"left out: vLLM: {exc}", file=sys.stderr)
    text = "\n\n".join(f"## {title}\n\n{part}" for title, part in parts.items())
    print(text)
    if args.write:
        command = f"python -m benchmarks {' '.join(sys.argv[1:])}"
        facts = "\n".join(f"- {name}: {value}" for name, value in machine.describe(PACKAGES))
        RESULTS.write_text(
            f"# Results\n\n![CPU time per request and chunk]({CHART.name})\n\n"
            f"Made by `{command}`. How to read it: `benchmarks/README.md`.\n\n{facts}\n\n{text}\n"
        )
        CHART.write_text(run.chart(costs))
    return 0


def _costs(*, quick: bool) -> run.Results:
    """CPU time: all of it, or of some rows at the fewest connections."""
    if quick:
        rows = [row for row in run.ROWS if row.quick]
        return run.measure(rows, run.loads_at(run.CONNECTIONS[:1]), rounds=1, seconds=0.7)
    return run.measure(run.ROWS, run.loads_at(run.CONNECTIONS))


if __name__ == "__main__":
    sys.exit(main())
