"""What an operator can set, and where from: defaults, a TOML file, the environment, flags."""

import difflib
import os
import re
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, get_args, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from backends.vllm_command import printable, printable_flags
from translators.profiles import PROFILES, Policy, Profile
from translators.wire import JSON

DEFAULT = "default"
"""Name of the upstream that flags and ``DRAGOMAN_*`` variables describe."""

_LOCAL = frozenset({"127.0.0.1", "localhost", "::1", "0.0.0.0", "::"})


Limit = Annotated[float, Meta(gt=0)]
"""A duration in seconds."""

S = TypeVar("S", bound=msgspec.Struct)


class SettingsError(Exception):
    """A setting is wrong; the message names it, its place, and what would be right."""


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the proxy listens, and what it accepts.

    Attributes:
        host: Address to listen on.
        port: TCP port; 0 takes a free one.
        max_body_bytes: Largest request body, after decompression.
        heartbeat_s: Seconds of silence after which a translated stream shows that it is alive;
            0 for never.
        reasoning_key_env: Environment variable with the secret that seals reasoning and summaries;
            without one they can be read until the proxy stops.
        drain_s: Seconds that open requests may take when the proxy stops.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    max_body_bytes: Annotated[int, Meta(ge=1)] = 64 * 1024 * 1024
    drain_s: Annotated[float, Meta(ge=0)] = 5.0
    heartbeat_s: Annotated[float, Meta(ge=0)] = 15.0
    reasoning_key_env: str | None = None


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the log looks: ``format`` is ``auto`` (JSON unless on a terminal), ``json``, ``console``.

    ``level`` is ``debug``, ``info``, ``warning`` or ``error``.
    """

    level: str = "info"
    format: str = "auto"


class VLLM(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A vLLM to spawn.

    Attributes:
        model: What vLLM calls the model: a folder or a repository.
        python: Interpreter of another environment that has vLLM.
        flags: vLLM's flags by name, such as ``tensor_parallel_size``.
        args: Further arguments; they win over the flags.
        env: More environment variables.
        log_file: File to which vLLM's whole output is appended.
        stall_timeout_s: The start failed if vLLM logs nothing for so long.
        health_interval_s: Pause between two questions for its health.
        health_failures: So many bad answers in a row make it unhealthy.
        restart: Whether it is restarted after it exited or became unhealthy.
        restart_backoff_s: Pause before the first restart; each further one doubles it.
        restart_backoff_cap_s: The longest pause.
        restart_wait_s: So long may a request wait for a restart; with 0 it is refused at once.
    """

    model: str
    python: str | None = None
    flags: dict[str, JSON] = {}
    args: list[str] = []
    env: dict[str, str] = {}
    log_file: str | None = None
    stall_timeout_s: Limit = 600.0
    health_interval_s: Limit = 5.0
    health_failures: Annotated[int, Meta(ge=1)] = 3
    restart: bool = True
    restart_backoff_s: Limit = 1.0
    restart_backoff_cap_s: Limit = 60.0
    restart_wait_s: Annotated[float, Meta(ge=0)] = 0.0


