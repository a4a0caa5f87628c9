"""``dragoman fixtures``: check a corpus of golden cases, and record new ones."""

import argparse
import asyncio
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from backends.base import Backend, UpstreamRequest
from backends.errors import BackendError
from backends.openai_compatible import OpenAICompatibleBackend
from backends.transport import AsyncioTransport
from proxy import corpus, goldens, outcomes
from proxy.corpus import Case, CaseFailed, Facts
from proxy.redaction import Redaction
from translators.errors import UpstreamProtocolError
from translators.events import fold
from translators.profiles import PROFILES
from translators.translation import Translation
from translators.wire import JSON, decode_object, encode

_READ_LIMIT_S = 120.0


class RecordError(Exception):
    """An exchange cannot be recorded as it was asked for."""


def add_fixtures_flags(parser: argparse.ArgumentParser) -> None:
    """Add the commands ``check`` and ``record``."""
    commands = parser.add_subparsers(dest="fixtures", required=True, metavar="COMMAND")
    checking = commands.add_parser("check", help="translate every case and compare the goldens")
    checking.add_argument("folder", nargs="?", default="fixtures", metavar="DIR")
    checking.add_argument("--only", default="", metavar="TEXT", help="cases whose id has this text")
    recording = commands.add_parser(
        "record",
        help="make a case of one live exchange, without its secrets",
        description="Send a request to an upstream and keep what came back as a case. Its folder "
        "is .../<caller>-<upstream>/<case>, which names the dialects.",
        epilog="Headers are not kept. Keys and paths of this machine are taken out of the request "
        "before it is sent, and out of the answer.",
    )
    recording.add_argument("folder", metavar="CASE_FOLDER")
    recording.add_argument("--request", required=True, metavar="FILE", help="the caller's request")
    recording.add_argument("--upstream", required=True, metavar="URL", help="API root, with /v1")
    recording.add_argument("--key-env", metavar="NAME", help="variable with the upstream's key")
    recording.add_argument("--profile", choices=tuple(PROFILES), default="vllm")
    recording.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a choice of the operator, such as hosted_tools=drop",
    )
    recording.add_argument(
        "--both", action="store_true", help="ask twice: for a whole reply, and for a stream"
    )
    recording.add_argument("--note", default="", metavar="TEXT", help="what a reader should know")
    recording.add_argument("--force", action="store_true", help="replace the case if it is there")


def fixtures(options: argparse.Namespace) -> int:
    """Run a command; returns its exit status.

    Raises:
        RecordError: The exchange cannot be recorded as it was asked for.
        TranslationError: The request cannot be translated.
    """
    if options.fixtures == "check":
        return check(Path(options.folder), options.only)
    return record(options)


# --- check -----------------------------------------------------------------------------------


def check(root: Path, only: str = "") -> int:
    """Run a corpus: one line for each case that fails, then a count.

    Args:
        root: The folder that holds the pairs.
        only: Text that a case's id has to contain.

    Returns:
        The exit status: 1 if a case failed or there is none.
    """
    count = failed = 0
    for folder in corpus.case_folders(root):
        if only not in f"{folder.parent.name}/{folder.name}":
            continue
        count += 1
        try:
            goldens.check(corpus.load_case(folder))
        except CaseFailed as error:
            failed += 1
            _say(str(error))
        except Exception as error:
            error.add_note(f"in the case {folder}")
            raise
    if not count:
        _say(f"no cases under {root}" + (f" have {only!r} in their id" if only else ""))
        return 1
    _say(f"{count} cases, {failed} failed" if failed else f"{count} cases, all as they should be")
    return 1 if failed else 0


# --- record ----------------------------------------------------------------------------------


