"""A whole reply as the events that would have streamed it."""

from translators.canonical import Item, Message, Reasoning, Refusal, Response, Text, ToolCall
from translators.events import (
    AlternativeEvent,
    AnnotationAdded,
    ArgumentsDelta,
    Event,
    ItemEnd,
    ItemStart,
    PartEnd,
    ReasoningDelta,
    RefusalDelta,
    ResponseEnd,
    ResponseFailed,
    ResponseStart,
    TextDelta,
    UsageUpdate,
)


def unfold(response: Response) -> list[Event]:
    """Events whose fold is ``response``."""
    events: list[Event] = [ResponseStart(response.id, response.model, response.created)]
    for index, item in enumerate(response.output):
        events += unfold_item(index, item)
    for number, alternative in enumerate(response.alternatives, 1):
        events += [AlternativeEvent(number, event) for event in unfold(alternative)]
    if response.usage is not None:
        events.append(UsageUpdate(response.usage))
    if response.error is not None:
        events.append(ResponseFailed(response.error))
    elif response.stop is not None:
        events.append(ResponseEnd(response.stop, response.raw_stop, response.extra))
    return events


def skeleton(item: Item) -> Item:
    """An item without what deltas bring."""
    match item:
        case Message():
            return Message(item.role, [], item.id, name=item.name, phase=item.phase)
        case Reasoning():
            return Reasoning(encrypted=item.encrypted, id=item.id)
        case ToolCall():
            return ToolCall(
                item.call_id, item.name, "", item.kind, item.namespace, item.id, extra=item.extra
            )
    return item


def unfold_item(index: int, item: Item) -> list[Event]:
    """Events of one item, from its start to its end."""
    events: list[Event] = [ItemStart(index, skeleton(item))]
    match item:
        case Message(parts=parts):
            for position, part in enumerate(parts):
                if position:
                    events.append(PartEnd(index))
                if isinstance(part, Text):
                    events.append(TextDelta(index, part.text, part.logprobs))
                    events += [AnnotationAdded(index, a) for a in part.annotations]
                elif isinstance(part, Refusal):
                    events.append(RefusalDelta(index, part.text, part.logprobs))
            return [*events, ItemEnd(index, item.status, item.extra)]
        case Reasoning():
            texts = [(t, False) for t in item.content] + [(t, True) for t in item.summary]
            for position, (text, is_summary) in enumerate(texts):
                if position:
                    events.append(PartEnd(index))
                events.append(ReasoningDelta(index, text, is_summary))
            return [*events, ItemEnd(index, item.status, item.extra)]
        case ToolCall(arguments=arguments):
            if arguments:
                events.append(ArgumentsDelta(index, arguments))
            return [*events, ItemEnd(index, item.status, item.extra)]
    return [*events, ItemEnd(index)]
