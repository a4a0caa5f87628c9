"""vLLM's flags in its table: whatever is no setting of ours is one of them."""

import difflib
from typing import Final

from proxy.settings import VLLM
from proxy.tables import Place, SettingsError
from translators.wire import JSON

_TYPO: Final = 0.8
"""From this likeness on a name is taken for a misspelt setting; no flag of vLLM comes near."""


def gather_flags(table: dict[str, JSON], at: str, place: Place) -> dict[str, JSON]:
    """The ``vllm`` table at a dotted path with its flags in ``flags``.

    Raises:
        SettingsError: A flag comes twice.
    """
    settings = VLLM.__struct_fields__
    inner = table.get("flags", {})
    if not isinstance(inner, dict):
        return table  # which is an error by itself
    flags = {
        name: value
        for name, value in table.items()
        if name not in settings and not difflib.get_close_matches(name, settings, 1, _TYPO)
    }
    written = {name.replace("-", "_") for name in inner}
    for name in flags:
        if name.replace("-", "_") in written:
            raise SettingsError(f"{place.of(f'{at}.{name}')}: it is in {at}.flags too")
    if not flags:
        return table
    rest = {name: value for name, value in table.items() if name not in flags}
    return {**rest, "flags": {**flags, **inner}}
