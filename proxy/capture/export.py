"""Golden cases made of captured calls."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from proxy import corpus
from proxy.capture.reader import CapturedCall, Rollout, body_of, has_body
from proxy.corpus import Facts
from proxy.fixtures import RecordError, make_case
from proxy.redaction import Redaction
from translators.dialect import Dialect

_SOURCE = "recorded a capture of Dragoman"


def export(
    rollouts: Iterable[Rollout], root: Path, profile: str, only: str | None, *, force: bool
) -> int:
    """Make a case of each call whose request can be read.

    A call that was translated, and whose upstream's side was recorded, becomes a whole case.
    Of any other call the request alone becomes one, for the pair of its dialect and the other.

    Args:
        rollouts: Where the calls are.
        root: Folder of the pairs' folders.
        profile: Name of the upstream's profile.
        only: The ``model_call_id`` of the one call to export.
        force: Whether cases that are there are replaced.

    Returns:
        The exit status: 1 if a case does not hold, or none was made.

    Raises:
        RecordError: A case is there already.
    """
    redaction = Redaction.of_machine()
    rollouts = list(rollouts)
    slugs = Counter(_slug(rollout.name) for rollout in rollouts)
    made = failed = 0
    for rollout in rollouts:
        prefix = _slug(rollout.name)
        if slugs[prefix] > 1:
            prefix += f"-{hashlib.blake2b(rollout.name.encode(), digest_size=4).hexdigest()}"
        for number, call in enumerate(rollout.calls(), 1):
            pair = _pair_of(call)
            if pair not in corpus.PAIRS or not has_body(call.request):
                continue
            if only not in (None, call.model_call_id):
                continue
            folder = root / pair / f"{prefix}-{number}".strip("-")
            if folder.exists() and not force:
                raise RecordError(f"{folder} is there already; --force replaces it")
            files, status = _inputs_of(call)
            clean = {file: redaction.apply(body) for file, body in files.items()}
            made += 1
            failed += make_case(
                folder, clean, Facts(source=_SOURCE, profile=profile, status=status)
            )
    return 1 if failed or not made else 0


def _slug(rollout: str) -> str:
    """A rollout's name as those of cases are written; different ones may become the same."""
    return re.sub(r"[^a-z0-9]+", "-", rollout.lower()).strip("-")


def _pair_of(call: CapturedCall) -> str:
    """Caller's and upstream's dialect; if they are the same, or unknown, the caller's and another.

    What is no pair of the corpus belongs to a dialect that is not known here.
    """
    upstream = None if call.upstream is None else call.upstream.dialect
    if upstream in (None, call.dialect):
        upstream = next(dialect.value for dialect in Dialect if dialect.value != call.dialect)
    return f"{call.dialect}-{upstream}"


def _inputs_of(call: CapturedCall) -> tuple[dict[str, bytes], int | None]:
    """The inputs of a call's case, and the status of an upstream's error."""
    files = {corpus.REQUEST: bytes(call.request)}
    upstream = call.upstream
    if upstream is None or upstream.dialect == call.dialect:
        return files, None
    is_json = has_body(upstream.response)
    reply = bytes(upstream.response) if is_json else (upstream.response_raw or "").encode()
    if upstream.status_code >= 400:
        return {**files, corpus.ERROR: reply}, upstream.status_code
    is_stream = not is_json and body_of(upstream.request).get("stream") is True
    return {**files, corpus.STREAM if is_stream else corpus.REPLY: reply}, None
