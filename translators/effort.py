"""Reasoning effort in the words of an upstream.

Spec: Responses, ``reasoning.effort``; Chat Completions, ``reasoning_effort``.
"""

import msgspec

from translators.canonical import Request
from translators.context import Context


def map_effort(request: Request, ctx: Context) -> Request:
    """Say the effort as the upstream knows it; where it knows less, that is recorded.

    Templates with a thinking switch take no notice of an effort ``none``, so the switch is set,
    unless the caller sets it.
    """
    if request.effort is None:
        return request
    effort = request.effort
    if isinstance(effort, str) and effort in ctx.profile.efforts:
        effort = ctx.profile.efforts[effort]
        ctx.lose("effort", f"'{request.effort}' is sent as '{effort}'")
    extra = request.extra
    switch = ctx.profile.thinking_switch
    if switch is not None and effort == "none":
        given = extra.get("chat_template_kwargs", {})
        if isinstance(given, dict):
            extra = {**extra, "chat_template_kwargs": {switch: False, **given}}
    return msgspec.structs.replace(request, effort=effort, extra=extra)
