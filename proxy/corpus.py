"""The corpus of golden cases: finding them, translating them, comparing and rewriting goldens.

``fixtures/README.md`` describes the grammar that this module implements. Nothing here knows
where the corpus is: every function takes a case, or the folder that holds the pairs.

    for folder in case_folders(Path("fixtures")):
        check(load_case(folder))
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import msgspec

from translators import CODECS, UPSTREAM_CODECS
from translators.canonical import Response
from translators.context import counting_ids
from translators.envelope import info_of
from translators.errors import ErrorInfo, TranslationError
from translators.events import Event, ResponseFailed, fold
from translators.profiles import PROFILES, Policy, Profile
from translators.sse import SSEDecoder
from translators.translation import Translation
from translators.wire import JSON, decode, decode_object, encode

PAIRS = tuple(f"{a}-{b}" for a in CODECS for b in UPSTREAM_CODECS if a is not b)
"""Names of the folders that hold a pair's cases: the caller's dialect, then the upstream's."""
SSE = "sse"
NOW_UNIX_S = 1_700_000_000.0

FACTS = "case.toml"
REQUEST = "caller.request.json"
REPLY = "upstream.response.json"
STREAM = "upstream.stream.sse"
ERROR = "upstream.error.json"
SENT = "upstream.request.json"
INPUTS = frozenset({FACTS, REQUEST, REPLY, STREAM, ERROR})
GOLDENS = frozenset({SENT, "caller.response.json", "caller.stream.sse", "caller.error.json"})
FRAMED = "stream.sse"
FRAMES = "frames.json"
SSE_FILES = frozenset({FACTS, FRAMED, FRAMES})


class CaseFailed(Exception):
    """A case does not hold.

    Attributes:
        case: Its id, such as ``responses-chat/text-reply``.
        file: The file, or the key of ``case.toml``, that shows it.
        why: The first difference.
    """

    def __init__(self, case: str, file: str, why: str) -> None:
        """Say what differs where."""
        super().__init__(f"{case}: {file}: {why}")
        self.case = case
        self.file = file
        self.why = why


class BadCase(CaseFailed):
    """A case folder breaks the grammar."""


class Differs(CaseFailed):
    """What the translators make of a case is not what its golden says."""


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """``case.toml``."""

    source: str
    spec: str = ""
    notes: str = ""
    profile: str = "vllm"
    public_model: str | None = None
    overrides: dict[str, JSON] = {}
    policy: dict[str, JSON] = {}
    status: int | None = None
    losses: list[str] = []
    fold: str | None = None
    known_gap: str | None = None

    def settings(self) -> tuple[Profile, Policy]:
        """The upstream's profile and the operator's choices.

        Raises:
            ValueError: There is no such profile, member or choice.
        """
        if self.profile not in PROFILES:
            raise ValueError(f"there is no profile {self.profile!r}")
        profile = msgspec.to_builtins(PROFILES[self.profile]) | self.overrides
        return msgspec.convert(profile, Profile), msgspec.convert(self.policy, Policy)


@dataclass(frozen=True)
class Case:
    """One folder of a pair of dialects, or of ``sse``."""

    folder: Path
    facts: Facts
    files: frozenset[str]

    @property
    def id(self) -> str:
        """Such as ``responses-chat/text-reply``."""
        return _id_of(self.folder)

    @property
    def caller(self) -> str:
        """The caller's dialect."""
        return self.folder.parent.name.partition("-")[0]

    @property
    def upstream(self) -> str:
        """The upstream's dialect."""
        return self.folder.parent.name.partition("-")[2]

    @property
    def is_framing(self) -> bool:
        """Whether it is about cutting bytes into events, and not about a pair."""
        return self.folder.parent.name == SSE

    @property
    def has_stream(self) -> bool:
        """Whether it has an upstream's stream."""
        return STREAM in self.files

    def read(self, name: str) -> bytes:
        """A file of the folder."""
        return (self.folder / name).read_bytes()

    def golden(self, name: str) -> JSON:
        """A golden as it is compared: JSON by value, streams by bytes."""
        body = self.read(name)
        return decode(body) if name.endswith(".json") else body

    def translation(self) -> Translation:
        """A translation of the case's pair, with counted ids and a clock that stands still."""
        profile, policy = self.facts.settings()
        translation = Translation.between(
            self.caller,
            self.upstream,
            profile=profile,
            policy=policy,
            new_id=counting_ids(),
            now=lambda: NOW_UNIX_S,
        )
        translation.ctx.public_model = self.facts.public_model
        return translation

    def begin(self) -> Translation:
        """A translation that has seen the caller's request."""
        translation = self.translation()
        translation.request(decode_object(self.read(REQUEST)))
        return translation


@dataclass
class Outcome:
    """What the translators make of a case: goldens by file name, losses, an error's status."""

    files: dict[str, JSON] = field(default_factory=dict)
    losses: list[str] = field(default_factory=list)
    status: int | None = None

    def lose(self, translation: Translation) -> None:
        """Note what a translation could not say."""
        new = [loss.param for loss in translation.losses if loss.param not in self.losses]
        self.losses += dict.fromkeys(new)

    def refuse(self, error: ErrorInfo, translation: Translation) -> None:
        """Note the error that the caller gets."""
        self.files["caller.error.json"] = translation.caller.write_error(error)
        self.status = error.status


