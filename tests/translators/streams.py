"""What the tests of readers and writers share."""

from translators.canonical import FunctionTool
from translators.context import Context, counting_ids
from translators.names import ToolNames
from translators.profiles import Policy, Profile
from translators.sse import Frame
from translators.wire import JSON, encode

NOW_UNIX_S = 7.9


class PlainSeal:
    """A seal that everybody can read."""

    def seal(self, text: str) -> str:
        return f"sealed:{text}"

    def open(self, blob: str) -> str | None:
        return blob.removeprefix("sealed:") if blob.startswith("sealed:") else None


def context(*tools: str, policy: Policy | None = None, **members: object) -> Context:
    """A context with counted ids and functions of these names; ``members`` are the profile's."""
    profile = Profile(**members)  # type: ignore[arg-type]
    ctx = Context(
        new_id=counting_ids(),
        now=lambda: NOW_UNIX_S,
        profile=profile,
        policy=policy or Policy(),
    )
    ctx.tool_names = ToolNames([FunctionTool(name) for name in tools])
    return ctx


def frame(body: JSON, event: str | None = None) -> Frame:
    """A frame with a JSON body."""
    return Frame(event, encode(body))
