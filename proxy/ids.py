"""Random ids of requests, replies, items and captured calls."""

import re
import secrets

_DRAWN_AT_ONCE = 256
_cut = re.compile(".{32}").findall
_drawn: list[str] = []
"""Hexadecimal digits to use up. No process inherits them: workers are started, not forked."""


def random_hex() -> str:
    """32 random hexadecimal digits. Many are drawn at a system call: saves 2 us for each."""
    while True:
        try:
            return _drawn.pop()
        except IndexError:  # not asked before: another thread might take the last
            _drawn.extend(_cut(secrets.token_hex(16 * _DRAWN_AT_ONCE)))


def random_id(prefix: str) -> str:
    """A random id such as ``resp_`` and 32 hexadecimal digits."""
    return f"{prefix}_{random_hex()}"
