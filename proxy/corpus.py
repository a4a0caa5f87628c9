"""The corpus of golden cases: what a case consists of, and where cases are.

``fixtures/README.md`` describes the grammar. Nothing here knows where the corpus is: every
function takes a case's folder, or the folder that holds the pairs.

    for folder in case_folders(Path("fixtures")):
        check(load_case(folder))  # of proxy.goldens
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from translators import CODECS, UPSTREAM_CODECS
from translators.context import counting_ids
from translators.profiles import PROFILES, Policy, Profile
from translators.translation import Translation
from translators.wire import JSON, decode, decode_object

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
