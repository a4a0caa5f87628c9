"""Vendor members of requests that need more than to be passed on.

Sources: vLLM's "Structured outputs" (``guided_*`` was retired in 0.12 and is ignored since, so
that an answer would be unconstrained without a word), and what users send by mistake.
"""

from collections.abc import Mapping

import msgspec

from translators.canonical import Request
from translators.context import Context
from translators.errors import UnsupportedFeature
from translators.wire import JSON

_GUIDED = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}


def unwrap_extra_body(request: Request, ctx: Context) -> Request:
    """Put the members of a literal ``extra_body`` where the SDK would have put them.

    Raises:
        UnsupportedFeature: It asks for choices, of which nobody would read but one.
    """
    nested = request.extra.get("extra_body")
    if not isinstance(nested, dict):
        return request
    if nested.get("n") not in (None, 1):
        raise UnsupportedFeature("'extra_body.n': only one choice is read.", param="extra_body.n")
    extra = {**nested, **request.extra}
    del extra["extra_body"]
    return msgspec.structs.replace(request, extra=extra)


def wants_json(extra: Mapping[str, JSON]) -> bool:
    """Whether vLLM's ``structured_outputs`` bind the answer to JSON."""
    outputs = extra.get("structured_outputs")
    return isinstance(outputs, dict) and any(outputs.get(name) for name in ("json", "json_object"))


def modernise_guided(request: Request, ctx: Context) -> Request:
    """Turn the retired ``guided_*`` members into ``structured_outputs``."""
    if _GUIDED.keys().isdisjoint(request.extra):
        return request
    extra = dict(request.extra)
    outputs: dict[str, JSON] = {}
    for old, new in _GUIDED.items():
        value = extra.pop(old, None)
        if value is not None:
            outputs[new] = value
    given = extra.get("structured_outputs", {})
    if isinstance(given, dict):
        extra["structured_outputs"] = {**outputs, **given}
    return msgspec.structs.replace(request, extra=extra)
