"""Replies that hold something, such as a place at the server, for as long as they are open."""

from collections.abc import Callable

Release = Callable[[], None]
"""Gives back what was held; it may not raise."""


class Holder:
    """What backends' replies have in common; see ``BackendReply``.

    It is a part of each reply, and no layer around it that every use would have to pass.

    Attributes:
        queued_s: How long the request waited before it was sent, in seconds.
    """

    queued_s = 0.0
    _held: tuple[Release, ...] = ()

    def hold(self, release: Release, queued_s: float = 0.0) -> None:
        """Call ``release`` when the reply is closed; ``queued_s`` is added to its wait."""
        self._held = (release, *self._held)
        self.queued_s += queued_s

    def let_go(self) -> None:
        """Release what is held, the latest first; nothing is released twice."""
        held, self._held = self._held, ()
        for release in held:
            release()
