"""Figures and the tables they are printed in."""

from collections.abc import Sequence
from typing import NamedTuple


class Figure(NamedTuple):
    """Something measured, and what was aimed at."""

    title: str
    value: float | None
    """``None``: it could not be measured."""
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    nginx: float | None = None
    """What nginx needs for the same."""

    @property
    def is_goal(self) -> bool:
        """Whether something was aimed at."""
        return self.at_most is not None or self.at_least is not None

    def shown(self) -> str:
        """The value with its unit."""
        return "-" if self.value is None else f"{number(self.value)} {self.unit}"

    def verdict(self) -> str:
        """Whether it is as was aimed at."""
        if self.value is None:
            return "not measured"
        missed = (self.at_most is not None and self.value > self.at_most) or (
            self.at_least is not None and self.value < self.at_least
        )
        return "missed" if missed else "reached"


def number(value: float) -> str:
    """A number with about three digits."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 2 else f"{value:.2f}"


def goals_table(figures: Sequence[Figure]) -> str:
    """What was aimed at beside what was measured."""
    lines = []
    for figure in figures:
        if figure.is_goal:
            limit = [f"at most {figure.at_most:g}"] if figure.at_most is not None else []
            limit += [f"at least {figure.at_least:g}"] if figure.at_least is not None else []
            nginx = "" if figure.nginx is None else number(figure.nginx)
            lines.append([figure.title, " ".join(limit), figure.shown(), nginx, figure.verdict()])
    return markdown_table(["goal", "limit", "measured", "nginx", "verdict"], lines)


def figures_table(figures: Sequence[Figure]) -> str:
    """A line for each figure."""
    return markdown_table(["what", "figure"], [[f.title, f.shown()] for f in figures])


def markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, readable as plain text."""
    widths = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join([first, *rest])} |"

    rule = (
        f"|{'|'.join([':' + '-' * (widths[0] + 1), *('-' * (w + 1) + ':' for w in widths[1:])])}|"
    )
    return "\n".join([line(head), rule, *map(line, lines)])
