"""Judge the mutants of the translators; list the survivors; fail if they are many."""

import argparse
import importlib
import os
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tests.mutants.mutate import Module, Mutant, mutants_of
from tests.mutants.run import PACKAGE, Verdict, judge

WITHOUT_BEHAVIOUR = ("schema.py",)
"""Files of declarations, which other tests hold against the official SDK."""
HEAVY = ("openai.types.chat", "openai.types.responses", "litestar", "httpx")
"""What tests import and mutants do not touch: imported once, before the processes part."""


def choose(mutants: list[Mutant], number: int, seed: int) -> list[Mutant]:
    """A sample, in which each module has its share; all if ``number`` is 0."""
    if not 0 < number < len(mutants):
        return mutants
    dice = random.Random(seed)
    chosen = []
    for group in by_module(mutants).values():
        share = max(1, round(number * len(group) / len(mutants)))
        chosen += dice.sample(group, min(share, len(group)))
    return chosen


def by_module(mutants: Sequence[Mutant]) -> dict[Path, list[Mutant]]:
    """Mutants by the file they are in."""
    groups: dict[Path, list[Mutant]] = defaultdict(list)
    for mutant in mutants:
        groups[mutant.module.path].append(mutant)
    return groups


def report(mutants: Sequence[Mutant], survivors: Sequence[Mutant]) -> str:
    """Survivors one by one, and figures by module."""
    lines = [str(mutant) for mutant in survivors]
    alive = by_module(survivors)
    lines += ["", f"{'module':<36}{'mutants':>8}{'alive':>8}"]
    for path, group in by_module(mutants).items():
        lines.append(_row(str(path), len(group), len(alive.get(path, []))))
    lines.append(_row("all", len(mutants), len(survivors)))
    return "\n".join(lines) + "\n"


def _row(name: str, number: int, alive: int) -> str:
    return f"{name:<36}{number:>8}{alive:>8}{alive / number:>8.1%}"


def main() -> int:
    """Judge; 1 if more survive than allowed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, help="modules; all if none is named")
    parser.add_argument("--sample", type=int, default=0, help="how many mutants; all if 0")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=float, default=15, help="survivors allowed, per cent")
    options = parser.parse_args()

    paths = options.paths or sorted(
        path for path in PACKAGE.rglob("*.py") if path.name not in WITHOUT_BEHAVIOUR
    )
    mutants = [mutant for path in paths for mutant in mutants_of(Module.load(path))]
    mutants = choose(mutants, options.sample, options.seed)
    sys.stderr.write(f"{len(mutants)} mutants\n")
    for name in HEAVY:
        importlib.import_module(name)
    verdicts = dict(judge(mutants, options.workers))
    survivors = [m for i, m in enumerate(mutants) if verdicts[i] is Verdict.SURVIVED]
    sys.stdout.write(report(mutants, survivors))
    return int(100 * len(survivors) > options.limit * len(mutants))


if __name__ == "__main__":
    sys.exit(main())
