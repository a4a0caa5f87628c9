"""A load generator that checks every reply.

Each of C kept connections sends its next request when the reply to the last one is complete, until
the time is over. A reply that is not the one the upstream gave (status, text, terminal event) ends
the run with an error.

Run ``python -m benchmarks.load URL --model MODEL`` to see one measurement; the models are those of
``benchmarks.upstream``. The last segments of the URL's path say which dialect is spoken.
"""

import argparse
import asyncio
import itertools
import sys
import time
from collections.abc import Sequence
from typing import Final, cast
from urllib.parse import urlsplit

import msgspec

from benchmarks.replies import ReplyReader, WrongReplyError, check
from benchmarks.requests import SIZES, request_body
from benchmarks.upstream import new_event_loop, streams

START_EVERY_S: Final = 0.003
"""Seconds between the starts of two streams."""


class Result(msgspec.Struct):
    """What one run measured. Times are in milliseconds."""

    requests: int
    reads: int
    """Reads of a socket that brought something, over all replies."""
    wall_s: float
    per_s: float
    latency_p50: float
    latency_p99: float


class _Run:
    """What the connections of one run share."""

    def __init__(self, url: str, model: str, alias: str, size: str, paths: int) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self.host, self.port, self.path = parts.hostname, parts.port, parts.path
        self.dialect = "responses" if parts.path.endswith("/responses") else "chat"
        self.alias = alias
        self.size = size
        self._body = b""
        self._numbers = itertools.cycle(range(paths)) if paths else None
        self.until = 0.0
        self.reads = 0
        self.latency_s: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.active = 0
        self.choose(model)

    def choose(self, model: str) -> None:
        """Make the requests that follow ones for this model."""
        named = b'"model":"%b"'
        plain, aliased = named % model.encode(), named % (self.alias + model).encode()
        body = request_body(self.dialect, model, self.size)
        self._body = body.replace(plain, aliased, 1)
        self.model = model

    def next_request(self, last: bytes) -> bytes:
        """The bytes of a connection's request that follows one of its own."""
        return last if self._numbers is None else self.request(next(self._numbers))

    def request(self, number: int) -> bytes:
        """The bytes of a request; the number is that of its path."""
        body, path = self._body, self.path.format(number)
        return (
            f"POST {path} HTTP/1.1\r\nhost: {self.host}:{self.port}\r\n"
            "content-type: application/json\r\nauthorization: Bearer benchmark\r\n"
            f"accept: application/json, text/event-stream\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode() + body

    def check(self, body: bytes) -> None:
        """Check a whole reply's body."""
        if self.alias and b'"%b"' % (self.alias + self.model).encode() not in body:
            raise WrongReplyError("the reply does not name the model that was asked for")
        check(self.dialect, body, self.model)

    def fail(self, error: Exception) -> None:
        """End the run with an error."""
        if not self.done.done():
            self.done.set_exception(error)

    async def go(self, connections: "list[_Connection]", seconds: float, spread_s: float) -> float:
        """Let the connections work; the seconds it took."""
        loop = asyncio.get_running_loop()
        self.reads = 0
        self.latency_s = []
        self.done = loop.create_future()
        self.active = len(connections)
        start = time.perf_counter()
        self.until = start + seconds
        for i, connection in enumerate(connections):
            connection.request = self.next_request(self.request(i))
            loop.call_later(spread_s * i / len(connections), connection.send)
        await self.done
        return time.perf_counter() - start


class _Connection(asyncio.Protocol):
    """One kept connection."""

    def __init__(self, run: _Run) -> None:
        self.request = b""
        self._run = run
        self._transport: asyncio.Transport | None = None
        self._reply = ReplyReader()
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.fail(WrongReplyError(f"connection closed: {exc}"))

    def send(self) -> None:
        """Send the next request."""
        assert self._transport is not None
        self._sent_at = time.perf_counter()
        self._transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self._run.reads += 1
        try:
            if self._reply.feed(data):
                self._finish(time.perf_counter() - self._sent_at)
        except WrongReplyError as exc:
            self._run.fail(exc)

    def _finish(self, latency_s: float) -> None:
        run = self._run
        if run.done.done():
            return
        run.check(self._reply.take())
        run.latency_s.append(latency_s)
        if time.perf_counter() < run.until:
            self.request = run.next_request(self.request)
            self.send()
            return
        run.active -= 1
        if not run.active:
            run.done.set_result(None)


def percentile(values: Sequence[float], percent: int) -> float:
    """The value below which so many percent of them are."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


class Loader:
    """Kept connections that were warmed up; each ``run`` is one measurement."""

    def __init__(self, run: _Run, pool: list[_Connection]) -> None:
        self._run = run
        self._pool = pool

    @classmethod
    async def open(
        cls,
        url: str,
        model: str,
        connections: int,
        *,
        alias: str = "",
        size: str = "4 KB",
        paths: int = 0,
    ) -> "Loader":
        """Open the connections and warm up.

        Args:
            url: The full URL of a dialect's endpoint; ``{}`` is a number: that of the connection,
                or with ``paths`` so many in turn.
            model: One of the upstream's models.
            connections: How many are used in parallel.
            alias: Stands before the model's name in requests, and has to in replies.
            size: Of the requests, one of ``requests.SIZES``.
            paths: How many numbers the requests take in turn.

        Raises:
            WrongReplyError: A reply was not right.
        """
        loop = asyncio.get_running_loop()
        run = _Run(url, "whole", alias, size, paths)
        pool = []
        for _ in range(connections):
            _, one = await loop.create_connection(lambda: _Connection(run), run.host, run.port)
            pool.append(one)
        await run.go(pool, 0.0, 0.0)  # one request each
        await run.go(pool, 0.2, 0.0)
        run.choose(model)
        return cls(run, pool)

    async def run(self, seconds: float) -> Result:
        """Measure; streams do not start all at once, so that their deltas do not come together.

        Args:
            seconds: No request starts later than this; those under way are finished.

        Raises:
            WrongReplyError: A reply was not right.
        """
        run = self._run
        spread_s = START_EVERY_S * len(self._pool) if streams(run.model) else 0.0
        wall_s = await run.go(self._pool, seconds, spread_s)
        return Result(
            requests=len(run.latency_s),
            reads=run.reads,
            wall_s=round(wall_s, 3),
            per_s=round(len(run.latency_s) / wall_s, 1),
            latency_p50=round(1000 * percentile(run.latency_s, 50), 2),
            latency_p99=round(1000 * percentile(run.latency_s, 99), 2),
        )


async def _serve(args: argparse.Namespace) -> None:
    """Print a result, or with ``--wait-for-go`` one for each line on standard input."""
    loader = await Loader.open(
        args.url,
        args.model,
        args.connections,
        alias=args.alias,
        size=args.size,
        paths=args.paths,
    )

    async def run() -> None:
        print(msgspec.json.encode(await loader.run(args.seconds)).decode(), flush=True)

    if not args.wait_for_go:
        await run()
        return
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        await run()


def main() -> int:
    """Measure and print results as JSON."""
    parser = argparse.ArgumentParser(prog="benchmarks.load")
    parser.add_argument("url", help="http://host:port/v1/responses or .../chat/completions")
    parser.add_argument("--model", default="whole")
    parser.add_argument("--alias", default="", help="stands before the model's name")
    parser.add_argument("--size", choices=SIZES, default="4 KB", help="of the requests")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--paths", type=int, default=0, help="numbers that '{}' takes in turn")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--wait-for-go", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        try:
            runner.run(_serve(args))
        except (WrongReplyError, OSError) as exc:
            print(f"{type(exc).__name__}: {exc}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
