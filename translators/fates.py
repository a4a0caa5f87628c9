"""What becomes of each thing that a dialect can say, as data.

Each dialect has tables of rows, one for every field, item, tool, choice, part and event that its
API knows. Readers take from them what is refused or lost, the documentation is made of them, and
a test holds them against the official SDK's types.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class Fate(StrEnum):
    """What becomes of something on its way to a dialect that may not know it."""

    EXACT = "translated"
    EMULATED = "emulated"
    """Said by other means, and restored in the reply."""
    KEPT = "answered here"
    """Not sent; what it asks for is done, or has no effect anywhere but in the reply."""
    LOST = "lost, recorded"
    REFUSED = "refused"
    """A 400 that names it."""
    POLICY = "refused or dropped"
    """As the operator has set."""


class Row(NamedTuple):
    """The fate of one thing, and how or why."""

    fate: Fate
    note: str = ""


Table = Mapping[str, Row]


def with_fate(table: Table, fate: Fate) -> dict[str, str]:
    """Names of a table's rows with this fate -> their notes."""
    return {name: row.note for name, row in table.items() if row.fate is fate}
