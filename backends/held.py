"""A reply that holds something for as long as it is open."""

from collections.abc import AsyncIterator, Callable, Mapping

from backends.base import UpstreamReply


class HeldReply:
    """A reply as it is, which calls ``release`` once when it is closed.

    ``queued_s`` is how long its request waited before it was sent, in seconds.
    """

    def __init__(
        self, reply: UpstreamReply, release: Callable[[], None], queued_s: float = 0.0
    ) -> None:
        """Own ``reply``, whose own wait is added; ``release`` may not raise."""
        self.queued_s: float = queued_s + getattr(reply, "queued_s", 0.0)
        self._reply = reply
        self._release: Callable[[], None] | None = release

    @property
    def status(self) -> int:
        """HTTP status code."""
        return self._reply.status

    @property
    def headers(self) -> Mapping[str, str]:
        """Reply headers."""
        return self._reply.headers

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives."""
        return self._reply.chunks()

    async def aclose(self) -> None:
        """Release the connection, and then what is held; see ``UpstreamReply``."""
        try:
            await self._reply.aclose()
        finally:
            release, self._release = self._release, None
            if release is not None:
                release()
