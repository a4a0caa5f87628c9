"""What becomes of a request's members besides translation: settings, and the caller's metadata.

All of it is said in the upstream's dialect. Relayed requests are changed member by member, so
that the bytes of all others stay.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NoReturn

import msgspec

from translators.dialect import Dialect
from translators.errors import MalformedRequest, UnsupportedFeature
from translators.wire import JSON, Peek, decode, kind_of, read_member

TEMPLATE = "chat_template_kwargs"
"""The member that is merged key by key, wherever parts of it come from."""

_EXTRA = "extra_body"


class Extras(msgspec.Struct, frozen=True):
    """What a caller's metadata holds for the upstream.

    Attributes:
        template: Arguments for the chat template.
        body: Members to add where the request lacks them.
    """

    template: Mapping[str, JSON]
    body: Mapping[str, JSON]


def read_extras(metadata: JSON) -> Extras | None:
    """What metadata holds for the upstream, ``None`` if nothing.

    ``metadata.chat_template_kwargs`` and ``metadata.extra_body`` are strings with a JSON object,
    since SDKs let strings pass only.

    Raises:
        MalformedRequest: One of them is something else.
    """
    if not isinstance(metadata, dict) or not metadata.keys() & {TEMPLATE, _EXTRA}:
        return None
    return Extras(_read_text(metadata, TEMPLATE), _read_text(metadata, _EXTRA))


def _read_text(metadata: Mapping[str, JSON], name: str) -> dict[str, JSON]:
    text = metadata.get(name, "{}")
    param = f"metadata.{name}"
    if not isinstance(text, str):
        found = kind_of(text)
        raise MalformedRequest(
            f"Invalid '{param}': expected a string with a JSON object, not {found}.", param=param
        )
    try:
        value = decode(text.encode("utf-8", "replace"))
    except MalformedRequest as error:
        raise MalformedRequest(
            f"Invalid '{param}': the string is not valid JSON.", param=param
        ) from error
    if not isinstance(value, dict):
        found = kind_of(value)
        raise MalformedRequest(
            f"Invalid '{param}': expected a JSON object in the string, not {found}.", param=param
        )
    return value


@dataclass(frozen=True)
class Shaping:
    """What a model's settings change in its requests; made once.

    Attributes:
        model: The upstream's name of the model, ``None`` if the caller's passes.
        defaults: Members to add where the request lacks them.
        sets: Members to set whatever the request says.
        reasons: Whether the model is to reason, ``None`` if the request decides.
        no_effort: The upstream's word for the effort ``none``.
        relays: Whether requests in the upstream's dialect pass as they are.
    """

    model: str | None = None
    defaults: Mapping[str, JSON] = field(default_factory=dict)
    sets: Mapping[str, JSON] = field(default_factory=dict)
    reasons: bool | None = None
    no_effort: str = "none"
    relays: bool = True

    def change(self, head: Peek, dialect: Dialect) -> "Change | None":
        """What to change in a request to an upstream of this dialect, ``None`` if nothing.

        Raises:
            MalformedRequest: The metadata holds something wrong for the upstream.
        """
        extras = read_extras(head.metadata) if head.metadata else None
        if extras is None and self._is_idle:
            return None
        return Change(self, extras, head, dialect)

    @cached_property
    def renames_only(self) -> bool:
        """Whether the model's name is all that changes."""
        others = self.defaults or self.sets or self.reasons is not None
        return self.model is not None and not others

    @cached_property
    def _is_idle(self) -> bool:
        changes = self.model is not None or self.reasons is not None
        return not (changes or self.defaults or self.sets)


PLAIN = Shaping()
"""Changes nothing."""