class Upstream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One upstream: a URL, the URLs of replicas, a vLLM to spawn, or the embedded demo.

    Attributes:
        url: API root, such as ``http://127.0.0.1:8000/v1``.
        urls: API roots of servers that serve the same.
        eject_after: Consecutive failures after which one of ``urls`` is left out for a while.
        vllm: A vLLM to spawn.
        demo: Whether it is the embedded demo.
        speaks: ``chat``, ``responses`` or ``auto``, which asks the upstream once.
        key: Key to send; never shown.
        key_env: Environment variable that holds the key.
        profile: Name of the profile that says how it wants to be spoken to.
        overrides: Members of the profile that differ.
        connect_timeout_s: Limit for making a connection.
        read_timeout_s: Limit for the silence between two reads.
    """

    url: str | None = None
    urls: Annotated[list[str], Meta(min_length=1)] | None = None
    vllm: VLLM | None = None
    demo: bool = False
    speaks: str = "auto"
    key: str | None = None
    key_env: str | None = None
    profile: str = "vllm"
    overrides: dict[str, JSON] = {}
    eject_after: Annotated[int, Meta(ge=1)] = 3
    connect_timeout_s: Limit = 10.0
    read_timeout_s: Limit = 600.0


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A public model name.

    Attributes:
        name: What callers ask for.
        upstream: The upstream that serves it.
        upstream_model: What the upstream calls it; the same name if absent.
        defaults: Request members to add where the caller is silent, in the upstream's dialect.
        sets: Request members to set whatever the caller says, in the upstream's dialect.
    """

    name: str
    upstream: str = DEFAULT
    upstream_model: str | None = None
    defaults: dict[str, JSON] = {}
    sets: dict[str, JSON] = {}


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set."""

    server: Server = Server()
    log: Log = Log()
    policy: Policy = Policy()
    upstreams: dict[str, Upstream] = {}
    models: list[Model] = []


CHOICES: Mapping[str, tuple[str, ...]] = {
    "log.level": ("debug", "info", "warning", "error"),
    "log.format": ("auto", "json", "console"),
    "speaks": ("auto", "chat", "responses"),
    "profile": tuple(PROFILES),
}
"""Settings whose values are words of a list, by path or last name."""


def load(
    path: Path | None, overrides: Mapping[str, JSON], environment: Mapping[str, str] | None = None
) -> Settings:
    """Settings from a file, with overrides on top.

    Args:
        path: TOML file, ``None`` for none.
        overrides: Dotted path (``server.port``, ``upstreams.default.url``) -> value.
        environment: Variables that ``key_env`` may name.

    Raises:
        SettingsError: A setting is wrong, or the file cannot be read.
    """
    text = ""
    tree: dict[str, JSON] = {}
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8")
            tree = tomllib.loads(text)
        except OSError as error:
            raise SettingsError(f"{path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path}: {error}") from error
    for dotted, value in overrides.items():
        _set(tree, dotted.split("."), value, overrides)
    place = _Place(path, text)
    upstreams = tree.get("upstreams")
    if isinstance(upstreams, dict):  # each for itself, since errors in a table lack its key
        for name, upstream in upstreams.items():
            _fill(Upstream, upstream, f"upstreams.{name}", place)
    settings = _fill(Settings, tree, "", place)
    _check(settings, place, os.environ if environment is None else environment)
    return settings


def profile_of(upstream: Upstream) -> Profile:
    """The profile of an upstream, with its overrides."""
    base = msgspec.to_builtins(PROFILES[upstream.profile])
    return msgspec.convert({**base, **upstream.overrides}, Profile)


def key_of(upstream: Upstream, environment: Mapping[str, str] | None = None) -> str | None:
    """The key to send to an upstream, ``None`` if the caller's passes through."""
    if upstream.key is not None:
        return upstream.key
    if upstream.key_env is None:
        return None
    return (os.environ if environment is None else environment).get(upstream.key_env)


def secret_of(server: Server, environment: Mapping[str, str] | None = None) -> str | None:
    """The secret that seals what callers keep for us, ``None`` if none is set."""
    if server.reasoning_key_env is None:
        return None
    return (os.environ if environment is None else environment).get(server.reasoning_key_env)


def public(settings: Settings) -> JSON:
    """The settings without their secrets, for display."""
    tree = msgspec.to_builtins(settings)
    for upstream in tree["upstreams"].values():
        if upstream["key"] is not None:
            upstream["key"] = "(hidden)"
        if upstream["vllm"] is not None:
            upstream["vllm"]["env"] = dict.fromkeys(upstream["vllm"]["env"], "(hidden)")
            upstream["vllm"]["args"] = shlex.split(printable(upstream["vllm"]["args"]))
            upstream["vllm"]["flags"] = printable_flags(upstream["vllm"]["flags"])
    return _without_none(tree)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_none(v) for v in value]
    return value


