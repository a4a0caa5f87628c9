"""Files for upstreams that take none: those whose content is text are sent as text."""

import base64
import binascii
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

import msgspec

from translators.canonical import File, Item, Message, Part, Request, Text, ToolResult
from translators.context import Context
from translators.errors import UnsupportedFeature

_TEXT_TYPES = frozenset(
    {
        "application/json",
        "application/xml",
        "application/yaml",
        "application/x-yaml",
        "application/toml",
        "application/javascript",
        "application/x-sh",
        "application/sql",
    }
)
_TEXT_ENDINGS = (
    *(".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml"),
    *(".ini", ".cfg", ".html", ".css", ".py", ".js", ".ts", ".c", ".h", ".cpp", ".rs", ".go"),
    *(".java", ".rb", ".sh", ".sql", ".log", ".tex", ".patch", ".diff"),
)


def inline_files(request: Request, ctx: Context) -> Request:
    """Replace files by their text, unless the upstream takes files.

    Raises:
        UnsupportedFeature: A file is not text, or is not given by its content.
    """
    if ctx.profile.files or not _files(request.items):
        return request
    return msgspec.structs.replace(request, items=[_inline(item) for item in request.items])


def _files(items: Sequence[Item]) -> list[File]:
    return [
        part
        for item in items
        if type(item) is Message or type(item) is ToolResult
        for part in item.parts
        if type(part) is File
    ]


def _inline(item: Item) -> Item:
    if (type(item) is Message or type(item) is ToolResult) and _files([item]):
        return msgspec.structs.replace(item, parts=[_as_text(part) for part in item.parts])
    return item


def _as_text(file: Part) -> Part:
    if type(file) is not File:
        return file
    text = read_text(file)
    if text is None:
        what = "Only files whose content is text, given as file_data, can be sent to this upstream."
        raise UnsupportedFeature(what, param=file.param)
    return Text(f"[{file.filename or 'file'}]\n{text}")


def read_text(file: File) -> str | None:
    """A file's text, ``None`` if it is not given by content or is not text.

    The content is a ``data:`` URL, or base64 alone with a file name that tells the type.
    """
    if file.data is None:
        return None
    header, comma, payload = file.data.partition(",")
    if not (comma and header.startswith("data:")):
        header, payload = "", file.data
    media_type, *parameters = header.removeprefix("data:").split(";")
    if not _is_text(media_type.strip().lower(), file.filename):
        return None
    try:
        if header and "base64" not in [parameter.strip() for parameter in parameters]:
            return unquote_to_bytes(payload).decode("utf-8")
        return base64.b64decode(payload, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return None


def _is_text(media_type: str, filename: str | None) -> bool:
    if media_type.startswith("text/") or media_type in _TEXT_TYPES:
        return True
    is_untold = media_type in ("", "application/octet-stream")
    return is_untold and filename is not None and filename.lower().endswith(_TEXT_ENDINGS)
