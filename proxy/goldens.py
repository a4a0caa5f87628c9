"""The goldens of a case, held against what the translators make of it, and rewritten."""

from itertools import zip_longest

import msgspec

from proxy.corpus import FACTS, FRAMES, GOLDENS, REPLY, STREAM, Case, Differs
from proxy.outcomes import Outcome, frames_of, read_events, translate, whole
from translators.errors import TranslationError
from translators.events import fold
from translators.wire import JSON, decode, encode


def check(case: Case) -> None:
    """Run a case of either kind.

    Raises:
        Differs: It does not hold; or it does, but has a ``known-gap``.
    """
    if case.is_framing:
        compare_json(case, FRAMES, frames_of(case))
        return
    try:
        compare(case, translate(case))
    except Differs:
        if case.facts.known_gap is None:
            raise
    else:
        if case.facts.known_gap is not None:
            raise Differs(case.id, FACTS, "it passes: remove known-gap")


def compare(case: Case, outcome: Outcome) -> None:
    """Compare an outcome with the goldens.

    Raises:
        Differs: They are not the same.
    """
    goldens = case.files & GOLDENS
    if spare := goldens - outcome.files.keys():
        made = ", ".join(sorted(outcome.files)) or "nothing"
        raise Differs(case.id, min(spare), f"nothing makes it; the case gives {made}")
    for name, actual in outcome.files.items():
        if name not in goldens:
            raise Differs(case.id, name, "it is missing")
        if name.endswith(".json"):
            compare_json(case, name, actual)
        elif why := _difference_of_lines(case.read(name), actual):
            raise Differs(case.id, name, why)
    for key, expected, found in (
        ("losses", case.facts.losses, outcome.losses),
        ("status", case.facts.status, outcome.status),
    ):
        if why := first_difference(expected, found):
            raise Differs(case.id, FACTS, f"{key}{why}")
    if {REPLY, STREAM} <= case.files and case.facts.fold is None:
        compare_fold(case)


def compare_json(case: Case, name: str, actual: JSON) -> None:
    """Compare a JSON document with its golden.

    Raises:
        Differs: The golden is missing, or another value.
    """
    if name not in case.files:
        raise Differs(case.id, name, "it is missing")
    if why := first_difference(case.golden(name), actual):
        raise Differs(case.id, name, why)


def compare_fold(case: Case) -> None:
    """Compare the fold of a case's stream with its whole reply.

    Raises:
        Differs: They are not the same answer.
    """
    try:
        expected = whole(case, case.begin())
    except TranslationError as error:
        raise Differs(case.id, REPLY, f"it cannot be read: {error}") from error
    actual = fold(read_events(case, case.begin()))
    for name in ("output", "stop", "usage"):
        told, folded = (msgspec.to_builtins(getattr(r, name)) for r in (expected, actual))
        if why := first_difference(told, folded):
            raise Differs(case.id, STREAM, f"folded {name}{why}")


def first_difference(expected: JSON, actual: JSON) -> str:
    """Path and values of the first difference of two JSON values, empty if they are equal."""
    match expected, actual:
        case dict(), dict():
            for name in [*expected, *(name for name in actual if name not in expected)]:
                one, other = expected.get(name, _ABSENT), actual.get(name, _ABSENT)
                if why := first_difference(one, other):
                    return f".{name}{why}"
            return ""
        case list(), list():
            for i, (one, other) in enumerate(zip_longest(expected, actual, fillvalue=_ABSENT)):
                if why := first_difference(one, other):
                    return f"[{i}]{why}"
            return ""
    if expected == actual and isinstance(expected, bool) == isinstance(actual, bool):
        return ""
    return f" should be {_shown(expected)} and is {_shown(actual)}"


_ABSENT = object()
_SHOWN_CHARS = 200


def _shown(value: JSON) -> str:
    if value is _ABSENT:
        return "absent"
    text = encode(value).decode()
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


def _difference_of_lines(expected: bytes, actual: bytes) -> str:
    """The first line in which two streams differ, empty if they are equal."""
    lines = zip_longest(expected.split(b"\n"), actual.split(b"\n"))
    for number, (one, other) in enumerate(lines, 1):
        if one != other:
            one, other = (b"absent" if line is None else line for line in (one, other))
            if one.startswith(b"data: {") and other.startswith(b"data: {"):
                documents = (decode(line.removeprefix(b"data: ")) for line in (one, other))
                if why := first_difference(*documents):
                    return f"line {number}{why}"
            return f"line {number} should be {_text(one)} and is {_text(other)}"
    return ""


def _text(line: bytes) -> str:
    return repr(line.decode(errors="replace")[:_SHOWN_CHARS])


def update(case: Case, outcome: Outcome) -> None:
    """Rewrite the goldens that differ; inputs are never touched."""
    for name in case.files & GOLDENS - outcome.files.keys():
        (case.folder / name).unlink()
    for name, actual in outcome.files.items():
        if name in case.files and case.read(name) and case.golden(name) == actual:
            continue
        body = pretty(actual) if name.endswith(".json") else actual
        (case.folder / name).write_bytes(body)


def pretty(value: JSON) -> bytes:
    """A JSON value as a golden file holds it."""
    return msgspec.json.format(encode(value)) + b"\n"