def _set(
    tree: dict[str, JSON], path: list[str], value: JSON, overrides: Mapping[str, JSON]
) -> None:
    """Set one override; an upstream of another kind than the file's takes its place."""
    for name in path[:-1]:
        below = tree.setdefault(name, {})
        if not isinstance(below, dict):
            return  # which is an error by itself
        if ".".join(path) in (f"upstreams.{name}.url", f"upstreams.{name}.vllm.model"):
            for kind in ("url", "urls", "vllm", "demo"):
                if not any(p.startswith(f"upstreams.{name}.{kind}") for p in overrides):
                    below.pop(kind, None)
        tree = below
    tree[path[-1]] = value


def _fill(cls: type[S], value: JSON, at: str, place: "_Place") -> S:
    """Fill a Struct from the table at a dotted path.

    Raises:
        SettingsError: The table is wrong.
    """
    try:
        return msgspec.convert(value, cls)
    except msgspec.ValidationError as error:
        raise SettingsError(_explain(error, cls, at, place)) from error


class _Place:
    """Where a setting stands in its file."""

    def __init__(self, path: Path | None, text: str) -> None:
        self._path = path
        self._text = text

    def of(self, dotted: str) -> str:
        """``file:line: key``, or the key alone if it is not from a file."""
        line = find_line(self._text, dotted)
        if self._path is None or line is None:
            return dotted
        return f"{self._path}:{line}: {dotted}"


def find_line(text: str, dotted: str) -> int | None:
    """The line, counted from 1, at which a TOML text sets a dotted key or opens its table."""
    table = ""
    counts: dict[str, int] = {}
    best: int | None = None
    target = re.sub(r"\[(\d+)\]", r".\1", dotted)
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?$", line):
            table = header[1].replace('"', "")
            if line.lstrip().startswith("[["):
                counts[table] = counts.get(table, -1) + 1
            for array, index in counts.items():
                if f"{table}.".startswith(f"{array}."):
                    table = f"{array}.{index}{table.removeprefix(array)}"
            path = table
        elif key := re.match(r"\s*([A-Za-z0-9_.\"-]+)\s*=", line):
            path = f"{table}.{key[1]}".lstrip(".").replace('"', "")
        else:
            continue
        if target == path:
            return number
        if target.startswith(f"{path}."):
            best = number
    return best


