"""What the proxy asks of every upstream."""

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from backends.held import Release

Take = Callable[[bytes], Awaitable[None] | None]
"""Takes a piece of a body; returns what to wait for before the next one, if there is anything."""


class UpstreamRequest(msgspec.Struct, frozen=True):
    """One HTTP request to an upstream.

    ``path`` is relative to the upstream's API root and begins with a slash, for instance
    ``/chat/completions``; ``body`` is the JSON text or form, empty for GET. ``session`` is the key
    of the conversation, for backends that choose among servers, and ``model`` the body's model,
    for those that name it in the URL; neither is sent as such. With ``is_at_root`` the path is
    relative to the server's root instead, which lacks the API root's ``/v1``. With ``is_aside`` it
    is asked for the sake of another one that was sent, and needs no place of its own at the server.
    """

    method: str
    path: str
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    session: str | None = None
    is_at_root: bool = False
    model: str | None = None
    is_aside: bool = False


class UpstreamReply(Protocol):
    """An upstream's reply whose body has not been read yet.

    Whoever receives it owns it and must call ``aclose``, also after reading to the end.
    """

    @property
    def status(self) -> int:
        """HTTP status code."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Reply headers with lower-case names; repeated ones joined by a comma."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, content encoding untouched, one item for each read.

        Raises:
            BackendError: The upstream broke off or went silent for too long.
        """

    def aclose(self) -> Coroutine[Any, Any, None]:
        """Release the connection; an unfinished body is abandoned and its connection closed."""


class BackendReply(UpstreamReply, Protocol):
    """A reply as backends give it: whoever passes it on can bind something to its end."""

    def hold(self, release: Release, queued_s: float = 0.0) -> None:
        """Call ``release`` once when the reply is closed, before the connection is released.

        ``queued_s`` is how long the request waited for what is held, in seconds.
        """


async def pour(reply: UpstreamReply, take: Take) -> None:
    """Give a reply's body to ``take``, one call for each read.

    A reply that has a method ``pour`` calls it where it reads: no task is woken up for a piece,
    which saves 3 us.

    Raises:
        BackendError: The upstream broke off or went silent for too long.
    """
    if (at_once := getattr(reply, "pour", None)) is not None:
        await at_once(take)
    else:
        await pour_chunks(reply.chunks(), take)


async def pour_chunks(chunks: AsyncIterator[bytes], take: Take) -> None:
    """Give pieces to ``take``, one by one."""
    async for piece in chunks:
        if (rest := take(piece)) is not None:
            await rest


class Backend(Protocol):
    """One upstream server."""

    @property
    def name(self) -> str:
        """The upstream's name in settings, logs and errors."""

    async def start(self) -> None:
        """Begin to make the upstream reachable; returns at once.

        Whether it is reachable is what ``probe`` says. A process that cannot be started at all is
        reported by ``probe`` and ``send`` as well, so that the proxy can answer with the reason.
        """

    async def send(self, request: UpstreamRequest) -> BackendReply:
        """Send a request and wait for status and headers of the reply.

        Cancelling the call abandons the request and closes its connection.

        Raises:
            BackendError: No reply could be had. Replies of any status, 5xx included, are returned.
        """

    async def probe(self) -> None:
        """Ask whether the upstream answers.

        Raises:
            BackendError: It does not; the message says why.
        """

    async def aclose(self) -> None:
        """Close connections and stop what ``start`` started."""
