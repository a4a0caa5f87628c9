"""The command ``dragoman``: serve, check, translate, fixtures, captures."""

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from backends.errors import BackendError
from backends.replicas import ReplicaSet
from proxy.capture.command import add_captures_flags, captures
from proxy.discovery import KNOWN, find_local
from proxy.fixtures import RecordError, add_fixtures_flags, fixtures
from proxy.loading import load
from proxy.log import configure, logging_to_stderr
from proxy.options import add_flags, overrides
from proxy.running import Spawned, ask_running
from proxy.serve import PortTaken, serve
from proxy.settings import DEFAULT, NAMES_UPSTREAM, Settings, Upstream, public
from proxy.tables import SettingsError
from proxy.translate import KINDS, add_translate_flags, translate
from proxy.upstreams import build_upstream
from translators.errors import TranslationError
from translators.wire import JSON

_PROBE_LIMIT_S = 10.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    arguments, rest = _split(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        match options.command:
            case "translate":
                return translate(options)
            case "fixtures":
                return fixtures(options)
            case "captures":
                return captures(options)
            case "check":
                with logging_to_stderr():
                    return asyncio.run(_check(_settings(options, rest)))
            case _:
                return _serve(options, rest)
    except (SettingsError, PortTaken, TranslationError, RecordError, OSError) as error:
        print(f"dragoman: {error}", file=sys.stderr)  # noqa: T201 - the command's own voice
        return 2
    except KeyboardInterrupt:
        return 130


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our arguments, and those for vLLM after ``--``."""
    given = list(arguments)
    if "--" not in given:
        return given, []
    cut = given.index("--")
    return given[:cut], given[cut + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dragoman",
        description="A schema translation proxy for LLM APIs.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serving = commands.add_parser(
        "serve",
        help="run the proxy",
        description="Run the proxy. Without --upstream, --preset, --vllm or a settings file it "
        "uses OPENAI_BASE_URL, else a known local server, else an embedded demo model.",
        epilog="Everything after -- goes to vLLM.",
    )
    add_flags(serving)
    checking = commands.add_parser(
        "check", help="print the settings in force and ask each upstream whether it answers"
    )
    add_flags(checking)
    translating = commands.add_parser(
        "translate", help=f"translate a {', '.join(KINDS)} from a file, without a server"
    )
    add_translate_flags(translating)
    add_fixtures_flags(commands.add_parser("fixtures", help="check or record golden cases"))
    add_captures_flags(commands.add_parser("captures", help="read what rollouts recorded"))
    return parser


def _settings(options: argparse.Namespace, vllm_args: Sequence[str]) -> Settings:
    found = overrides(options, os.environ)
    path = options.config or os.environ.get("DRAGOMAN_CONFIG")
    if vllm_args:
        vllm = f"upstreams.{DEFAULT}.vllm"
        if f"{vllm}.model" not in found and path is None:
            raise SettingsError("arguments after -- are for vLLM: name its model with --vllm")
        found[f"{vllm}.args"] = list(vllm_args)
    only_refines = not any(f"upstreams.{DEFAULT}.{name}" in found for name in NAMES_UPSTREAM)
    if path is None and only_refines and os.environ.get("OPENAI_BASE_URL"):
        found[f"upstreams.{DEFAULT}.url"] = os.environ["OPENAI_BASE_URL"]
        only_refines = False
    refined = [p for p in found if p.startswith(f"upstreams.{DEFAULT}.")]
    if path is None and only_refines and refined:
        raise SettingsError(
            f"{refined[0]}: name the upstream too, with --upstream, --preset or --vllm"
        )
    return load(None if path is None else Path(path), found)


def _serve(options: argparse.Namespace, vllm_args: Sequence[str]) -> int:
    settings = _settings(options, vllm_args)
    configure(settings.log)
    return serve(settings, _choose_upstream)


async def _choose_upstream(settings: Settings) -> tuple[Settings, str]:
    """Settings with an upstream, and a sentence on why it is this one."""
    if settings.upstreams:
        names = ", ".join(_describe(name, u) for name, u in settings.upstreams.items())
        return settings, names
    known = [server for server in KNOWN if server.port != settings.server.port]
    local = await find_local(known)
    if local is not None:
        found = Upstream(url=local.url, profile=local.profile)
        sentence = f"{local.title} at {local.url} (found running)"
    else:
        found = Upstream(demo=True)
        sentence = (
            "the embedded demo model: no upstream was named and no local server found; "
            "its answers are canned. Use --upstream URL or --vllm MODEL for a real one"
        )
    return msgspec.structs.replace(settings, upstreams={DEFAULT: found}), sentence


def _describe(name: str, upstream: Upstream) -> str:
    if upstream.vllm is not None:
        return f"{name}: vLLM with {upstream.vllm.model}"
    if upstream.azure is not None:
        return f"{name}: Azure at {upstream.azure.endpoint}"
    urls = [upstream.url] if upstream.url is not None else upstream.urls or []
    return f"{name}: {', '.join(urls) or 'the embedded demo model'}"


async def _check(settings: Settings) -> int:
    """Print the settings and probe each upstream; 1 if one does not answer."""
    settings, _ = await _choose_upstream(settings)
    document = msgspec.json.format(msgspec.json.encode(public(settings))).decode()
    _print(document)
    spawns = any(upstream.vllm is not None for upstream in settings.upstreams.values())
    running = await ask_running(settings.server) if spawns else {}
    results = await asyncio.gather(
        *(_probe(name, upstream, running) for name, upstream in settings.upstreams.items())
    )
    for name, (_, verdict) in zip(settings.upstreams, results, strict=True):
        _print(f"{name}: {verdict}")
    return 0 if all(is_good for is_good, _ in results) else 1


async def _probe(name: str, settings: Upstream, running: Mapping[str, Spawned]) -> tuple[bool, str]:
    if settings.vllm is not None:
        return _judge(running.get(name))
    upstream = build_upstream(name, settings)
    try:
        async with asyncio.timeout(_PROBE_LIMIT_S):
            await upstream.backend.probe()
            dialect = await upstream.dialect()
    except BackendError as error:
        return False, f"does not answer: {error}"
    except TimeoutError:
        return False, "does not answer in time"
    finally:
        await upstream.backend.aclose()
    spoken = "its callers' dialect" if upstream.speaks_both else dialect.value
    silent = upstream.backend.silent if isinstance(upstream.backend, ReplicaSet) else []
    return True, "; ".join([f"answers, and is spoken to in {spoken}", *silent])


def _judge(spawned: Spawned | None) -> tuple[bool, str]:
    """What a running proxy's word on its vLLM means."""
    if spawned is None:
        return True, "a vLLM to be spawned by 'dragoman serve'; not started for this check"
    if spawned.message:
        return False, f"{spawned.state} in the running proxy: {spawned.message}"
    version = f"vLLM {spawned.version}" if spawned.version else "vLLM"
    return True, f"{spawned.state} in the running proxy: {version} with {spawned.model}"


def _print(text: JSON) -> None:
    print(text)  # noqa: T201 - the command's output
