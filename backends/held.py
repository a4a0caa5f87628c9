"""A reply that holds something for as long as it is open."""

from collections.abc import Callable, Coroutine
from typing import Any

from backends.base import UpstreamReply


class HeldReply:
    """A reply as it is, which calls ``release`` once when it is closed.

    Status, headers and chunks are the reply's own, so that a layer costs no calls.
    ``queued_s`` is how long its request waited before it was sent, in seconds.
    """

    __slots__ = ("_release", "_reply", "chunks", "headers", "pour", "queued_s", "status")

    def __init__(
        self, reply: UpstreamReply, release: Callable[[], None], queued_s: float = 0.0
    ) -> None:
        """Own ``reply``, whose own wait is added; ``release`` may not raise."""
        self.queued_s: float = queued_s + getattr(reply, "queued_s", 0.0)
        self.status = reply.status
        self.headers = reply.headers
        self.chunks = reply.chunks
        self.pour = getattr(reply, "pour", None)
        self._reply = reply
        self._release: Callable[[], None] | None = release

    def aclose(self) -> Coroutine[Any, Any, None]:
        """Release what is held, and then the connection; see ``UpstreamReply``."""
        release, self._release = self._release, None
        if release is not None:
            release()
        return self._reply.aclose()
