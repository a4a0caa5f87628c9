from translators.canonical import Message, Role, Status, ToolCall
from translators.events import ArgumentsDelta, ItemEnd, ItemEvent, ItemStart, TextDelta
from translators.sequence import Sequencer


def start(index: int) -> ItemStart:
    return ItemStart(index, ToolCall(f"call_{index}", "f", ""))


def delta(index: int, text: str = "x") -> ArgumentsDelta:
    return ArgumentsDelta(index, text)


def run(*events: ItemEvent) -> list[list[ItemEvent]]:
    sequencer = Sequencer()
    return [list(sequencer.feed(event)) for event in events]  # type: ignore[arg-type]


def test_one_item_goes_through_at_once() -> None:
    events: list[ItemEvent] = [start(0), delta(0), ItemEnd(0), start(1), ItemEnd(1)]
    assert [[event] for event in events] == run(*events)


def test_an_interleaved_item_waits() -> None:
    expected: list[list[ItemEvent]] = [
        [start(0)],
        [],
        [],
        [delta(0, "b")],
        [ItemEnd(0), start(1), delta(1, "a")],
        [delta(1, "c")],
        [ItemEnd(1)],
    ]
    assert expected == run(
        start(0),
        start(1),
        delta(1, "a"),
        delta(0, "b"),
        ItemEnd(0),
        delta(1, "c"),
        ItemEnd(1),
    )


def test_items_that_ended_while_waiting_go_out_together() -> None:
    ends = [ItemEnd(1), ItemEnd(2, Status.INCOMPLETE)]
    expected = [ItemEnd(0), start(1), ends[0], start(2), ends[1]]
    assert [[start(0)], [], [], [], [], expected] == run(
        start(0), start(1), start(2), *ends, ItemEnd(0)
    )


def test_order_is_that_of_the_starts() -> None:
    """What ended first does not overtake what began first."""
    expected = [[start(0)], [], [], [], [ItemEnd(0), start(1)], [ItemEnd(1), start(2), ItemEnd(2)]]
    assert expected == run(start(0), start(1), start(2), ItemEnd(2), ItemEnd(0), ItemEnd(1))


def test_other_items_wait_too() -> None:
    message = ItemStart(1, Message(Role.ASSISTANT, []))
    expected = [[start(0)], [], [], [ItemEnd(0), message, TextDelta(1, "Hi")]]
    assert expected == run(start(0), message, TextDelta(1, "Hi"), ItemEnd(0))
