"""A load generator that checks every reply.

Each of C kept connections sends its next request when the reply to the last one is complete, until
the time is over. A reply that is not the one the upstream gave (status, text, terminal event) ends
the run with an error: a benchmark of failures is worthless.

Run ``python -m benchmarks.load URL --model MODEL`` to see one measurement; the models are those of
``benchmarks.upstream``. The last segments of the URL's path say which dialect is spoken.
"""

import argparse
import asyncio
import json
import re
import sys
import time
from typing import Any, Final, cast
from urllib.parse import urlsplit

import msgspec

from benchmarks.upstream import REPLY_TEXT, new_event_loop, stream_text

START_EVERY_S: Final = 0.003
"""Seconds between the starts of two streams."""

_CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding:\s*chunked", re.IGNORECASE)
_DELTAS: Final = re.compile(rb'"(?:content|delta)":\s*"((?: tok\d{5})+)"')
_STOP: Final = re.compile(rb'"finish_reason":\s*"stop"')
_END_OF_CHUNKS: Final = b"\r\n0\r\n\r\n"


class Result(msgspec.Struct):
    """What one run measured. Times are in milliseconds."""

    requests: int
    reads: int
    """Reads of a socket that brought something, over all replies."""
    wall_s: float
    per_s: float
    latency_p50: float
    latency_p99: float
    first_byte_p50: float
    """From the request's last byte to the first byte of the reply's body."""
    first_byte_p99: float


# Requests of about 4 KB: an agent's third turn


_INSTRUCTIONS: Final = (
    "You are a careful assistant that works inside a repository. Read before you write, prefer "
    "small changes, and explain each command before it runs. "
) * 4
_QUESTION: Final = "Why does the test of the parser fail since yesterday? Find the reason. " * 5
_LISTING: Final = "".join(
    f"-rw-r--r-- 1 user user {i * 37:6d} src/module_{i:02d}.py\n" for i in range(30)
)
_ARGUMENTS: Final = '{"command":["ls","-l","src"],"workdir":"/repo","timeout_ms":10000}'
_FOLLOW_UP: Final = "Only look at the modules that changed this week, please. " * 3
_FUNCTIONS: Final[list[dict[str, Any]]] = [
    {
        "name": "shell",
        "description": "Runs a command and returns its output. " * 4,
        "parameters": {
            "type": "object",
            "properties": {
                "command": {"type": "array", "items": {"type": "string"}},
                "workdir": {"type": "string", "description": "Where the command runs."},
                "timeout_ms": {"type": "number", "description": "Milliseconds it may take."},
            },
            "required": ["command"],
            "additionalProperties": False,
        },
    },
    {
        "name": "read_file",
        "description": "Returns the lines of a text file. " * 4,
        "parameters": {
            "type": "object",
            "properties": {
                "path": {"type": "string", "description": "Relative to the repository."},
                "first_line": {"type": "integer", "minimum": 1},
                "last_line": {"type": "integer", "minimum": 1},
            },
            "required": ["path"],
            "additionalProperties": False,
        },
    },
]


