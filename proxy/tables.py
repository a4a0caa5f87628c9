"""TOML tables into Structs, with errors that say where, what is wrong, and what would be right."""

import difflib
import re
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from translators.wire import JSON

S = TypeVar("S", bound=msgspec.Struct)


class SettingsError(Exception):
    """A setting is wrong; the message names it, its place, and what would be right."""


class Place:
    """Where a setting stands in its file."""

    def __init__(self, path: Path | None, text: str) -> None:
        self._path = path
        self._text = text

    def of(self, dotted: str) -> str:
        """``file:line: key``, or the key alone if it is not from a file."""
        line = find_line(self._text, dotted)
        if self._path is None or line is None:
            return dotted
        return f"{self._path}:{line}: {dotted}"


def fill(cls: type[S], value: JSON, at: str, place: Place) -> S:
    """Fill a Struct from the table at a dotted path.

    Raises:
        SettingsError: The table is wrong.
    """
    try:
        return msgspec.convert(value, cls)
    except msgspec.ValidationError as error:
        raise SettingsError(_explain(error, cls, at, place)) from error


def find_line(text: str, dotted: str) -> int | None:
    """The line, counted from 1, at which a TOML text sets a dotted key or opens its table."""
    table = ""
    counts: dict[str, int] = {}
    best: int | None = None
    target = re.sub(r"\[(\d+)\]", r".\1", dotted)
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?$", line):
            table = header[1].replace('"', "")
            if line.lstrip().startswith("[["):
                counts[table] = counts.get(table, -1) + 1
            for array, index in counts.items():
                if f"{table}.".startswith(f"{array}."):
                    table = f"{array}.{index}{table.removeprefix(array)}"
            path = table
        elif key := re.match(r"\s*([A-Za-z0-9_.\"-]+)\s*=", line):
            path = f"{table}.{key[1]}".lstrip(".").replace('"', "")
        else:
            continue
        if target == path:
            return number
        if target.startswith(f"{path}."):
            best = number
    return best


def _explain(error: msgspec.ValidationError, cls: Any, at: str, place: Place) -> str:
    match = re.match(r"(?P<what>.*?)(?: - at `\$\.?(?P<tail>[^`]*)`)?$", str(error), re.DOTALL)
    what, tail = (match["what"], match["tail"] or "") if match else (str(error), "")
    tail = tail.replace("[...]", "")
    path = f"{at}.{tail}".strip(".")
    if unknown := re.search(r"unknown field `(.+)`", what):
        known = sorted(_type_at(cls, tail).__struct_fields__)
        near = difflib.get_close_matches(unknown[1], known, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
        return f"{place.of(f'{path}.{unknown[1]}'.lstrip('.'))}: unknown setting; {hint}"
    if word := re.match(r"Invalid enum value (.+)", what):
        return f"{place.of(path)}: {word[1]} is none of {', '.join(_type_at(cls, tail))}"
    return f"{place.of(path)}: {what}"


def _type_at(cls: Any, path: str) -> Any:
    """The type of a setting by its path below a Struct, without the ``None`` of optional ones."""
    for step in ["", *re.findall(r"[^.\[\]]+", path)]:
        if isinstance(cls, type) and issubclass(cls, msgspec.Struct) and step:
            cls = get_type_hints(cls)[step]
        elif step:
            cls = get_args(cls)[-1]
        cls = next((c for c in get_args(cls) if isinstance(cls, UnionType) and c), cls)
    return cls
