"""One item at a time: for dialects whose streams do not interleave items.

Spec: Responses and Messages clients expect each output item to be closed before the next one is
added.
"""

from collections import deque

from translators.events import Event, ItemEnd, ItemEvent, ItemStart


class Sequencer:
    """Holds back the events of an item until the items that started before it have ended."""

    def __init__(self) -> None:
        """Make a sequencer for one stream."""
        self._open: int | None = None
        self._held: deque[tuple[int, list[ItemEvent]]] = deque()

    def feed(self, event: ItemEvent) -> list[Event]:
        """The events that may go out now, in order."""
        if self._open is None and isinstance(event, ItemStart):
            self._open = event.index
            return [event]
        if event.index != self._open:
            self._hold(event)
            return []
        if not isinstance(event, ItemEnd):
            return [event]
        ready: list[Event] = [event]
        self._open = None
        while self._held and self._open is None:
            index, events = self._held.popleft()
            ready += events
            if not isinstance(events[-1], ItemEnd):
                self._open = index
        return ready

    def _hold(self, event: ItemEvent) -> None:
        if isinstance(event, ItemStart):
            self._held.append((event.index, [event]))
            return
        for index, events in self._held:
            if index == event.index:
                events.append(event)
                return