def request_body(dialect: str, model: str) -> bytes:
    """The JSON of a request: instructions, five items, two tools."""
    stream = model != "whole"
    body: dict[str, Any]
    if dialect == "responses":
        body = {
            "model": model,
            "stream": stream,
            "instructions": _INSTRUCTIONS,
            "input": [
                {
                    "type": "message",
                    "role": "user",
                    "content": [{"type": "input_text", "text": _QUESTION}],
                },
                {
                    "type": "message",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": "I list the sources first."}],
                },
                {
                    "type": "function_call",
                    "call_id": "call_1",
                    "name": "shell",
                    "arguments": _ARGUMENTS,
                },
                {"type": "function_call_output", "call_id": "call_1", "output": _LISTING},
                {"type": "message", "role": "user", "content": _FOLLOW_UP},
            ],
            "tools": [{"type": "function", "strict": False, **tool} for tool in _FUNCTIONS],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "temperature": 0.7,
            "max_output_tokens": 1024,
            "store": False,
        }
    else:
        call = {
            "id": "call_1",
            "type": "function",
            "function": {"name": "shell", "arguments": _ARGUMENTS},
        }
        body = {
            "model": model,
            "stream": stream,
            "messages": [
                {"role": "system", "content": _INSTRUCTIONS},
                {"role": "user", "content": [{"type": "text", "text": _QUESTION}]},
                {
                    "role": "assistant",
                    "content": "I list the sources first.",
                    "tool_calls": [call],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": _LISTING},
                {"role": "user", "content": _FOLLOW_UP},
            ],
            "tools": [{"type": "function", "function": tool} for tool in _FUNCTIONS],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "temperature": 0.7,
            "max_tokens": 1024,
        }
        if stream:
            body["stream_options"] = {"include_usage": True}
    return json.dumps(body, separators=(",", ":")).encode()


# Checks


class WrongReplyError(Exception):
    """A reply was not what the upstream said."""


def check_whole(dialect: str, body: bytes) -> None:
    """Check a reply that was not streamed."""
    reply = msgspec.json.decode(body)
    if dialect == "chat":
        choice = reply["choices"][0]
        end, text = choice["finish_reason"], choice["message"]["content"]
    else:
        end, text = reply["status"], reply["output"][-1]["content"][0]["text"]
    if end not in ("stop", "completed") or text != REPLY_TEXT:
        raise WrongReplyError(f"ended with {end!r} and {len(text)} characters")


def check_stream(dialect: str, body: bytes, text: str) -> None:
    """Check a stream: all deltas in order, then a proper end."""
    # Deltas may be joined by a proxy, so that their text is compared and not their number.
    found = b"".join(_DELTAS.findall(body)).decode()
    if found != text:
        raise WrongReplyError(f"{len(found)} of {len(text)} characters in the deltas")
    if dialect == "chat":
        if not body.endswith(b"data: [DONE]\n\n") or not _STOP.search(body):
            raise WrongReplyError("the chat stream has no proper end")
        return
    end = body[body.rindex(b"data: {") :]  # LiteLLM writes no ``event`` fields
    if b'"response.completed"' not in end or text.encode() not in end:
        raise WrongReplyError("the Responses stream does not end with its completed response")


def _dechunked(data: bytes) -> bytes:
    """The body in a complete chunked encoding."""
    parts: list[bytes] = []
    at = 0
    while True:
        end = data.index(b"\r\n", at)
        size = int(data[at:end], 16)
        if not size:
            return b"".join(parts)
        parts.append(data[end + 2 : end + 2 + size])
        at = end + 2 + size + 2


# The run


class _Run:
    """What the connections of one run share."""

    def __init__(self, url: str, model: str, alias: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self.host, self.port, self.path = parts.hostname, parts.port, parts.path
        self.dialect = "responses" if parts.path.endswith("/responses") else "chat"
        self.alias = alias
        self._body = b""
        self.text = ""
        self.until = 0.0
        self.reads = 0
        self.latency_s: list[float] = []
        self.first_byte_s: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.active = 0
        self.choose(model)

    def choose(self, model: str) -> None:
        """Make the requests that follow ones for this model."""
        named = b'"model":"%b"'
        plain, aliased = named % model.encode(), named % (self.alias + model).encode()
        self._body = request_body(self.dialect, model).replace(plain, aliased, 1)
        self.model = model
        self.text = "" if model == "whole" else stream_text(int(model.split("-")[1]))

    def request(self, number: int) -> bytes:
        """The bytes of a connection's requests."""
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
        if self.text:
            check_stream(self.dialect, body, self.text)
        else:
            check_whole(self.dialect, body)

    def fail(self, error: Exception) -> None:
        """End the run with an error."""
        if not self.done.done():
            self.done.set_exception(error)

    async def go(self, connections: "list[_Connection]", seconds: float, spread_s: float) -> float:
        """Let the connections work; the seconds it took."""
        loop = asyncio.get_running_loop()
        self.reads = 0
        self.latency_s, self.first_byte_s = [], []
        self.done = loop.create_future()
        self.active = len(connections)
        start = time.perf_counter()
        self.until = start + seconds
        for i, connection in enumerate(connections):
            connection.request = self.request(i)
            loop.call_later(spread_s * i / len(connections), connection.send)
        await self.done
        return time.perf_counter() - start


class _Connection(asyncio.Protocol):
    """One kept connection."""

    def __init__(self, run: _Run) -> None:
        self.request = b""
        self._run = run
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._body_at = 0  # where the body begins, once the head is there
        self._length = -1  # of the body; negative: chunked
        self._sent_at = 0.0
        self._first_byte_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.fail(
            WrongReplyError(f"connection closed: {exc or bytes(self._received[-500:])!r}")
        )

    def send(self) -> None:
        """Send the next request."""
        assert self._transport is not None
        self._received.clear()
        self._body_at = 0
        self._first_byte_s = 0.0
        self._sent_at = time.perf_counter()
        self._transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        self._run.reads += 1
        if not self._body_at and not self._read_head():
            return
        if not self._first_byte_s:
            if len(received) == self._body_at:
                return
            self._first_byte_s = time.perf_counter() - self._sent_at
        if self._length >= 0:
            if len(received) < self._body_at + self._length:
                return
        elif not received.endswith(_END_OF_CHUNKS):
            return
        self._finish(time.perf_counter() - self._sent_at)

    def _read_head(self) -> bool:
        received = self._received
        end = received.find(b"\r\n\r\n")
        if end < 0:
            return False
        if not received.startswith(b"HTTP/1.1 200"):
            self._run.fail(WrongReplyError(bytes(received[:2000]).decode(errors="replace")))
            return False
        self._body_at = end + 4
        length = _CONTENT_LENGTH.search(received, 0, end + 2)
        if length:
            self._length = int(length[1])
        elif _CHUNKED.search(received, 0, end + 2):
            self._length = -1
        else:
            self._run.fail(WrongReplyError("a reply without length or chunks"))
            return False
        return True

    def _finish(self, latency_s: float) -> None:
        run = self._run
        if run.done.done():
            return
        body = bytes(memoryview(self._received)[self._body_at :])
        try:
            run.check(_dechunked(body) if self._length < 0 else body)
        except (WrongReplyError, LookupError, ValueError) as exc:
            run.fail(WrongReplyError(f"{run.model}: {exc!r} in {body[-1500:]!r}"))
            return
        run.latency_s.append(latency_s)
        run.first_byte_s.append(self._first_byte_s)
        if time.perf_counter() < run.until:
            self.send()
            return
        run.active -= 1
        if not run.active:
            run.done.set_result(None)


def _percentile_ms(values_s: list[float], percent: int) -> float:
    ordered = sorted(values_s)
    return round(1000 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], 2)


async def measure(
    url: str,
    model: str,
    connections: int,
    seconds: float,
    *,
    alias: str = "",
    wait_for_go: bool = False,
) -> Result:
    """Open the connections, warm up, and measure.

    Streams do not start all at once, so that neither their deltas come together nor their first
    bytes wait for the other streams' requests.

    Args:
        url: The full URL of a dialect's endpoint; ``{}`` is the number of the connection.
        model: One of the upstream's models.
        connections: How many are used in parallel.
        seconds: No request starts later than this; those under way are finished.
        alias: Stands before the model's name in requests, and has to in replies.
        wait_for_go: Print ``ready`` after the warm-up and wait for a line on standard input.

    Raises:
        WrongReplyError: A reply was not right.
    """
    loop = asyncio.get_running_loop()
    run = _Run(url, "whole", alias)
    pool = []
    for _ in range(connections):
        _, connection = await loop.create_connection(lambda: _Connection(run), run.host, run.port)
        pool.append(connection)
    await run.go(pool, 0.0, 0.0)  # one request each
    await run.go(pool, 0.2, 0.0)
    run.choose(model)
    if wait_for_go:
        print("ready", flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)
    spread_s = START_EVERY_S * connections if model != "whole" else 0.0
    wall_s = await run.go(pool, seconds, spread_s)
    return Result(
        requests=len(run.latency_s),
        reads=run.reads,
        wall_s=round(wall_s, 3),
        per_s=round(len(run.latency_s) / wall_s, 1),
        latency_p50=_percentile_ms(run.latency_s, 50),
        latency_p99=_percentile_ms(run.latency_s, 99),
        first_byte_p50=_percentile_ms(run.first_byte_s, 50),
        first_byte_p99=_percentile_ms(run.first_byte_s, 99),
    )


def main() -> int:
    """Measure once and print the result as JSON."""
    parser = argparse.ArgumentParser(prog="benchmarks.load")
    parser.add_argument("url", help="http://host:port/v1/responses or .../chat/completions")
    parser.add_argument("--model", default="whole")
    parser.add_argument("--alias", default="", help="stands before the model's name")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--wait-for-go", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        try:
            result = runner.run(
                measure(
                    args.url,
                    args.model,
                    args.connections,
                    args.seconds,
                    alias=args.alias,
                    wait_for_go=args.wait_for_go,
                )
            )
        except (WrongReplyError, OSError) as exc:
            print(f"{type(exc).__name__}: {exc}", file=sys.stderr)
            return 1
    print(msgspec.json.encode(result).decode(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
