"""Callers and upstream of a proxy in one process: how long a stream's start is inside the proxy.

Streams are asked for at random moments, so many a second on average, whether or not earlier ones
have ended. Of each, two stretches are added up: from the call that sends the request to its arrival
at the upstream's socket, and from the upstream's call that sends the first chunk to the arrival of
the reply's first body byte at the caller's socket. Arrivals are the kernel's time stamps. So
neither this process's own delays nor the upstream's time are in it, though both share a core.

``python -m benchmarks.tap`` prints the upstream's port, then answers each line of standard input,
an ``Order`` as JSON, with a ``Delays``; ``benchmarks.delay`` gives the orders.
"""

import functools
import heapq
import itertools
import random
import re
import select
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from benchmarks import machine
from benchmarks.replies import ReplyReader, WrongReplyError, check
from benchmarks.requests import request_body
from benchmarks.upstream import STREAM_HEAD, stream_writes

DELTAS: Final = 100
GAP_S: Final = 0.005
STREAM_S: Final = DELTAS * GAP_S
"""How long a stream lasts; so long it takes until as many end as begin."""
SEED: Final = 5
"""Of the random moments, which are the same for all proxies."""

_MODEL: Final = f"stream-{DELTAS}"
_WRITES: Final = stream_writes("chat", _MODEL, include_usage=True)[0]
_LIMIT_S: Final = 10.0  # for the streams that are open at the end

_SO_TIMESTAMPNS: Final = 35
_QUESTION: Final = b"Why does"  # how the request's question begins
_MARK: Final = b"Stream %08d: why does"
_MARKED: Final = re.compile(rb"Stream (\d{8}): ")
_LENGTH: Final = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_WELL: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class Order(msgspec.Struct):
    """What to measure."""

    port: int
    path: str
    streams_per_s: float
    seconds: float
    pid: int
    """Whose CPU time to read; 0: nobody's."""


class Delays(msgspec.Struct):
    """What was measured, in milliseconds; a value for each stream."""

    delay: list[float]
    """How long a start was on its way, there and back."""
    late: list[float]
    """How late a request was sent, seen from the moment that was drawn for it."""
    busy: float
    """The share of the time for which the process used its core."""
    waited: float
    """The share for which it was ready and another process had its core."""


class _Loop:
    """An event loop whose timers are exact to some 50 microseconds, not to milliseconds."""

    def __init__(self) -> None:
        self.selector = selectors.EpollSelector()
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()  # decide between two timers of one moment

    def at(self, due_s: float, action: Callable[[], object]) -> None:
        """Call a function at a moment of the monotonic clock."""
        heapq.heappush(self._timers, (due_s, next(self._numbers), action))

    def turn(self) -> None:
        """Wait for something to happen, and see to it."""
        wait_s = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else 1.0
        select.select([self.selector], [], [], wait_s)  # unlike epoll's, its timeout is exact
        for key, _ in self.selector.select(0):
            key.data()
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()


class _Socket:
    """A connection whose reads have the moment at which the bytes arrived."""

    def __init__(self, loop: _Loop, sock: socket.socket, read: Callable[[], None]) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._sock = sock
        self._selector = loop.selector
        self._selector.register(sock, selectors.EVENT_READ, read)
        self.send = sock.sendall

    def receive(self) -> tuple[bytes, int]:
        """What is there, and the nanosecond since 1970 at which the last of it arrived."""
        data, ancillary, _, _ = self._sock.recvmsg(1 << 18, 64)
        for _, kind, value in ancillary:
            if kind == _SO_TIMESTAMPNS:
                seconds, nanoseconds = struct.unpack("qq", value)
                return data, seconds * 1_000_000_000 + nanoseconds
        return data, 0  # a connection's end has none

    def close(self) -> None:
        """Close it."""
        self._selector.unregister(self._sock)
        self._sock.close()


class _Stream:
    """The moments of one stream; nanoseconds are since 1970."""

    def __init__(self, due_s: float) -> None:
        self.due_s = due_s  # by the monotonic clock
        self.late_s = 0.0
        self.sent_ns = 0
        self.arrived_ns = 0
        self.answered_ns = 0
        self.first_byte_ns = 0
        self.body = b""

    @property
    def delay_ms(self) -> float:
        """How long its start was on its way, there and back."""
        there, back = self.arrived_ns - self.sent_ns, self.first_byte_ns - self.answered_ns
        return (there + back) / 1e6


class _Upstream:
    """A connection on which streams are asked for."""

    def __init__(self, loop: _Loop, sock: socket.socket, streams: list[_Stream]) -> None:
        self._loop = loop
        self._socket = _Socket(loop, sock, self._read)
        self._streams = streams
        self._received = b""

    def _read(self) -> None:
        data, arrived_ns = self._socket.receive()
        if not data:
            self._socket.close()
            return
        self._received += data
        head = self._received.find(b"\r\n\r\n")
        length = _LENGTH.search(self._received, 0, max(head, 0))
        if head < 0 or len(self._received) < head + 4 + (int(length[1]) if length else 0):
            return
        mark = _MARKED.search(self._received)
        self._received = b""
        if not mark:  # the proxy asks whether it is there
            self._socket.send(_WELL)
            return
        stream = self._streams[int(mark[1])]
        stream.arrived_ns = arrived_ns
        stream.answered_ns = time.time_ns()
        self._socket.send(STREAM_HEAD + _WRITES[0])
        self._loop.at(time.monotonic() + GAP_S, functools.partial(self._write, 1))

    def _write(self, index: int) -> None:
        self._socket.send(_WRITES[index])
        if index + 1 < len(_WRITES):
            self._loop.at(time.monotonic() + GAP_S, functools.partial(self._write, index + 1))


