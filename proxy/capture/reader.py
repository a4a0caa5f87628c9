"""Captures read back; damaged lines are counted and never hide the others."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from proxy.capture.store import MARK, RECORDS, stem_of
from translators.wire import JSON

if sys.platform != "win32":
    import fcntl


_NULL = msgspec.Raw(b"null")


class ModelRef(msgspec.Struct):
    """The server that was called; its ``name`` is the upstream's in the settings."""

    name: str | None = None


class UpstreamSide(msgspec.Struct):
    """What went to the upstream, and what it said."""

    dialect: str
    status_code: int
    request: msgspec.Raw = _NULL
    response: msgspec.Raw = _NULL
    response_raw: str | None = None


class CapturedCall(msgspec.Struct):
    """One line of a capture. Bodies are JSON text that is not decoded yet."""

    model_call_id: str | None = None
    rollout_id: str | None = None
    dialect: str | None = None
    model_ref: ModelRef | None = None
    started_at: float | None = None
    completed_at: float | None = None
    latency_ms: float | None = None
    latency_ttft_ms: float | None = None
    status_code: int | None = None
    error_category: str | None = None
    request: msgspec.Raw = _NULL
    response: msgspec.Raw = _NULL
    request_raw: str | None = None
    response_raw: str | None = None
    upstream: UpstreamSide | None = None


_read_call = msgspec.json.Decoder(CapturedCall).decode


class Rollout:
    """The files of one rollout.

    Attributes:
        name: The name of its files, which is its id if that can name one.
        path: The file of its calls, which may be missing.
        is_incomplete: Whether calls were lost.
        damaged: How many lines could not be read, once ``calls`` has come to its end.
    """

    def __init__(self, folder: Path, name: str) -> None:
        """Find a rollout's files in a folder."""
        self.name = name
        self.path = folder / f"{name}{RECORDS}"
        self.is_incomplete = (folder / f"{name}{MARK}").exists()
        self.damaged = 0

    def calls(self) -> Iterator[CapturedCall]:
        """Its calls in the order in which they ended.

        What is written meanwhile is left out.
        """
        self.damaged = 0
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            left = _stable_size(file.fileno())
            for line in file:
                left -= len(line)
                if left < 0:
                    return
                if not line.strip():
                    continue
                try:
                    yield _read_call(line)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    self.damaged += 1


def find_rollouts(folder: Path) -> list[Rollout]:
    """All rollouts of a folder by name.

    Raises:
        OSError: It cannot be read.
    """
    names = {
        path.name.removesuffix(ending)
        for path in folder.iterdir()
        for ending in (RECORDS, MARK)
        if path.name.endswith(ending)
    }
    return [Rollout(folder, name) for name in sorted(names)]


def find_rollout(folder: Path, rollout: str) -> Rollout:
    """A rollout by its id, or by the name of its files.

    Raises:
        FileNotFoundError: It has no files.
    """
    for name in (rollout, stem_of(rollout)):
        if "/" not in name:
            found = Rollout(folder, name)
            if found.is_incomplete or found.path.exists():
                return found
    raise FileNotFoundError(2, f"no captures of the rollout '{rollout}'", str(folder))


def has_body(raw: msgspec.Raw) -> bool:
    """Whether a member holds a body."""
    return raw != _NULL


def body_of(raw: msgspec.Raw) -> dict[str, JSON]:
    """A body decoded, empty if there is none."""
    value = msgspec.json.decode(raw)
    return value if isinstance(value, dict) else {}


def _stable_size(file: int) -> int:
    """How much of a file is written whole: its size while nobody writes."""
    if sys.platform == "win32":
        return os.fstat(file).st_size
    fcntl.flock(file, fcntl.LOCK_SH)
    try:
        return os.fstat(file).st_size
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
