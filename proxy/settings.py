"""What an operator can set, and where from: defaults, a TOML file, the environment, flags."""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from translators.profiles import PROFILES, Policy, Profile
from translators.wire import JSON

DEFAULT = "default"
"""Name of the upstream that flags and ``DRAGOMAN_*`` variables describe."""


class SettingsError(Exception):
    """A setting is wrong; the message names it, its place, and what would be right."""


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the proxy listens, and what it accepts.

    Attributes:
        host: Address to listen on.
        port: TCP port; 0 takes a free one.
        max_body_bytes: Largest request body, after decompression.
        drain_s: Seconds that open requests may take when the proxy stops.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    max_body_bytes: int = 64 * 1024 * 1024
    drain_s: float = 5.0


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the log looks: ``format`` is ``auto`` (JSON unless on a terminal), ``json``, ``console``.

    ``level`` is ``debug``, ``info``, ``warning`` or ``error``.
    """

    level: str = "info"
    format: str = "auto"


class VLLM(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A vLLM to spawn: its model, another interpreter that has it, and further arguments."""

    model: str
    python: str | None = None
    args: list[str] = []
    env: dict[str, str] = {}
    stall_timeout_s: float = 600.0


class Upstream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One upstream: a URL, a vLLM to spawn, or the embedded demo.

    Attributes:
        url: API root, such as ``http://127.0.0.1:8000/v1``.
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
    vllm: VLLM | None = None
    demo: bool = False
    speaks: str = "auto"
    key: str | None = None
    key_env: str | None = None
    profile: str = "vllm"
    overrides: dict[str, JSON] = {}
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 600.0


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
        _set(tree, dotted.split("."), value)
    try:
        settings = msgspec.convert(tree, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(_explain(error, path, text)) from error
    where = _Place(path, text)
    _check(settings, where, os.environ if environment is None else environment)
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


def public(settings: Settings) -> JSON:
    """The settings without their secrets, for display."""
    tree = msgspec.to_builtins(settings)
    for upstream in tree["upstreams"].values():
        if upstream["key"] is not None:
            upstream["key"] = "(hidden)"
        if upstream["vllm"] is not None:
            upstream["vllm"]["env"] = dict.fromkeys(upstream["vllm"]["env"], "(hidden)")
    return _without_none(tree)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_none(v) for v in value]
    return value


def _set(tree: dict[str, JSON], path: list[str], value: JSON) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


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
                table = f"{table}.{counts[table]}"
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


def _explain(error: msgspec.ValidationError, path: Path | None, text: str) -> str:
    match = re.match(r"(?P<what>.*?)(?: - at `\$\.?(?P<at>[^`]*)`)?$", str(error), re.DOTALL)
    what, at = (match["what"], match["at"] or "") if match else (str(error), "")
    at = at.replace("[...]", "")
    unknown = re.search(r"unknown field `(\w+)`", what)
    place = _Place(path, text)
    if unknown is None:
        return f"{place.of(at)}: {what}"
    key = f"{at}.{unknown[1]}".lstrip(".")
    known = _known_keys(at)
    near = difflib.get_close_matches(unknown[1], known, 1)
    hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
    return f"{place.of(key)}: unknown setting; {hint}"


def _known_keys(at: str) -> list[str]:
    structs: dict[str, type[msgspec.Struct]] = {
        "": Settings,
        "server": Server,
        "log": Log,
        "policy": Policy,
        "upstreams": Upstream,
        "vllm": VLLM,
        "models": Model,
    }
    head = re.split(r"[.\[]", at)[0]
    if head == "upstreams" and at.endswith(".vllm"):
        head = "vllm"
    return sorted(structs[head].__struct_fields__)


def _check(settings: Settings, place: _Place, environment: Mapping[str, str]) -> None:
    _check_word("log.level", settings.log.level, CHOICES["log.level"], place)
    _check_word("log.format", settings.log.format, CHOICES["log.format"], place)
    if not 0 <= settings.server.port <= 65535:
        raise SettingsError(f"{place.of('server.port')}: expected a port from 0 to 65535")
    for name, upstream in settings.upstreams.items():
        _check_upstream(f"upstreams.{name}", upstream, place, environment)
    for i, model in enumerate(settings.models):
        if model.upstream not in settings.upstreams:
            known = ", ".join(settings.upstreams) or "none"
            raise SettingsError(
                f"{place.of(f'models[{i}].upstream')}: no upstream '{model.upstream}'; "
                f"known: {known}"
            )


def _check_upstream(
    at: str, upstream: Upstream, place: _Place, environment: Mapping[str, str]
) -> None:
    kinds = (upstream.url is not None) + (upstream.vllm is not None) + upstream.demo
    if kinds != 1:
        raise SettingsError(f"{place.of(at)}: set exactly one of url, vllm and demo")
    if upstream.url is not None and not re.match(r"https?://[^/]", upstream.url):
        raise SettingsError(
            f"{place.of(f'{at}.url')}: expected a URL such as http://127.0.0.1:8000/v1"
        )
    _check_word(f"{at}.speaks", upstream.speaks, CHOICES["speaks"], place)
    _check_word(f"{at}.profile", upstream.profile, CHOICES["profile"], place)
    if upstream.key_env is not None and not environment.get(upstream.key_env):
        raise SettingsError(
            f"{place.of(f'{at}.key_env')}: the environment variable '{upstream.key_env}' is not set"
        )
    try:
        profile_of(upstream)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{place.of(f'{at}.overrides')}: {error}") from error


def _check_word(at: str, value: str, words: tuple[str, ...], place: _Place) -> None:
    if value not in words:
        raise SettingsError(f"{place.of(at)}: '{value}' is none of {', '.join(words)}")