class _Caller:
    """A connection that asks for one stream at a time."""

    def __init__(self, loop: _Loop, port: int, idle: "list[_Caller]") -> None:
        sock = socket.create_connection(("127.0.0.1", port))
        self._socket = _Socket(loop, sock, self._read)
        self.close = self._socket.close
        self._idle = idle
        self._reply = ReplyReader()
        self._stream = _Stream(0)

    def ask(self, stream: _Stream, request: bytes) -> None:
        """Send a request."""
        self._stream = stream
        stream.late_s = time.monotonic() - stream.due_s
        stream.sent_ns = time.time_ns()
        self._socket.send(request)

    def _read(self) -> None:
        data, arrived_ns = self._socket.receive()
        if not data:
            raise WrongReplyError("a connection was closed")
        complete = self._reply.feed(data)
        if not self._stream.first_byte_ns and self._reply.body_began:
            self._stream.first_byte_ns = arrived_ns
        if complete:
            self._stream.body = self._reply.take()
            self._idle.append(self)


class Tap:
    """What is on both sides of a proxy."""

    def __init__(self) -> None:
        self._loop = _Loop()
        self._streams: list[_Stream] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port = self._listener.getsockname()[1]
        self._loop.selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def serve(self) -> None:
        """Answer orders on standard input until it ends."""
        orders: list[bytes] = []
        self._loop.selector.register(
            sys.stdin, selectors.EVENT_READ, lambda: orders.append(sys.stdin.buffer.readline())
        )
        while True:
            self._loop.turn()
            if not orders:
                continue
            line = orders.pop()
            if not line:
                return
            delays = self.measure(msgspec.json.decode(line, type=Order))
            print(msgspec.json.encode(delays).decode(), flush=True)

    def measure(self, order: Order) -> Delays:
        """Ask for streams at random moments.

        The first ones, until as many end as begin, do not count.

        Raises:
            WrongReplyError: A reply was not the one that was sent.
        """
        usual = round(order.streams_per_s * STREAM_S)  # open at once
        idle: list[_Caller] = []
        idle += [_Caller(self._loop, order.port, idle) for _ in range(usual * 3 // 2 + 10)]
        callers = list(idle)
        dialect = "responses" if order.path.endswith("/responses") else "chat"
        start_s = time.monotonic() + 0.1
        steady_s, end_s = start_s + STREAM_S, start_s + STREAM_S + order.seconds

        def ask(stream: _Stream, request: bytes) -> None:
            if not idle:
                idle.append(_Caller(self._loop, order.port, idle))
                callers.extend(idle)
            idle.pop().ask(stream, request)

        clocks_ns: list[tuple[int, int]] = []
        for moment_s in (steady_s, end_s):
            self._loop.at(moment_s, lambda: clocks_ns.append(_clocks_ns(order.pid)))
        draw = random.Random(SEED)
        self._streams.clear()
        due_s = start_s
        while due_s < end_s:
            stream, request = _Stream(due_s), _request(dialect, order, len(self._streams))
            self._streams.append(stream)
            self._loop.at(due_s, functools.partial(ask, stream, request))
            due_s += draw.expovariate(order.streams_per_s)
        while len(idle) < len(callers) or time.monotonic() < end_s:
            self._loop.turn()
            if time.monotonic() > end_s + _LIMIT_S:
                raise WrongReplyError(f"{len(callers) - len(idle)} streams have no end")
        for caller in callers:
            caller.close()
        for stream in self._streams:
            check(dialect, stream.body, _MODEL)
        counted = [stream for stream in self._streams if stream.due_s >= steady_s]
        return Delays(
            [stream.delay_ms for stream in counted],
            [1000 * stream.late_s for stream in counted],
            *((b - a) / 1e9 / order.seconds for a, b in zip(*clocks_ns, strict=True)),
        )

    def _accept(self) -> None:
        _Upstream(self._loop, self._listener.accept()[0], self._streams)


def _clocks_ns(pid: int) -> tuple[int, int]:
    """For how long a process has run, and for how long its main thread has waited for a core."""
    if not pid:
        return 0, 0
    waited_ns = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
    return machine.cpu_ns(pid), waited_ns


def _request(dialect: str, order: Order, number: int) -> bytes:
    body = request_body(dialect, _MODEL).replace(_QUESTION, _MARK % number, 1)
    return (
        f"POST {order.path} HTTP/1.1\r\nhost: 127.0.0.1:{order.port}\r\n"
        "content-type: application/json\r\nauthorization: Bearer benchmark\r\n"
        f"accept: text/event-stream\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body


def main() -> None:
    """Serve as upstream, and measure when told to."""
    tap = Tap()
    print(tap.port, flush=True)
    tap.serve()


if __name__ == "__main__":
    main()