# --- finding ---------------------------------------------------------------------------------


def case_folders(root: Path) -> list[Path]:
    """The case folders under a corpus's root, by pair and name, those of framing last."""
    parents = [root / name for name in (*PAIRS, SSE)]
    return [
        folder
        for parent in parents
        if parent.is_dir()
        for folder in sorted(parent.iterdir())
        if folder.is_dir()
    ]


def find_cases(root: Path) -> Iterator[Case]:
    """Every case of a pair of dialects.

    Raises:
        BadCase: A folder breaks the grammar.
    """
    return (load_case(folder) for folder in case_folders(root) if folder.parent.name != SSE)


def find_sse_cases(root: Path) -> Iterator[Case]:
    """Every case of SSE framing.

    Raises:
        BadCase: A folder breaks the grammar.
    """
    return (load_case(folder) for folder in case_folders(root) if folder.parent.name == SSE)


def load_case(folder: Path) -> Case:
    """The case in a folder.

    Raises:
        BadCase: Files are unknown, missing or exclude each other; or ``case.toml`` has an unknown
            or a wrong key.
    """
    files = frozenset(path.name for path in folder.iterdir())
    case_id = _id_of(folder)
    is_framing = folder.parent.name == SSE
    if unknown := files - (SSE_FILES if is_framing else INPUTS | GOLDENS):
        raise BadCase(case_id, min(unknown), "no case has such a file")
    for name in SSE_FILES - {FRAMES} if is_framing else (FACTS, REQUEST):
        if name not in files:
            raise BadCase(case_id, name, "it is missing")
    if ERROR in files and files & {REPLY, STREAM}:
        raise BadCase(case_id, ERROR, f"it excludes {REPLY} and {STREAM}")
    try:
        facts = msgspec.convert(tomllib.loads((folder / FACTS).read_text("utf-8")), Facts)
        facts.settings()
    except ValueError as error:  # of TOML, UTF-8 and msgspec too
        raise BadCase(case_id, FACTS, str(error)) from error
    if ERROR in files and facts.status is None:
        raise BadCase(case_id, FACTS, f"{ERROR} needs a status")
    return Case(folder, facts, files)


def _id_of(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


# --- translating -----------------------------------------------------------------------------


def translate(case: Case) -> Outcome:
    """Run the checks that the files of a case select."""
    outcome = Outcome()
    translation = case.translation()
    try:
        request = translation.request(decode_object(case.read(REQUEST)))
    except TranslationError as error:
        outcome.refuse(info_of(error), translation)
        outcome.lose(translation)
        return outcome
    outcome.lose(translation)
    if SENT in case.files or not case.files & {REPLY, STREAM, ERROR}:
        outcome.files[SENT] = decode(encode(request))
    if ERROR in case.files:
        status = case.facts.status or 500  # there is one: ``load_case`` saw to it
        outcome.refuse(translation.error(status, case.read(ERROR))[0], translation)
    if REPLY in case.files:
        _translate_reply(case, outcome)
    if STREAM in case.files:
        translation = case.begin()
        stream = translation.stream()
        body = stream.feed(case.read(STREAM))
        outcome.files["caller.stream.sse"] = body + stream.finish()
        outcome.lose(translation)
    return outcome


def _translate_reply(case: Case, outcome: Outcome) -> None:
    translation = case.begin()
    try:
        response = whole(case, translation)
    except TranslationError as error:
        outcome.refuse(info_of(error), translation)
    else:
        if response.error is not None:
            outcome.refuse(response.error, translation)
        else:
            body = translation.write(response)
            outcome.files["caller.response.json"] = decode(encode(body))
    outcome.lose(translation)


def whole(case: Case, translation: Translation) -> Response:
    """The whole reply in the canonical model.

    Raises:
        TranslationError: It cannot be read.
    """
    return translation.read(case.read(REPLY))


def read_events(case: Case, translation: Translation) -> list[Event]:
    """The events of a case's stream, up to the first that ends it."""
    return events_of(case.read(STREAM), translation)


def events_of(stream: bytes, translation: Translation) -> list[Event]:
    """The events of a stream of the upstream's dialect, up to the first that ends it."""
    decoder = SSEDecoder()
    reader = translation.upstream.reader(translation.ctx)
    events: list[Event] = []
    try:
        for frame in decoder.feed(stream) + decoder.finish():
            events += reader.feed(frame)
        events += reader.finish()
    except TranslationError as error:
        events.append(ResponseFailed(info_of(error)))
    return events


# --- comparing -------------------------------------------------------------------------------


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


def frames_of(case: Case) -> JSON:
    """The frames of a case of SSE framing, as its golden has them."""
    decoder = SSEDecoder()
    frames = decoder.feed(case.read(FRAMED)) + decoder.finish()
    return [{"event": frame.event, "data": frame.data.decode()} for frame in frames]
