"""A reply that holds something for as long as it is open."""

from collections.abc import AsyncIterator, Callable, Mapping

from backends.base import UpstreamReply


class HeldReply:
    """A reply as it is, which calls ``release`` once when it is closed."""

    def __init__(self, reply: UpstreamReply, release: Callable[[], None]) -> None:
        """Own ``reply``; ``release`` may not raise."""
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
