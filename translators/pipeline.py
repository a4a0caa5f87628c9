"""Steps between reading a request and writing it: plain functions on canonical requests.

Each step adapts a request to a fact of the upstream's profile; ``STEPS`` is the order in which
they run.
"""

from collections.abc import Callable, Sequence

import msgspec

from translators.arguments import mend_arguments
from translators.canonical import Item, Message, Part, Request, Role, Text
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


def map_developer(request: Request, ctx: Context) -> Request:
    """Turn ``developer`` into ``system`` for upstreams that know no such role.

    Templates either refuse the role or, worse, leave its text out.
    """
    if ctx.profile.developer_role or not _said_by(request.items, (Role.DEVELOPER,)):
        return request
    items = [
        msgspec.structs.replace(item, role=Role.SYSTEM)
        if type(item) is Message and item.role is Role.DEVELOPER
        else item
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
    system = _said_by(items, _INSTRUCTING)
    if mode is SystemMessages.MERGE_LEADING:
        system = [said for said, item in zip(system, items, strict=False) if said is item]
    if not system or (len(system) == 1 and items[0] is system[0]):
        return request
    if mode is SystemMessages.MERGE_LEADING:
        rest = items[len(system) :]
    else:
        rest = [i for i in items if type(i) is not Message or i.role not in _INSTRUCTING]
    merged = Message(system[0].role, _join(system), name=system[0].name)
    return msgspec.structs.replace(request, items=[merged, *rest])


def _said_by(items: Sequence[Item], roles: Sequence[Role]) -> list[Message]:
    """The messages of these roles."""
    return [item for item in items if type(item) is Message and item.role in roles]


def _join(messages: Sequence[Message]) -> list[Part]:
    parts = [part for message in messages for part in message.parts]
    if all(isinstance(part, Text) for part in parts):
        texts = ["\n".join(p.text for p in m.parts if isinstance(p, Text)) for m in messages]
        return [Text("\n\n".join(text for text in texts if text))]
    return parts


STEPS: tuple[Step, ...] = (
    unwrap_extra_body,
    modernise_guided,
    map_effort,
    inline_files,
    map_developer,
    merge_system,
    pair_results,
    mend_arguments,
)
