"""What must not get into a recording: keys, tokens, and paths of the recording machine."""

import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from translators.wire import encode

REDACTED = b"REDACTED"

_START = rb"(?:(?<![\w.-])|(?<=\\[bfnrt]))"
"""Before a word in JSON text: an escape such as ``\\n`` ends in a letter, too."""
_SECRET_NAMES = (
    rb"(?:x-)?api[_-]?key|(?:proxy-)?authorization|password|passwd|secret|client[_-]secret"
    rb"|(?:access|auth|refresh|id|bearer)[_-]?token|cookie|set-cookie"
)
_SECRET_MEMBERS = (
    re.compile(rb'("(?:' + _SECRET_NAMES + rb')"\s*:\s*")(?:[^"\\]|\\.)+', re.IGNORECASE),
    # The same in JSON inside a JSON string, such as the arguments of a call.
    re.compile(rb'(\\"(?:' + _SECRET_NAMES + rb')\\"\s*:\s*\\")[^"\\]+', re.IGNORECASE),
)
_BEARER = re.compile(_START + rb"((?:Bearer|Basic)\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
_TOKENS = re.compile(
    _START
    + rb"(?:"
    + rb"|".join(
        (
            rb"sk-[\w*-]{8,}",  # OpenAI, Anthropic, DeepSeek; asterisks where an error hides some
            rb"(?:hf|nvapi|gsk|xai|r8|pplx|glpat|npm)[_-][\w-]{16,}",
            rb"gh[oprsu]_\w{16,}",
            rb"github_pat_\w{16,}",
            rb"AKIA[0-9A-Z]{16}",
            rb"AIza[\w-]{30,}",
            rb"xox[a-z]-[\w-]{10,}",
            rb"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*",  # a JSON web token
        )
    )
    + rb")"
)
_HOMES = re.compile(_START + rb"(/(?:home|Users)/|[A-Za-z]:(?:\\{1,4}|/)Users(?:\\{1,4}|/))[\w.-]+")


class Redaction:
    """Replaces secrets and paths in JSON bodies and in streams; sizes may change, JSON stays JSON.

    A secret that a model spells over several deltas is not seen, so redact what the model is told.
    """

    def __init__(self, secrets: Iterable[str], paths: Iterable[tuple[str, str]]) -> None:
        """Redact by pattern, and these besides.

        Args:
            secrets: Texts to replace wherever they stand, short ones only as words of their own.
            paths: Absolute paths, and what to write for each.
        """
        forms = {form for s in secrets if s for form in (s.encode(), encode(s)[1:-1])}
        self._secrets = [
            re.compile(re.escape(form) if len(form) > 7 else _START + re.escape(form) + rb"(?!\w)")
            for form in sorted(forms, key=len, reverse=True)
        ]
        found = sorted(((p, other) for p, other in paths if len(p) > 1), key=lambda p: -len(p[0]))
        self._paths = [
            (re.compile(_START + re.escape(encode(path)[1:-1]) + rb"(?![\w-])"), other.encode())
            for path, other in found
        ]

    @classmethod
    def of_machine(cls, *secrets: str | None) -> Self:
        """A redaction that knows where this process runs."""
        temporary = tempfile.gettempdir()
        paths = [
            (str(Path.cwd()), "/project"),
            (sys.prefix, "/python"),
            (str(Path.home()), "/home/user"),
            (temporary, "/tmp"),
        ]
        return cls([secret for secret in secrets if secret], paths)

    def apply(self, body: bytes) -> bytes:
        """The body without secrets."""
        for secret in self._secrets:
            body = secret.sub(REDACTED, body)
        for member in _SECRET_MEMBERS:
            body = member.sub(rb"\1" + REDACTED, body)
        body = _BEARER.sub(rb"\1" + REDACTED, body)
        body = _TOKENS.sub(REDACTED, body)
        for path, other in self._paths:
            body = path.sub(other.replace(b"\\", rb"\\"), body)
        return _HOMES.sub(rb"\1user", body)