class Change(msgspec.Struct, frozen=True):
    """What to change in one request.

    Attributes:
        shaping: The settings.
        extras: What the caller's metadata holds.
        head: What the request says.
        dialect: The upstream's.
    """

    shaping: Shaping
    extras: Extras | None
    head: Peek
    dialect: Dialect

    def restores(self) -> dict[str, JSON]:
        """Members of a relayed reply -> what the caller knows them as."""
        found: dict[str, JSON] = {}
        if self.head.model is not None and self.shaping.model not in (None, self.head.model):
            found["model"] = self.head.model
        if self.extras is not None and self.dialect is Dialect.RESPONSES:
            found["metadata"] = self.head.metadata
        return found

    def apply(self, members: Mapping[str, JSON]) -> dict[str, JSON]:
        """The members as they go out.

        Low to high: the settings' defaults, ``metadata.extra_body``, the request, the settings'
        ``sets``.

        Args:
            members: Those of the request, decoded or not; they are not changed.

        Raises:
            MalformedRequest: A member that has to be merged is no object.
            UnsupportedFeature: The metadata or the settings ask for choices that a translation
                does not read.
        """
        shaping = self.shaping
        if self.extras is None and shaping.renames_only:
            return {**members, "model": shaping.model}
        out = dict(members)
        if self.extras is not None:
            self._strip_metadata(out)
            for name, value in self.extras.body.items():
                out.setdefault(name, value)
        for name, value in shaping.defaults.items():
            out.setdefault(name, value)
        out.update(shaping.sets)
        if shaping.model is not None:
            out["model"] = shaping.model
        if out.get("n") not in (None, 1, members.get("n")) and not self._is_relayed():
            self._refuse_choices()
        self._merge_template(members.get(TEMPLATE), out)
        if shaping.reasons is not None:
            self._set_effort(shaping.reasons, out)
        return out

    def _is_relayed(self) -> bool:
        caller = Dialect.RESPONSES if self.head.is_responses else Dialect.CHAT
        return self.shaping.relays and caller is self.dialect

    def _refuse_choices(self) -> NoReturn:
        """Refuse choices that the request itself does not ask for."""
        asked = self.extras is not None and "n" in self.extras.body
        where = f"'metadata.{_EXTRA}'" if asked else "the model's settings"
        raise UnsupportedFeature(
            f"'n' in {where}: only one choice of a translated reply is read.",
            param=f"metadata.{_EXTRA}" if asked else None,
        )

    def _strip_metadata(self, out: dict[str, JSON]) -> None:
        metadata = read_member(out.pop("metadata", None)) or {}
        rest = {k: v for k, v in metadata.items() if k not in (TEMPLATE, _EXTRA)}
        if rest:
            out["metadata"] = rest

    def _merge_template(self, own: JSON, out: dict[str, JSON]) -> None:
        shaping, extras = self.shaping, self.extras
        below = dict(shaping.defaults.get(TEMPLATE, {}))
        if extras is not None:
            below |= _read_object(TEMPLATE, extras.body.get(TEMPLATE)) | dict(extras.template)
        above = shaping.sets.get(TEMPLATE, {})
        if below or above:
            out[TEMPLATE] = below | _read_object(TEMPLATE, own) | above

    def _set_effort(self, reasons: bool, out: dict[str, JSON]) -> None:
        """Ask for no reasoning, or take back that the request asks for none."""
        no_effort = self.shaping.no_effort
        if self.dialect is Dialect.CHAT:
            if not reasons:
                out["reasoning_effort"] = no_effort
            elif read_member(out.get("reasoning_effort")) == no_effort:
                del out["reasoning_effort"]
        elif self.dialect is Dialect.RESPONSES:
            reasoning = _read_object("reasoning", out.get("reasoning"))
            if not reasons:
                out["reasoning"] = {**reasoning, "effort": no_effort}
            elif reasoning.get("effort") == no_effort:
                out["reasoning"] = {k: v for k, v in reasoning.items() if k != "effort"}


def _read_object(name: str, value: JSON) -> dict[str, JSON]:
    """A member that is an object, empty if it is absent or ``null``."""
    value = read_member(value)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MalformedRequest(
            f"Invalid '{name}': expected an object, not {kind_of(value)}.", param=name
        )
    return value
