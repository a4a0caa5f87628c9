"""Audio that requests name in ``metadata``, as ``data:`` URLs.

Members as in NeMo Gym: ``audio_data``, a ``data:`` URI; ``audio_path``, a file under the configured
folder; ``audio_paths``, several of them as a JSON list in a string, since values of ``metadata``
are strings.
"""

import asyncio
import base64
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from proxy.settings import Audio
from translators.errors import MalformedRequest
from translators.wire import JSON, decode

MEMBERS = ("audio_data", "audio_path", "audio_paths")
TYPES = {
    ".wav": "wav",
    ".flac": "flac",
    ".mp3": "mpeg",
    ".m4a": "mp4",
    ".ogg": "ogg",
    ".opus": "opus",
}
"""Suffixes of audio files -> what ``data:audio/`` calls them."""

_URI = re.compile(r"data:audio/[\w.+-]+;base64,")
_MOST_FILES = 256  # for a file may be empty, and cost no byte of the limit
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


async def read_audio(metadata: Mapping[str, JSON], audio: Audio) -> list[str]:
    """The ``data:`` URLs of a request's audio, in order; none if it names none.

    Files are read in a thread. One that does not exist and one outside the folder are the same
    error, so that nobody learns what is there.

    Args:
        metadata: The request's.
        audio: Where files may be, and how large.

    Raises:
        MalformedRequest: More than one member is there, one has a wrong type, or a file cannot be
            had.
    """
    named = [name for name in MEMBERS if metadata.get(name)]
    if not named:
        return []
    param = f"metadata.{named[-1]}"
    if len(named) > 1:
        raise MalformedRequest(
            f"Invalid '{param}': only one of {', '.join(MEMBERS)} may be set.", param=param
        )
    value = metadata[named[0]]
    if named[0] == "audio_data":
        if not isinstance(value, str) or not _URI.match(value):
            raise MalformedRequest(
                f"Invalid '{param}': expected a URI such as data:audio/wav;base64,...",
                param=param,
            )
        return [value]
    paths = _read_paths(value, param) if named[0] == "audio_paths" else [(value, param)]
    if audio.root is None:
        raise MalformedRequest(
            f"Invalid '{param}': no folder of audio files is configured for this model.",
            param=param,
        )
    return await asyncio.to_thread(_read_files, Path(audio.root), paths, audio.max_bytes)


def _read_paths(value: JSON, param: str) -> list[tuple[JSON, str]]:
    """The entries of a list of paths, each with its own path in the body."""
    paths = value
    if isinstance(value, str):
        try:
            paths = decode(value.encode("utf-8", "replace"))
        except MalformedRequest:
            paths = None
    if not isinstance(paths, list) or not paths:
        raise MalformedRequest(
            f"Invalid '{param}': expected a JSON list of paths, in a string.", param=param
        )
    if len(paths) > _MOST_FILES:
        raise MalformedRequest(
            f"Invalid '{param}': {len(paths)} files, of {_MOST_FILES} at most.", param=param
        )
    return [(path, f"{param}[{i}]") for i, path in enumerate(paths)]


def _read_files(root: Path, paths: Sequence[tuple[JSON, str]], limit_bytes: int) -> list[str]:
    root = root.expanduser().resolve()
    urls = []
    for path, param in paths:
        if not isinstance(path, str):
            raise MalformedRequest(f"Invalid '{param}': expected a string.", param=param)
        kind = TYPES.get(Path(path).suffix.lower())
        if kind is None:
            raise MalformedRequest(
                f"Invalid '{param}': expected a file of type {', '.join(TYPES)}.", param=param
            )
        content = _read_file(root, path, param, limit_bytes)
        limit_bytes -= len(content)
        if limit_bytes < 0:
            raise MalformedRequest(
                f"Invalid '{param}': too much audio for one request.", param=param
            )
        urls.append(f"data:audio/{kind};base64,{base64.b64encode(content).decode()}")
    return urls


def _read_file(root: Path, path: str, param: str, limit_bytes: int) -> bytes:
    """A regular file's content, of which one byte more than the limit at most."""
    try:
        found = (root / path).resolve(strict=True)
        if found.is_relative_to(root):
            with os.fdopen(os.open(found, _FLAGS), "rb") as file:
                if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    return file.read(limit_bytes + 1)
    except (OSError, ValueError, RuntimeError):  # a NUL in the path, a loop of links
        pass
    raise MalformedRequest(f"Invalid '{param}': there is no such file to be read.", param=param)
