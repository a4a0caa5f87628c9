"""Least instances of JSON schemas, out of the words of a prompt."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from backends.demo.requests import JSON

_IDLE_WORDS: Final = re.compile(
    r"(a|about|an|and|any|are|at|be|by|can|do|for|from|get|give|given|how|i|if|in|is|it|me|my|of|on"
    r"|or|please|that|the|them|then|this|to|use|user|was|what|when|which|with|you|your)"
)


def topic_words(text: str) -> set[str]:
    """Lower-case words that may carry a topic, without a plural's s; camelCase is two words."""
    words = re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower())
    return {word.removesuffix("s") for word in words if not _IDLE_WORDS.fullmatch(word)}


_PLACE_WORDS: Final = frozenset({"city", "citie", "location", "place", "town"})


def names_place(name: str) -> bool:
    """Whether a property is named like a place."""
    return not _PLACE_WORDS.isdisjoint(topic_words(name))


class Filler:
    """Makes the least instance of a JSON Schema, out of the words of a prompt.

    Objects get their required properties, arrays ``minItems`` items. Numbers are those of the
    prompt in turn, then 0; an enumeration's value is the one that the prompt names, else its
    first; a string whose property is named like a place is ``place`` if there is one, any other
    is the prompt. Bounds of length and size are kept. ``pattern``, ``multipleOf`` and ``not``
    are not understood: the instance may break them.
    """

    def __init__(self, prompt: str, place: str | None = None) -> None:
        self._prompt = prompt
        self._place = place
        found = re.findall(r"(?<!\w)-?\d{1,15}(?:\.\d{1,15})?(?!\w)", prompt)
        self._numbers = [float(number) for number in found]

    def fill(
        self, schema: JSON, root: JSON, name: str = "", opened: frozenset[str] = frozenset("#")
    ) -> JSON:
        """An instance of ``schema``.

        Args:
            schema: A schema, or ``true``, or anything else, which counts as ``true``.
            root: The document in which ``$ref`` is looked up.
            name: The property that is being filled.
            opened: References being followed; one of them is not opened again, so that a
                recursive schema ends in ``null`` or in an alternative.
        """
        if not isinstance(schema, dict):
            return self._prompt
        if ref := _ref(schema):
            return (
                None if ref in opened else self.fill(_find(root, ref), root, name, opened | {ref})
            )
        if "const" in schema:
            return schema["const"]
        if options := _list(schema, "enum"):
            return self._pick(options)
        for key in ("anyOf", "oneOf"):
            if branches := _list(schema, key):
                ends = (branch for branch in branches if _ref(branch) not in opened)
                return self.fill(next(ends, None), root, name, opened)
        if branches := _list(schema, "allOf"):
            own = {key: value for key, value in schema.items() if key != "allOf"}
            filled = [self.fill(branch, root, name, opened) for branch in branches]
            if "properties" in own:
                filled.append(self.fill(own, root, name, opened))
            if all(isinstance(value, dict) for value in filled):
                return {key: value for part in filled for key, value in part.items()}
            return filled[0]
        return self._fill_type(schema, root, name, opened)

    def _fill_type(self, schema: JSON, root: JSON, name: str, opened: frozenset[str]) -> JSON:
        kind = schema.get("type", "object" if "properties" in schema else "string")
        match kind[0] if isinstance(kind, list) and kind else kind:
            case "object":
                properties = schema.get("properties")
                known = properties if isinstance(properties, dict) else {}
                return {
                    key: self.fill(known.get(key), root, key, opened) for key in required(schema)
                }
            case "array":
                items = list(_list(schema, "prefixItems"))
                missing = int(_bound(schema, "minItems") or 0) - len(items)
                items += [schema.get("items")] * missing
                return [self.fill(item, root, name, opened) for item in items]
            case "integer":
                return int(self._number(schema, least_step=1))
            case "number":
                number = self._number(schema, least_step=0.5)
                return int(number) if number.is_integer() else number
            case "boolean":
                return True
            case "null":
                return None
        return self._string(schema, name)

    def _pick(self, options: Sequence[JSON]) -> JSON:
        named = (
            option
            for option in options
            if isinstance(option, str)
            and re.search(rf"\b{re.escape(option)}\b", self._prompt, re.IGNORECASE)
        )
        return next(named, options[0])

    def _number(self, schema: Mapping[str, JSON], *, least_step: float) -> float:
        number = self._numbers.pop(0) if self._numbers else 0.0
        if (low := _bound(schema, "minimum")) is not None:
            number = max(number, low)
        if (low := _bound(schema, "exclusiveMinimum")) is not None and number <= low:
            number = low + least_step
        if (high := _bound(schema, "maximum")) is not None:
            number = min(number, high)
        if (high := _bound(schema, "exclusiveMaximum")) is not None and number >= high:
            number = high - least_step
        return float(number)

    def _string(self, schema: Mapping[str, JSON], name: str) -> str:
        if (example := _FORMATS.get(str(schema.get("format")))) is not None:
            return example
        text = self._prompt
        if self._place is not None and names_place(name):
            text = self._place
        longest = _bound(schema, "maxLength")
        text = text.ljust(int(_bound(schema, "minLength") or 0), ".")
        return text if longest is None else text[: int(longest)]


_FORMATS: Final = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "email": "demo@example.org",
    "time": "00:00:00Z",
    "uri": "https://example.org/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
"""Strings of the formats that callers often check."""


def _list(schema: Mapping[str, JSON], key: str) -> list[JSON]:
    """A member that should be a list; anything else counts as absent."""
    value = schema.get(key)
    return value if isinstance(value, list) else []


def required(schema: Mapping[str, JSON]) -> list[str]:
    """Names of the properties that an object must have."""
    return [name for name in _list(schema, "required") if isinstance(name, str)]


def _bound(schema: Mapping[str, JSON], key: str) -> float | None:
    """A member that should be a number; anything else, draft 4's booleans too, counts as absent."""
    value = schema.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _ref(schema: JSON) -> str | None:
    ref = schema.get("$ref") if isinstance(schema, dict) else None
    return ref if isinstance(ref, str) else None


def _find(root: JSON, ref: str) -> JSON:
    """What a reference like ``#/$defs/Name`` points to; ``None`` for anything not found."""
    found = root
    for step in ref.removeprefix("#").split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        found = found.get(key) if isinstance(found, dict) else None
    return found


def json_text(value: JSON) -> str:
    """JSON with a space after each colon and comma, as models write it: words to stream and cut."""
    return msgspec.json.format(msgspec.json.encode(value), indent=0).decode()
