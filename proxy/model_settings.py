"""What the settings of a model mean: checks when they are loaded, and what is made of them once."""

import os
import re
from collections.abc import Mapping

import msgspec

from proxy.headers import OURS
from proxy.rollouts import check_rollout
from proxy.settings import Model, Settings, Upstream, override, profile_of, speaks_of
from proxy.shaping import TEMPLATE, Shaping
from proxy.tables import Place, SettingsError, fill
from translators.profiles import Policy, Profile, Render
from translators.wire import JSON

_SPEAKS = ("chat", "responses", "completions")
_CALLERS_OWN = frozenset({"model", "stream", "messages", "input", "prompt"})
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")


def check_models(settings: Settings, place: Place, environment: Mapping[str, str]) -> None:
    """Check what the models' types do not say.

    Raises:
        SettingsError: A setting is wrong.
    """
    names: set[str] = set()
    for i, model in enumerate(settings.models):
        at = f"models[{i}]"
        if model.name in names:
            raise SettingsError(f"{place.of(f'{at}.name')}: '{model.name}' comes twice")
        names.add(model.name)
        upstream = settings.upstreams.get(model.upstream)
        if upstream is None:
            known = ", ".join(settings.upstreams) or "none"
            raise SettingsError(
                f"{place.of(f'{at}.upstream')}: no upstream '{model.upstream}'; known: {known}"
            )
        if model.speaks not in (None, *_SPEAKS):
            words = ", ".join(_SPEAKS)
            raise SettingsError(f"{place.of(f'{at}.speaks')}: '{model.speaks}' is none of {words}")
        _check_members(profile_of(upstream), model.overrides, f"{at}.overrides", place)
        _check_members(settings.policy, model.policy, f"{at}.policy", place)
        for name, members in (("defaults", model.defaults), ("sets", model.sets)):
            if not isinstance(members.get(TEMPLATE, {}), dict):
                raise SettingsError(f"{place.of(f'{at}.{name}.{TEMPLATE}')}: expected a table")
            for member in _CALLERS_OWN & members.keys():
                right = "set upstream_model instead" if member == "model" else "callers say that"
                raise SettingsError(f"{place.of(f'{at}.{name}.{member}')}: {right}")
        _check_template(model, upstream, at, place)
        _check_headers(model, at, place, environment)
        check_rollout(model, upstream, at, place)


def _check_members(
    base: Profile | Policy, members: Mapping[str, JSON], at: str, place: Place
) -> None:
    fill(type(base), {**msgspec.to_builtins(base), **members}, at, place)


def _check_template(model: Model, upstream: Upstream, at: str, place: Place) -> None:
    """Refuse what only a template would read, where none is rendered."""
    profile = override(profile_of(upstream), model.overrides)
    is_raw = profile.render is Render.RAW
    if not is_raw or (model.speaks or speaks_of(upstream)) != "completions":
        return
    for name, is_set in (
        (TEMPLATE, bool(model.chat_template_kwargs)),
        (f"defaults.{TEMPLATE}", TEMPLATE in model.defaults),
        (f"sets.{TEMPLATE}", TEMPLATE in model.sets),
        ("reasoning", model.reasoning is not None),
    ):
        if is_set:
            raise SettingsError(
                f"{place.of(f'{at}.{name}')}: a raw prompt has no template that could read it; "
                'the upstream renders one with render = "chat-template"'
            )


def _check_headers(model: Model, at: str, place: Place, environment: Mapping[str, str]) -> None:
    for name, variable in model.headers_env.items():
        if not environment.get(variable):
            raise SettingsError(
                f"{place.of(f'{at}.headers_env.{name}')}: "
                f"the environment variable '{variable}' is not set"
            )
    known: set[str] = set()
    for table in ("headers", "headers_env"):
        for name in getattr(model, table):
            here = place.of(f"{at}.{table}.{name}")
            if not _HEADER_NAME.fullmatch(name):
                raise SettingsError(f"{here}: expected the name of a header")
            if name.lower() in OURS:
                raise SettingsError(f"{here}: the proxy sets this header itself")
            if name.lower() == "authorization":
                raise SettingsError(f"{here}: set the upstream's key or key_env instead")
            if name.lower() in known:
                raise SettingsError(f"{here}: '{name}' comes twice")
            known.add(name.lower())
            value = headers_of(model, environment)[name.lower()]
            if not _HEADER_VALUE.fullmatch(value):
                raise SettingsError(f"{here}: expected a value of printable ASCII characters")


def headers_of(model: Model, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The extra headers of a model's requests, with lower-case names."""
    environment = os.environ if environment is None else environment
    given = {**model.headers, **{k: environment[v] for k, v in model.headers_env.items()}}
    return {name.lower(): value for name, value in given.items()}


def shaping_of(model: Model, profile: Profile) -> Shaping:
    """What a model's settings change in its requests."""
    is_renamed = model.upstream_model not in (None, model.name)
    defaults = dict(model.defaults)
    if model.chat_template_kwargs:
        defaults[TEMPLATE] = {**defaults.get(TEMPLATE, {}), **model.chat_template_kwargs}
    sets = dict(model.sets)
    if model.reasoning is not None and profile.thinking_switch is not None:
        sets[TEMPLATE] = {**sets.get(TEMPLATE, {}), profile.thinking_switch: model.reasoning}
    return Shaping(
        model=model.upstream_model if is_renamed else None,
        defaults=defaults,
        sets=sets,
        reasons=model.reasoning,
        no_effort=profile.efforts.get("none", "none"),
        relays=model.relay,
    )
