"""Compaction: a conversation becomes a summary that only we can read.

A request whose last item is ``compaction_trigger`` is answered with one ``compaction`` item. Its
blob holds a summary by the model; in later input it is opened and told to the model again. State
is kept by the caller alone.

Spec: Responses, "Compact a response", and the items ``compaction`` and ``compaction_trigger``.
"""

from translators.canonical import (
    Item,
    Message,
    Opaque,
    Request,
    Response,
    Role,
    Status,
    StopReason,
    Text,
)
from translators.codec import StreamWriter
from translators.context import Context
from translators.dialect import Dialect
from translators.errors import MalformedRequest, UnsupportedFeature, UpstreamProtocolError
from translators.events import (
    Assembler,
    Event,
    ItemEnd,
    ItemStart,
    ResponseEnd,
    ResponseFailed,
    ResponseStart,
)
from translators.wire import JSON

_PROMPT = (
    "Write a summary of this conversation for yourself. It will replace everything above, so keep "
    "all that is needed to go on: what the user wants and has decided, what was done and found, "
    "names, paths, figures and open questions. Answer with the summary alone."
)
_OPENING = "Summary of the conversation so far:\n\n"


def ask_for_summary(document: dict[str, JSON]) -> dict[str, JSON]:
    """A compaction request as a request for a response that ends with the trigger.

    Raises:
        MalformedRequest: It names no model, or its input is neither text nor a list.
    """
    if document.get("model") is None:
        raise MalformedRequest("Missing required parameter: 'model'.", param="model")
    given = document.get("input") or []
    if not isinstance(given, str | list):
        raise MalformedRequest("'input' must be a string or an array.", param="input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    return {**document, "input": [*items, {"type": "compaction_trigger"}], "stream": False}


def as_compaction(resource: dict[str, JSON]) -> dict[str, JSON]:
    """The reply to a compaction request, of the response that holds the summary."""
    members = {name: resource[name] for name in ("id", "created_at", "output", "usage")}
    return {**members, "object": "response.compaction"}


def read_trigger(trigger: Opaque, is_last: bool, ctx: Context) -> Item:
    """The message that asks the model for a summary.

    Raises:
        MalformedRequest: Something follows the trigger.
        UnsupportedFeature: Summaries cannot be sealed here.
    """
    if not is_last:
        raise MalformedRequest("A compaction_trigger has to be the last item.", param=trigger.param)
    if ctx.seal is None:
        raise UnsupportedFeature("Nothing can be sealed here.", param=trigger.param)
    ctx.compacts = True
    return Message(Role.USER, [Text(_PROMPT)])


def read_compaction(item: Opaque, ctx: Context) -> Item:
    """The summary in a compaction item, as a message.

    Raises:
        UnsupportedFeature: The item is not of our making.
    """
    blob = item.body.get("encrypted_content")
    summary = ctx.seal.open(blob) if ctx.seal is not None and isinstance(blob, str) else None
    if summary is None:
        raise UnsupportedFeature(
            "This compaction item was made elsewhere, and only its issuer can read it.",
            param=item.param,
        )
    return Message(Role.USER, [Text(_OPENING + summary)])


def compact(response: Response, ctx: Context) -> Response:
    """A reply that holds one compaction item instead of the summary that the model wrote.

    Raises:
        UpstreamProtocolError: The model wrote none, or did not come to its end.
    """
    texts = [
        part.text
        for item in response.output
        if isinstance(item, Message)
        for part in item.parts
        if isinstance(part, Text)
    ]
    summary = "".join(texts).strip()
    if not summary or response.stop is StopReason.LENGTH:
        raise UpstreamProtocolError("The model wrote no whole summary of the conversation.")
    assert ctx.seal is not None
    body: dict[str, JSON] = {
        "id": ctx.new_id("cmp"),
        "type": "compaction",
        "encrypted_content": ctx.seal.seal(summary),
    }
    response.output = [Opaque(Dialect.RESPONSES, "compaction", body)]
    return response


class CompactingWriter(StreamWriter):
    """Passes on the compaction of a stream instead of what the model says."""

    def __init__(self, writer: StreamWriter, ctx: Context) -> None:
        """Wrap the caller's writer."""
        self._writer = writer
        self._ctx = ctx
        self._assembler = Assembler()

    def heartbeat(self) -> bytes:
        """The writer's own."""
        return self._writer.heartbeat()

    def feed(self, event: Event) -> bytes:
        """The frames of one event: none for items, until the end.

        Raises:
            UpstreamProtocolError: There is no whole summary at the end.
        """
        if isinstance(event, ResponseFailed):
            return self._writer.feed(event)
        self._assembler.feed(event)
        if isinstance(event, ResponseStart):
            return self._writer.feed(event)
        if not isinstance(event, ResponseEnd):
            return b""
        response = compact(self._assembler.response, self._ctx)
        item = response.output[0]
        events: list[Event] = [ItemStart(0, item), ItemEnd(0, Status.COMPLETED), event]
        return b"".join([self._writer.feed(one) for one in events])


def without_tools(request: Request) -> Request:
    """A request for a summary: no tool may be called, and the text is free."""
    request.tools = []
    request.tool_choice = None
    request.format = None
    return request
