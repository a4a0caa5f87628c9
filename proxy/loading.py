"""Settings from a file, with overrides on top, checked."""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from backends.azure import Form
from proxy.model_settings import check_models
from proxy.presets import PRESETS, complete
from proxy.settings import (
    CHOICES,
    NAMES_UPSTREAM,
    Azure,
    Capture,
    Server,
    Settings,
    Upstream,
    key_of,
)
from proxy.surface import read_endpoints
from proxy.tables import Place, SettingsError, fill
from proxy.vllm_table import gather_flags
from translators.profiles import PROFILES, Profile
from translators.wire import JSON

_ONLY_WITH = {
    "urls": ("eject_after", "health_interval_s", "session_cookie", "drain_file"),
    "max_concurrent": ("queue_limit", "queue_timeout_s"),
}
"""A member of an upstream -> those that do nothing without it."""
_KEYS = ("key", "key_env")
_PLAIN = Upstream()
_LOCAL = frozenset({"127.0.0.1", "localhost", "::1", "0.0.0.0", "::"})


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
    place = Place(path, text)
    environment = os.environ if environment is None else environment
    upstreams = tree.get("upstreams")
    if isinstance(upstreams, dict):  # each for itself, since errors in a table lack its key
        for name, upstream in upstreams.items():
            upstreams[name] = upstream = complete(upstream, environment)
            if isinstance(upstream, dict) and isinstance(vllm := upstream.get("vllm"), dict):
                upstream["vllm"] = gather_flags(vllm, f"upstreams.{name}.vllm", place)
            fill(Upstream, upstream, f"upstreams.{name}", place)
    settings = fill(Settings, tree, "", place)
    _check(settings, place, environment)
    return settings


def _set(
    tree: dict[str, JSON], path: list[str], value: JSON, overrides: Mapping[str, JSON]
) -> None:
    """Set one override; an upstream of another kind than the file's takes its place."""
    for name in path[:-1]:
        below = tree.setdefault(name, {})
        if not isinstance(below, dict):
            return  # which is an error by itself
        if ".".join(path) in (f"upstreams.{name}.{member}" for member in NAMES_UPSTREAM):
            for kind in ("preset", "url", "urls", "azure", "vllm", "demo"):
                if not any(p.startswith(f"upstreams.{name}.{kind}") for p in overrides):
                    for member in (kind, *_ONLY_WITH.get(kind, ())):
                        below.pop(member, None)
            if path[-2] == "vllm":
                for member in _KEYS:
                    if f"upstreams.{name}.{member}" not in overrides:
                        below.pop(member, None)
        tree = below
    if path[-1] == "key_env":
        tree.pop("key", None)
    tree[path[-1]] = value


def _check(settings: Settings, place: Place, environment: Mapping[str, str]) -> None:
    _check_word("log.level", settings.log.level, CHOICES["log.level"], place)
    _check_word("log.format", settings.log.format, CHOICES["log.format"], place)
    secret = settings.server.reasoning_key_env
    _check_variable("server.reasoning_key_env", secret, place, environment)
    for i, entry in enumerate(settings.server.relay):
        try:
            read_endpoints([entry])
        except ValueError as error:
            raise SettingsError(f"{place.of(f'server.relay[{i}]')}: {error}") from error
    _check_capture(settings.capture, place)
    for name, upstream in settings.upstreams.items():
        _check_upstream(f"upstreams.{name}", upstream, place, environment)
        for at, url in _urls_of(upstream):
            if _is_ours(url, settings.server):
                raise SettingsError(
                    f"{place.of(f'upstreams.{name}.{at}')}: the proxy itself listens there; "
                    "choose another port for one of both"
                )
    check_models(settings, place, environment)


def _check_capture(capture: Capture | None, place: Place) -> None:
    if capture is not None:
        folder = Path(capture.dir).expanduser()
        if folder.exists() and not folder.is_dir():
            raise SettingsError(
                f"{place.of('capture.dir')}: '{capture.dir}' is a file; expected a folder"
            )