def record(options: argparse.Namespace) -> int:
    """Make a case of a live exchange; an upstream's error is one, too.

    Nothing is written before the whole exchange is there.

    Returns:
        The exit status: 1 if the new case fails, because two answers to one request differ.

    Raises:
        RecordError: The folder is there already or names no pair, the key is missing, or the
            upstream does not answer.
        TranslationError: The request cannot be translated, so there is nothing to send.
    """
    folder = Path(options.folder).absolute()
    if folder.parent.name not in corpus.PAIRS:
        pairs = ", ".join(corpus.PAIRS)
        raise RecordError(f"{folder}: the folder above a case is one of {pairs}")
    if folder.exists() and not options.force:
        raise RecordError(f"{folder} is there already; --force replaces it")
    key = _key(options.key_env)
    redaction = Redaction.of_machine(key)
    body = redaction.apply(Path(options.request).read_bytes())
    if options.both:
        body = encode({**decode_object(body), "stream": True})
    facts = Facts(
        source="recorded an OpenAI-compatible server",
        notes=options.note,
        profile=options.profile,
        policy=dict(_policy(choice) for choice in options.policy),
    )
    try:
        facts.settings()
    except ValueError as error:
        raise RecordError(f"--policy: {error}") from error
    case = Case(folder, facts, frozenset())
    try:
        files, status, version = asyncio.run(
            _exchange(case, body, options.upstream, key, is_both=options.both)
        )
    except BackendError as error:
        raise RecordError(f"{options.upstream}: {error}") from error
    if version is not None:
        facts = msgspec.structs.replace(facts, source=f"recorded vllm {version}")
    files = {name: redaction.apply(data) for name, data in files.items()}
    facts = msgspec.structs.replace(facts, status=status)
    return make_case(folder, {corpus.REQUEST: body, **files}, facts)


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not (key := os.environ.get(variable, "").strip()):
        raise RecordError(f"the environment variable {variable} is not set")
    return key


def _policy(choice: str) -> tuple[str, str]:
    name, equals, value = choice.partition("=")
    if not equals:
        raise RecordError(f"--policy {choice}: it is NAME=VALUE")
    return name, value


async def _exchange(
    case: Case, body: bytes, url: str, key: str | None, *, is_both: bool
) -> tuple[dict[str, bytes], int | None, str | None]:
    """The upstream's answers by file name, the status of an error, and a vLLM's version."""
    request = decode_object(body)
    requests = [{**request, "stream": kind} for kind in (False, True)] if is_both else [request]
    files: dict[str, bytes] = {}
    backend = _connect(url, key)
    try:
        for asked in requests:
            translation = case.translation()
            name, answer, status = await _ask(backend, translation, translation.request(asked))
            files[name] = answer
            if name == corpus.ERROR and len(files) == 1:
                return files, status, await _version(url)
    finally:
        await backend.aclose()
    if is_both and files.keys() != {corpus.REPLY, corpus.STREAM}:
        raise RecordError(f"--both: the answers were {', '.join(sorted(files))}")
    if is_both:
        files[corpus.STREAM] = _align(case, body, files)
    return files, None, await _version(url)


def _connect(url: str, key: str | None) -> OpenAICompatibleBackend:
    transport = AsyncioTransport(read_timeout_s=_READ_LIMIT_S)
    return OpenAICompatibleBackend("upstream", url, transport, api_key=key)


async def _ask(backend: Backend, translation: Translation, request: JSON) -> tuple[str, bytes, int]:
    """Which file the answer is, its body and its status."""
    headers = (("content-type", "application/json"), ("accept-encoding", "identity"))
    path = translation.upstream.path
    reply = await backend.send(UpstreamRequest("POST", path, headers, encode(request)))
    try:
        body = b"".join([chunk async for chunk in reply.chunks()])
    finally:
        await reply.aclose()
    if reply.status >= 400:
        return corpus.ERROR, body, reply.status
    if reply.headers.get("content-type", "").startswith("text/event-stream"):
        return corpus.STREAM, body, reply.status
    return corpus.REPLY, body, reply.status


class _Version(msgspec.Struct):
    version: str


