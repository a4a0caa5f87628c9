"""Figures and the tables they are printed in."""

from collections.abc import Sequence
from typing import NamedTuple


class Figure(NamedTuple):
    """Something measured; its title names it among all that were."""

    title: str
    value: float
    unit: str

    def shown(self) -> str:
        """The value with its unit."""
        return f"{number(self.value)} {self.unit}".strip()


def number(value: float) -> str:
    """A number with about three digits."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 2 else f"{value:.2f}"


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
