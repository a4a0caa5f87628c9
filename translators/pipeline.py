"""Steps between reading a request and writing it: plain functions on canonical requests.

Each step adapts a request to a fact of the upstream's profile; ``STEPS`` is the order in which
they run.
"""

from collections.abc import Callable, Sequence

import msgspec

from translators.arguments import mend_arguments
from translators.canonical import Message, Part, Request, Role, Text
from translators.context import Context
from translators.effort import map_effort
from translators.files import inline_files
from translators.pairing import pair_results
from translators.profiles import SystemMessages
from translators.vendor import modernise_guided, unwrap_extra_body

Step = Callable[[Request, Context], Request]

_INSTRUCTING = (Role.SYSTEM, Role.DEVELOPER)


def run(steps: Sequence[Step], request: Request, ctx: Context) -> Request:
    """The request after all steps."""
    for step in steps:
        request = step(request, ctx)
    return request


def place_instructions(request: Request, ctx: Context) -> Request:
    """Say instructions in the roles and places that the upstream's template admits.

    Nearly always they are one system message ahead of all, and fit any template.
    """
    items = request.items
    given = [i for i in items if type(i) is Message and i.role in _INSTRUCTING]
    if not given or (len(given) == 1 and given[0].role is Role.SYSTEM and given[0] is items[0]):
        return request
    return merge_system(map_developer(request, ctx), ctx)


def map_developer(request: Request, ctx: Context) -> Request:
    """Turn ``developer`` into ``system`` for upstreams that know no such role.

    Templates either refuse the role or, worse, leave its text out.
    """
    if ctx.profile.developer_role:
        return request
    items = [
        msgspec.structs.replace(item, role=Role.SYSTEM) if _has_role(item, Role.DEVELOPER) else item
        for item in request.items
    ]
    return msgspec.structs.replace(request, items=items)


def merge_system(request: Request, ctx: Context) -> Request:
    """Make one leading system message of several, for templates that admit only that.

    Order is kept and texts are parted by a blank line. An instruction from the middle of the
    conversation then holds from its beginning.
    """
    mode = ctx.profile.system_messages
    if mode is SystemMessages.KEEP:
        return request
    items = request.items
    ahead = len(items)
    if mode is SystemMessages.MERGE_LEADING:
        ahead = next((i for i, item in enumerate(items) if not _is_system(item)), len(items))
    system = [item for item in items[:ahead] if isinstance(item, Message) and _is_system(item)]
    if not system or (len(system) == 1 and items[0] is system[0]):
        return request
    rest = [item for i, item in enumerate(items) if i >= ahead or not _is_system(item)]
    merged = Message(system[0].role, _join(system), name=system[0].name)
    return msgspec.structs.replace(request, items=[merged, *rest])


def _join(messages: Sequence[Message]) -> list[Part]:
    parts = [part for message in messages for part in message.parts]
    if all(isinstance(part, Text) for part in parts):
        texts = ["\n".join(p.text for p in m.parts if isinstance(p, Text)) for m in messages]
        return [Text("\n\n".join(text for text in texts if text))]
    return parts


def _has_role(item: object, role: Role) -> bool:
    return isinstance(item, Message) and item.role is role


def _is_system(item: object) -> bool:
    return isinstance(item, Message) and item.role in _INSTRUCTING


STEPS: tuple[Step, ...] = (
    unwrap_extra_body,
    modernise_guided,
    map_effort,
    inline_files,
    place_instructions,
    pair_results,
    mend_arguments,
)
