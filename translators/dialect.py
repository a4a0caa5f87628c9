"""The dialects that callers and upstreams speak."""

from enum import StrEnum


class Dialect(StrEnum):
    """A wire schema; the value is the name used in settings, logs and fixtures."""

    CHAT = "chat"
    RESPONSES = "responses"
    COMPLETIONS = "completions"
    """Spoken by upstreams only."""
