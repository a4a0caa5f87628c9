"""Which replicas an operator takes out of service: a file that lists them."""

from collections.abc import Collection
from pathlib import Path

import structlog

_log = structlog.get_logger("dragoman")


class DrainFile:
    """A file of replicas to drain, one on each line; ``#`` begins a comment.

    Args:
        path: The file; as long as there is none, none is drained.
        upstream: The upstream's name in the log.
        replicas: The names that may stand in it; a slash at their end does not count.
    """

    def __init__(self, path: Path, upstream: str, replicas: Collection[str]) -> None:
        self._path = path
        self._upstream = upstream
        self._replicas = frozenset(replicas)
        self._drained: frozenset[str] = frozenset()
        self._complaint: str | None = None

    def read(self) -> frozenset[str]:
        """The replicas that are to drain now; as before, if the file cannot be read."""
        complaint = None
        try:
            listed = _read_lines(self._path)
        except (OSError, UnicodeDecodeError) as error:
            complaint = f"cannot be read: {error}"
        else:
            self._drained = listed & self._replicas
            if unknown := sorted(listed - self._replicas):
                complaint = f"names no replica of this upstream: {', '.join(unknown)}"
        if complaint not in (None, self._complaint):
            _log.warning("drain_file", upstream=self._upstream, reason=f"{self._path} {complaint}")
        self._complaint = complaint
        return self._drained


def _read_lines(path: Path) -> frozenset[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return frozenset()
    names = (line.partition("#")[0].strip().rstrip("/") for line in lines)
    return frozenset(name for name in names if name)
