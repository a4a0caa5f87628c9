"""Token ids and log-probs of a model's turn: what training needs beside its text.

They travel under NeMo Gym's names, as members of an item or of a Chat message. Replayed in the
next request, they tell the upstream which tokens the turn consists of, whatever its text would
be tokenized to.
"""

from collections.abc import Mapping

import msgspec

from translators.canonical import Item, Message, Opaque, Reasoning, ToolCall
from translators.errors import MalformedRequest, TranslationError
from translators.wire import JSON, open_as

REQUIRED = ("prompt_token_ids", "generation_token_ids", "generation_log_probs")
MEMBERS = frozenset(REQUIRED) | {"routed_experts"}


class _TokenIds(msgspec.Struct):
    prompt_token_ids: list[int]
    generation_token_ids: list[int]
    generation_log_probs: list[float]
    routed_experts: JSON = None


def read_token_ids(
    members: Mapping[str, JSON], path: str, fault: type[TranslationError] = MalformedRequest
) -> dict[str, JSON]:
    """The token members of an item or message as they are, empty if it has none.

    Args:
        members: The item or message.
        path: Its path in its body, for errors.
        fault: Error class to raise.

    Raises:
        TranslationError: Of class ``fault``; only some of the three are there, one has a wrong
            type, or there are more log-probs than tokens or fewer.
    """
    if MEMBERS.isdisjoint(members):
        return {}
    found = {name: members[name] for name in members if name in MEMBERS}
    found = {name: value for name, value in found.items() if value is not None}
    if found:
        wire = open_as(_TokenIds, found, path, fault)
        count = len(wire.generation_token_ids)
        if len(wire.generation_log_probs) != count:
            param = f"{path}.generation_log_probs".removeprefix(".")
            raise fault(
                f"Invalid '{param}': expected one for each of the {count} generated tokens, "
                f"not {len(wire.generation_log_probs)}.",
                param=param,
            )
    return found


def carry(item: Item, token_ids: Mapping[str, JSON]) -> None:
    """Put token members on an item of the model's own; no other item has any."""
    if token_ids and isinstance(item, Message | Reasoning | ToolCall):
        item.extra = {**item.extra, **token_ids}


def carried(item: Item) -> dict[str, JSON]:
    """The token members that an item carries, empty if there are none."""
    if isinstance(item, Opaque) or MEMBERS.isdisjoint(item.extra):
        return {}
    return {name: value for name, value in item.extra.items() if name in MEMBERS}
