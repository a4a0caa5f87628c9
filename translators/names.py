"""Tool names for dialects that know no namespaces.

A namespace is a container of functions. Where the target has none, ``ns`` and ``name`` become one
flat name; the reply's flat names are turned back, because a caller only knows its own.

Spec: Chat Completions, "tools", ``function.name``: at most 64 characters of ``a-zA-Z0-9_-``.
"""

import hashlib
import re
from collections.abc import Iterable

from translators.canonical import CustomTool, HostedTool, Tool, ToolKind, ToolName

LIMIT = 64
"""Longest tool name in characters."""

_ILLEGAL = re.compile(r"[^a-zA-Z0-9_-]")


class ToolNames:
    """A request's tools under names that are flat, legal and unique.

    The names depend on the tools alone, so they are the same in each turn of a conversation.
    """

    def __init__(self, tools: Iterable[Tool] = ()) -> None:
        """Name the tools; those without a namespace keep their names."""
        self._flat: dict[tuple[str | None, str], str] = {}
        self._tools: dict[str, ToolName] = {}
        named = [tool for tool in tools if type(tool) is not HostedTool]
        named.sort(key=lambda tool: tool.namespace is not None)
        for tool in named:
            kind = ToolKind.CUSTOM if type(tool) is CustomTool else tool.kind
            self._add(ToolName(tool.name, kind, tool.namespace))

    def flat(self, name: str, namespace: str | None) -> str:
        """The flat name of a tool; one that the request does not declare is named likewise."""
        return self._flat.get((namespace, name)) or flatten(name, namespace)

    def restore(self, flat: str) -> ToolName:
        """The tool behind a flat name; an unknown name stands for a function of that name."""
        return self._tools.get(flat) or ToolName(flat)

    def is_whole(self, flat: str) -> bool:
        """Whether a streamed name is a declared tool's and cannot be the beginning of another."""
        if flat not in self._tools:
            return False
        return not any(name != flat and name.startswith(flat) for name in self._tools)

    def _add(self, tool: ToolName) -> None:
        flat = flatten(tool.name, tool.namespace)
        if flat in self._tools and self._tools[flat] != tool:
            flat = _shorten(flat, f"{tool.namespace}\0{tool.name}")
        self._flat[tool.namespace, tool.name] = flat
        self._tools[flat] = tool


def flatten(name: str, namespace: str | None) -> str:
    """The flat name of a tool, as long as no other tool of the request has it already."""
    if namespace is None:
        return name
    joined = f"{namespace}__{name}"
    legal = _ILLEGAL.sub("_", joined)
    if legal == joined and len(legal) <= LIMIT:
        return legal
    return _shorten(legal, joined)


def _shorten(name: str, seed: str) -> str:
    """Keep the tail, which tells tools apart, and put a digest of the whole in front."""
    digest = hashlib.sha256(seed.encode()).hexdigest()[:8]
    return f"t{digest}_{name[-(LIMIT - len(digest) - 2) :]}"
