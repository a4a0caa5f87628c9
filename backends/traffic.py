"""What goes to one server and comes back: how much is under way, and why it broke."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from backends.base import BackendReply, Take, UpstreamReply, UpstreamRequest, pour
from backends.errors import BackendBrokeOff, BackendError
from backends.held import Holder

Explain = Callable[[BackendError], Awaitable[BackendError]]
"""Makes of a broken connection what the caller is told."""


class Traffic:
    """The requests under way at one server.

    Attributes:
        open: Requests whose reply was not closed yet.
        heard: Grows with each reply that begins and with each piece of one.
    """

    def __init__(self) -> None:
        self.open = 0
        self.heard = 0

    async def send(
        self,
        send: Callable[[UpstreamRequest], Awaitable[UpstreamReply]],
        request: UpstreamRequest,
        explain: Explain,
    ) -> BackendReply:
        """Send a request; it counts until its reply is closed.

        Raises:
            BackendError: What ``send`` raises; of a broken connection what ``explain`` makes of it.
        """
        self.open += 1
        try:
            reply = await send(request)
        except BackendBrokeOff as exc:
            self.open -= 1
            raise await explain(exc) from exc
        except BaseException:
            self.open -= 1
            raise
        self.heard += 1
        counted = _CountedReply(reply, self, explain)
        counted.hold(self._end)
        return counted

    def _end(self) -> None:
        self.open -= 1


class _CountedReply(Holder):
    """A reply whose pieces count as signs of life; see ``BackendReply``."""

    def __init__(self, reply: UpstreamReply, traffic: Traffic, explain: Explain) -> None:
        self._reply = reply
        self._traffic = traffic
        self._explain = explain

    @property
    def status(self) -> int:
        """HTTP status code."""
        return self._reply.status

    @property
    def headers(self) -> Mapping[str, str]:
        """Reply headers."""
        return self._reply.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives.

        Raises:
            BackendError: It broke off; the message says why, as far as that is known.
        """
        traffic = self._traffic
        try:
            async for chunk in self._reply.chunks():
                traffic.heard += 1
                yield chunk
        except BackendBrokeOff as exc:
            raise await self._explain(exc) from exc

    async def pour(self, take: Take) -> None:
        """Give the body to ``take``; see ``backends.base.pour``.

        Raises:
            BackendError: It broke off; the message says why, as far as that is known.
        """
        traffic = self._traffic

        def count(piece: bytes) -> Awaitable[None] | None:
            traffic.heard += 1
            return take(piece)

        try:
            await pour(self._reply, count)
        except BackendBrokeOff as exc:
            raise await self._explain(exc) from exc

    async def aclose(self) -> None:
        """Release the connection; may be called again."""
        self.let_go()
        await self._reply.aclose()