def _explain(error: msgspec.ValidationError, cls: Any, at: str, place: _Place) -> str:
    match = re.match(r"(?P<what>.*?)(?: - at `\$\.?(?P<tail>[^`]*)`)?$", str(error), re.DOTALL)
    what, tail = (match["what"], match["tail"] or "") if match else (str(error), "")
    tail = tail.replace("[...]", "")
    path = f"{at}.{tail}".strip(".")
    if unknown := re.search(r"unknown field `(.+)`", what):
        known = sorted(_type_at(cls, tail).__struct_fields__)
        near = difflib.get_close_matches(unknown[1], known, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
        return f"{place.of(f'{path}.{unknown[1]}'.lstrip('.'))}: unknown setting; {hint}"
    if word := re.match(r"Invalid enum value (.+)", what):
        return f"{place.of(path)}: {word[1]} is none of {', '.join(_type_at(cls, tail))}"
    return f"{place.of(path)}: {what}"


def _type_at(cls: Any, path: str) -> Any:
    """The type of a setting by its path below a Struct, without the ``None`` of optional ones."""
    for step in ["", *re.findall(r"[^.\[\]]+", path)]:
        if isinstance(cls, type) and issubclass(cls, msgspec.Struct) and step:
            cls = get_type_hints(cls)[step]
        elif step:
            cls = get_args(cls)[-1]
        cls = next((c for c in get_args(cls) if isinstance(cls, UnionType) and c), cls)
    return cls


def _check(settings: Settings, place: _Place, environment: Mapping[str, str]) -> None:
    _check_word("log.level", settings.log.level, CHOICES["log.level"], place)
    _check_word("log.format", settings.log.format, CHOICES["log.format"], place)
    secret = settings.server.reasoning_key_env
    _check_variable("server.reasoning_key_env", secret, place, environment)
    for name, upstream in settings.upstreams.items():
        _check_upstream(f"upstreams.{name}", upstream, place, environment)
        for at, url in _urls_of(upstream):
            if _is_ours(url, settings.server):
                raise SettingsError(
                    f"{place.of(f'upstreams.{name}.{at}')}: the proxy itself listens there; "
                    "choose another port for one of both"
                )
    names = [model.name for model in settings.models]
    for i, model in enumerate(settings.models):
        if model.name in names[:i]:
            raise SettingsError(f"{place.of(f'models[{i}].name')}: '{model.name}' comes twice")
        if model.upstream not in settings.upstreams:
            known = ", ".join(settings.upstreams) or "none"
            raise SettingsError(
                f"{place.of(f'models[{i}].upstream')}: no upstream '{model.upstream}'; "
                f"known: {known}"
            )


def _check_upstream(
    at: str, upstream: Upstream, place: _Place, environment: Mapping[str, str]
) -> None:
    kinds = [upstream.url, upstream.urls, upstream.vllm, upstream.demo or None]
    if sum(kind is not None for kind in kinds) != 1:
        raise SettingsError(f"{place.of(at)}: set exactly one of url, urls, vllm and demo")
    known: set[str] = set()
    for name, url in _urls_of(upstream):
        if not _is_root(url):
            raise SettingsError(
                f"{place.of(f'{at}.{name}')}: expected a URL such as http://127.0.0.1:8000/v1, "
                "without a query, a user or a password"
            )
        if url.rstrip("/") in known:
            raise SettingsError(f"{place.of(f'{at}.{name}')}: '{url}' comes twice")
        known.add(url.rstrip("/"))
    _check_word(f"{at}.speaks", upstream.speaks, CHOICES["speaks"], place)
    _check_word(f"{at}.profile", upstream.profile, CHOICES["profile"], place)
    _check_variable(f"{at}.key_env", upstream.key_env, place, environment)
    key = key_of(upstream, environment)
    if key is not None and not re.fullmatch(r"[\x21-\x7e]+", key.strip()):
        name = "key" if upstream.key is not None else "key_env"
        raise SettingsError(
            f"{place.of(f'{at}.{name}')}: expected a key of printable ASCII characters"
        )
    base = msgspec.to_builtins(PROFILES[upstream.profile])
    _fill(Profile, {**base, **upstream.overrides}, f"{at}.overrides", place)


def _urls_of(upstream: Upstream) -> list[tuple[str, str]]:
    """The URLs of an upstream, each with the setting that holds it."""
    if upstream.url is not None:
        return [("url", upstream.url)]
    return [(f"urls[{i}]", url) for i, url in enumerate(upstream.urls or ())]


def _is_root(url: str) -> bool:
    """Whether paths can be put behind a URL."""
    if not re.fullmatch(r"https?://[^/\s?#@]+(/[^\s?#]*)?", url):
        return False
    try:
        urlsplit(url).port  # noqa: B018 - it is read to be checked
    except ValueError:
        return False
    return True


def _is_ours(url: str, server: Server) -> bool:
    """Whether a URL leads back to the proxy."""
    parts = urlsplit(url)
    is_here = parts.hostname == server.host or {parts.hostname, server.host} <= _LOCAL
    return is_here and parts.port == server.port


def _check_word(at: str, value: str, words: tuple[str, ...], place: _Place) -> None:
    if value not in words:
        raise SettingsError(f"{place.of(at)}: '{value}' is none of {', '.join(words)}")


def _check_variable(
    at: str, variable: str | None, place: _Place, environment: Mapping[str, str]
) -> None:
    if variable is not None and not environment.get(variable):
        raise SettingsError(f"{place.of(at)}: the environment variable '{variable}' is not set")