def _check_upstream(
    at: str, upstream: Upstream, place: Place, environment: Mapping[str, str]
) -> None:
    if upstream.preset is not None:
        _check_word(f"{at}.preset", upstream.preset, tuple(PRESETS), place)
    kinds = [upstream.url, upstream.urls, upstream.azure, upstream.vllm, upstream.demo or None]
    if sum(kind is not None for kind in kinds) != 1:
        raise SettingsError(
            f"{place.of(at)}: set exactly one of preset, url, urls, azure, vllm and demo"
        )
    _check_company(at, upstream, place)
    _check_drain_file(at, upstream, place)
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
    _check_azure(f"{at}.azure", upstream.azure, place)
    _check_word(f"{at}.speaks", upstream.speaks, CHOICES["speaks"], place)
    if upstream.render is not None:
        _check_word(f"{at}.render", upstream.render, CHOICES["render"], place)
        if upstream.speaks != "completions":
            raise SettingsError(
                f'{place.of(f"{at}.render")}: only with speaks = "completions" is a prompt rendered'
            )
    _check_word(f"{at}.profile", upstream.profile, CHOICES["profile"], place)
    _check_variable(f"{at}.key_env", upstream.key_env, place, environment)
    key = key_of(upstream, environment)
    if key is not None and not re.fullmatch(r"[\x21-\x7e]+", key.strip()):
        name = "key" if upstream.key is not None else "key_env"
        raise SettingsError(
            f"{place.of(f'{at}.{name}')}: expected a key of printable ASCII characters"
        )
    base = msgspec.to_builtins(PROFILES[upstream.profile])
    fill(Profile, {**base, **upstream.overrides}, f"{at}.overrides", place)


def _check_company(at: str, upstream: Upstream, place: Place) -> None:
    """Refuse what does nothing beside, or without, other settings."""
    for needed, members in _ONLY_WITH.items():
        for member in members:
            is_set = getattr(upstream, member) != getattr(_PLAIN, member)
            if is_set and getattr(upstream, needed) is None:
                raise SettingsError(
                    f"{place.of(f'{at}.{member}')}: only with '{needed}' does it do anything"
                )
    for member in _KEYS:
        if getattr(upstream, member) is None:
            continue
        here = place.of(f"{at}.{member}")
        if upstream.vllm is not None:
            raise SettingsError(
                f"{here}: a spawned vLLM gets a random key; 'api_key' in its table sets another one"
            )
        if upstream.demo:
            raise SettingsError(f"{here}: the embedded demo takes no key")
    if upstream.key is not None and upstream.key_env is not None:
        raise SettingsError(f"{place.of(f'{at}.key_env')}: set key or key_env, not both")


def _check_drain_file(at: str, upstream: Upstream, place: Place) -> None:
    """Refuse a file that is never read, or that nobody can write."""
    if upstream.drain_file is None:
        return
    here = place.of(f"{at}.drain_file")
    if upstream.health_interval_s == 0:
        raise SettingsError(f"{here}: with health_interval_s = 0 it is never read")
    path = Path(upstream.drain_file).expanduser()
    if path.is_dir() or not path.parent.is_dir():
        raise SettingsError(f"{here}: expected a file in a folder that is there")


def _check_azure(at: str, azure: Azure | None, place: Place) -> None:
    if azure is None:
        return
    if re.search(r"/openai(/|$)", urlsplit(azure.endpoint).path):
        raise SettingsError(f"{place.of(f'{at}.endpoint')}: leave out /openai and all behind it")
    if azure.form is Form.DEPLOYMENTS and azure.api_version is None:
        raise SettingsError(f"{place.of(at)}: the form 'deployments' needs an api_version")
    if azure.form is Form.V1 and azure.deployment is not None:
        raise SettingsError(
            f"{place.of(f'{at}.deployment')}: the form 'v1' names it in the body: "
            "set a model's upstream_model, or the form 'deployments'"
        )


def _urls_of(upstream: Upstream) -> list[tuple[str, str]]:
    """The URLs of an upstream, each with the setting that holds it."""
    if upstream.url is not None:
        return [("url", upstream.url)]
    if upstream.azure is not None:
        return [("azure.endpoint", upstream.azure.endpoint)]
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


def _check_word(at: str, value: str, words: tuple[str, ...], place: Place) -> None:
    if value not in words:
        raise SettingsError(f"{place.of(at)}: '{value}' is none of {', '.join(words)}")


def _check_variable(
    at: str, variable: str | None, place: Place, environment: Mapping[str, str]
) -> None:
    if variable is not None and not environment.get(variable):
        raise SettingsError(f"{place.of(at)}: the environment variable '{variable}' is not set")