async def _version(url: str) -> str | None:
    """The version that a vLLM says, ``None`` if it is none."""
    backend = _connect(url.rstrip("/").removesuffix("/v1"), None)
    try:
        reply = await backend.send(UpstreamRequest("GET", "/version"))
        try:
            body = b"".join([chunk async for chunk in reply.chunks()])
        finally:
            await reply.aclose()
        return msgspec.json.decode(body, type=_Version).version
    except (BackendError, msgspec.DecodeError):
        return None  # the exchange is worth keeping nevertheless
    finally:
        await backend.aclose()


def _align(case: Case, body: bytes, files: Mapping[str, bytes]) -> bytes:
    """The stream under the ids of the whole reply.

    Servers mint them at random, and check 7 compares them; nothing else is touched.
    """
    translation = case.translation()
    translation.request(decode_object(body))
    try:
        told = translation.upstream.read_response(
            decode_object(files[corpus.REPLY], UpstreamProtocolError), translation.ctx
        )
    except UpstreamProtocolError:
        return files[corpus.STREAM]
    streamed = fold(outcomes.events_of(files[corpus.STREAM], translation))
    names: dict[bytes, bytes] = {}
    for one, other in zip(streamed.output, told.output, strict=False):
        if type(one) is type(other):
            for member in ("id", "call_id"):
                old, new = getattr(one, member, None), getattr(other, member, None)
                if old and new:
                    names[encode(old)] = encode(new)
    if not names:
        return files[corpus.STREAM]
    ids = re.compile(b"|".join(map(re.escape, names)))
    return ids.sub(lambda match: names[match[0]], files[corpus.STREAM])


def make_case(folder: Path, files: Mapping[str, bytes], facts: Facts) -> int:
    """Make a case of these inputs, in place of the one that is there; JSON gets indented.

    Returns:
        The exit status: 1 if the case does not hold.
    """
    tidy = {name: _tidy(body) if name.endswith(".json") else body for name, body in files.items()}
    _write(folder, tidy)
    return _make_goldens(folder, facts)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make the folder hold these files of a case, and no others."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in corpus.INPUTS | corpus.GOLDENS:
        (folder / name).unlink(missing_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _make_goldens(folder: Path, facts: Facts) -> int:
    """Have the translators make the goldens, note losses and status, and check the case."""
    (folder / corpus.SENT).touch()  # an empty golden asks for what was sent
    (folder / corpus.FACTS).write_text(_toml(facts), "utf-8")
    case = corpus.load_case(folder)
    outcome = outcomes.translate(case)
    goldens.update(case, outcome)
    facts = msgspec.structs.replace(facts, losses=outcome.losses, status=outcome.status)
    (folder / corpus.FACTS).write_text(_toml(facts), "utf-8")
    for path in sorted(folder.iterdir()):
        _say(f"{path.name}: {path.stat().st_size} bytes")
    try:
        goldens.check(corpus.load_case(folder))
    except CaseFailed as error:
        _say(str(error))
        return 1
    return 0


def _toml(facts: Facts) -> str:
    """Facts as ``case.toml`` holds them: without what is as usual."""
    usual = Facts(source="")
    given = {
        name: value
        for name, value in msgspec.to_builtins(facts).items()
        if name == "source" or value != msgspec.to_builtins(usual)[name]
    }
    tables = {name: value for name, value in given.items() if isinstance(value, dict)}
    lines = [f"{name} = {_toml_value(given[name])}" for name in given if name not in tables]
    for name, members in tables.items():
        lines += ["", f"[{name}]", *(f"{n} = {_toml_value(v)}" for n, v in members.items())]
    return "\n".join([*lines, ""])


def _toml_value(value: JSON) -> str:
    """JSON's strings, numbers and lists of these are TOML's, too."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    return encode(value).decode()


def _tidy(body: bytes) -> bytes:
    """A JSON body, indented; anything else as it is."""
    try:
        return msgspec.json.format(body) + b"\n"
    except msgspec.DecodeError:
        return body


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
