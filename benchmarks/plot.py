"""A bar chart as SVG: a group for each load, a bar for each row, on a logarithmic scale."""

import itertools
import math
from collections.abc import Sequence
from html import escape
from typing import Final

_BAR: Final = 16
_GAP: Final = 26
_LEFT: Final = 290
_WIDTH: Final = 520
_COLOURS: Final = ("#9aa0a6", "#1a73e8", "#188038", "#e37400", "#a142f4", "#d93025", "#007b83")


def bar_chart(
    title: str, groups: Sequence[str], rows: Sequence[tuple[str, Sequence[float | None]]]
) -> str:
    """The chart; each row has a value above 0, or none, for each group."""
    values = [value for _, cells in rows for value in cells if value is not None]
    low = 10 ** math.floor(math.log10(min(values)))
    decades = math.log10(max(values) / low)
    lines = []
    y = 40
    for number, group in enumerate(groups):
        lines.append(_text(10, y + 4, escape(group), "font-weight='bold'"))
        y += 10
        for colour, (name, cells) in zip(itertools.cycle(_COLOURS), rows, strict=False):
            value = cells[number]
            if value is None:
                continue
            width = max(1.0, _WIDTH * math.log10(value / low) / decades)
            shape = f"x='{_LEFT}' y='{y}' width='{width:.1f}' height='{_BAR - 3}'"
            lines.append(f"<rect {shape} fill='{colour}'/>")
            lines.append(_text(_LEFT - 6, y + 11, escape(name), "text-anchor='end'"))
            label = f"{value:.1f}" if value < 100 else f"{value:.0f}"
            lines.append(_text(_LEFT + width + 5, y + 11, label))
            y += _BAR
        y += _GAP
    size = f"width='{_LEFT + _WIDTH + 70}' height='{y}'"
    font = "font-family='sans-serif' font-size='12'"
    head = f"<svg xmlns='http://www.w3.org/2000/svg' {size} {font}>"
    back = "<rect width='100%' height='100%' fill='white'/>"
    heading = _text(10, 20, escape(title), "font-size='14'")
    return "\n".join([head, back, heading, *lines, "</svg>\n"])


def _text(x: float, y: float, content: str, style: str = "") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' {style}>{content}</text>"
