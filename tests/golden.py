"""The corpus of golden cases: finding them, translating them, comparing and rewriting goldens.

``fixtures/README.md`` describes the grammar that this module implements.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from translators.canonical import Response
from translators.context import counting_ids
from translators.envelope import info_of
from translators.errors import ErrorInfo, TranslationError, UpstreamProtocolError
from translators.events import Event, ResponseFailed, fold
from translators.profiles import PROFILES, Policy, Profile
from translators.sse import SSEDecoder
from translators.translation import Translation
from translators.wire import JSON, decode, decode_object, encode

FIXTURES = Path(__file__).parent.parent / "fixtures"
PAIRS = ("responses-chat", "chat-responses")
NOW_UNIX_S = 1_700_000_000.0

FACTS = "case.toml"
REQUEST = "caller.request.json"
REPLY = "upstream.response.json"
STREAM = "upstream.stream.sse"
ERROR = "upstream.error.json"
SENT = "upstream.request.json"
INPUTS = frozenset({FACTS, REQUEST, REPLY, STREAM, ERROR})
GOLDENS = frozenset({SENT, "caller.response.json", "caller.stream.sse", "caller.error.json"})
SSE_FILES = frozenset({FACTS, "stream.sse", "frames.json"})


class BadCase(Exception):
    """A case folder breaks the grammar."""


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """``case.toml``."""

    source: str
    spec: str = ""
    notes: str = ""
    profile: str = "vllm"
    overrides: dict[str, JSON] = {}
    policy: dict[str, JSON] = {}
    status: int | None = None
    losses: list[str] = []
    fold: str | None = None
    known_gap: str | None = None


@dataclass(frozen=True)
class Case:
    """One folder of a pair of dialects, or of ``sse``."""

    folder: Path
    facts: Facts
    files: frozenset[str]

    @property
    def id(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def caller(self) -> str:
        return self.folder.parent.name.partition("-")[0]

    @property
    def has_stream(self) -> bool:
        return STREAM in self.files

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def golden(self, name: str) -> JSON:
        """A golden as it is compared: JSON by value, streams by bytes."""
        body = self.read(name)
        return decode(body) if name.endswith(".json") else body

    def translation(self) -> Translation:
        """A translation of the case's pair, with counted ids and a clock that stands still."""
        caller, _, upstream = self.folder.parent.name.partition("-")
        profile = msgspec.to_builtins(PROFILES[self.facts.profile]) | self.facts.overrides
        return Translation.between(
            caller,
            upstream,
            profile=msgspec.convert(profile, Profile),
            policy=msgspec.convert(self.facts.policy, Policy),
            new_id=counting_ids(),
            now=lambda: NOW_UNIX_S,
        )

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
        new = [loss.param for loss in translation.losses if loss.param not in self.losses]
        self.losses += dict.fromkeys(new)

    def refuse(self, error: ErrorInfo, translation: Translation) -> None:
        self.files["caller.error.json"] = translation.caller.write_error(error)
        self.status = error.status


# --- finding ---------------------------------------------------------------------------------


def find_cases() -> Iterator[Case]:
    """Every case of a pair of dialects, by folder name."""
    for pair in PAIRS:
        for folder in _folders(pair):
            case = load_case(folder, INPUTS | GOLDENS)
            if REQUEST not in case.files:
                raise BadCase(f"{case.id}: {REQUEST} is missing")
            if ERROR in case.files and case.files & {REPLY, STREAM}:
                raise BadCase(f"{case.id}: {ERROR} excludes {REPLY} and {STREAM}")
            yield case


def find_sse_cases() -> Iterator[Case]:
    """Every case of SSE framing."""
    for folder in _folders("sse"):
        yield load_case(folder, SSE_FILES)


def _folders(parent: str) -> list[Path]:
    return sorted(path for path in (FIXTURES / parent).iterdir() if path.is_dir())


def load_case(folder: Path, known: frozenset[str]) -> Case:
    """The case in a folder, which may hold the known files.

    Raises:
        BadCase: A file is unknown, or ``case.toml`` is missing or has an unknown or wrong key.
    """
    files = frozenset(path.name for path in folder.iterdir())
    if not files <= known:
        raise BadCase(f"{folder.name}: unknown files {sorted(files - known)}")
    if FACTS not in files:
        raise BadCase(f"{folder.name}: {FACTS} is missing")
    try:
        facts = msgspec.convert(tomllib.loads((folder / FACTS).read_text()), Facts)
    except (msgspec.ValidationError, tomllib.TOMLDecodeError) as error:
        raise BadCase(f"{folder.name}: {error}") from error
    return Case(folder, facts, files)


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
        if case.facts.status is None:
            raise BadCase(f"{case.id}: {ERROR} needs a status")
        outcome.refuse(translation.error(case.facts.status, case.read(ERROR))[0], translation)
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
    body = decode_object(case.read(REPLY), UpstreamProtocolError)
    return translation.upstream.read_response(body, translation.ctx)


def read_events(case: Case, translation: Translation) -> list[Event]:
    """The events of a case's stream, up to the first that ends it."""
    decoder = SSEDecoder()
    reader = translation.upstream.reader(translation.ctx)
    events: list[Event] = []
    try:
        for frame in decoder.feed(case.read(STREAM)) + decoder.finish():
            events += reader.feed(frame)
        events += reader.finish()
    except TranslationError as error:
        events.append(ResponseFailed(info_of(error)))
    return events


# --- comparing -------------------------------------------------------------------------------


def compare(case: Case, outcome: Outcome) -> None:
    """Compare an outcome with the goldens.

    Raises:
        AssertionError: They differ.
    """
    assert case.files & GOLDENS == outcome.files.keys()
    for name, actual in outcome.files.items():
        assert case.golden(name) == actual, name
    assert case.facts.losses == outcome.losses
    assert case.facts.status == outcome.status
    if {REPLY, STREAM} <= case.files and case.facts.fold is None:
        compare_fold(case)


def compare_fold(case: Case) -> None:
    """Compare the fold of a case's stream with its whole reply."""
    expected = whole(case, case.begin())
    actual = fold(read_events(case, case.begin()))
    assert expected.output == actual.output
    assert expected.stop == actual.stop
    assert expected.usage == actual.usage


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
    frames = decoder.feed(case.read("stream.sse")) + decoder.finish()
    return [{"event": frame.event, "data": frame.data.decode()} for frame in frames]
