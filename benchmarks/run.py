"""Dragoman beside nginx and a straight connection, as one table.

Run ``python -m benchmarks.run [--quick] [--connections 32 256]``.

A *server* is something that stands between load and upstream; a *row* is a dialect spoken to a
server. To measure another proxy, add it to ``servers.SERVERS`` and its rows to ``ROWS``.
"""

import argparse
import contextlib
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from benchmarks import machine
from benchmarks.load import Result
from benchmarks.plot import bar_chart
from benchmarks.requests import SIZES
from benchmarks.servers import Running, running
from benchmarks.tables import Figure, markdown_table, number
from benchmarks.upstream import BURST, streams

PATHS: Final = {"chat": "/v1/chat/completions", "responses": "/v1/responses"}

CONNECTIONS: Final = (32, 256)
DELTAS: Final = 100
"""Chunks of a stream."""

SINGLE_PER_S: Final = 5_000
BURST_PER_S: Final = 32_000
"""Deltas per second over all streams, so that a proxy's load is the same at any connections."""


# Rows


class Row(NamedTuple):
    """A line of the table."""

    title: str
    server: str | None
    """A key of ``SERVERS``; ``None``: straight to the upstream."""
    dialect: str
    quick: bool = True
    """Whether ``--quick`` measures it."""
    prefix: str = ""
    """Stands before the path; ``{}`` is the number of the connection."""
    alias: str = ""
    """Stands before the model's name."""
    most: int | None = None
    """The most connections at which it is measured."""
    once: bool = False
    """Whether one round has to do, since it takes long."""
    paths: int = 0
    """How many numbers the requests take in turn, each in place of ``{}``; 0: see ``prefix``."""


ROWS: Final = (
    Row("straight to the upstream", None, "chat"),
    Row("nginx", "nginx", "chat"),
    Row("Dragoman, Chat on Chat (relayed)", "dragoman-chat", "chat"),
    Row("Dragoman, Responses over Chat", "dragoman-chat", "responses"),
    Row("Dragoman, Chat over Responses", "dragoman-responses", "chat", False),
    Row("Dragoman, Responses on Responses (relayed)", "dragoman-responses", "responses", False),
    Row("LiteLLM, Chat on Chat", "litellm", "chat", False, most=32, once=True),
    Row("LiteLLM, Responses over Chat", "litellm", "responses", False, most=32, once=True),
)
REFERENCE: Final = "nginx"
"""The row to which ratios are given."""

_RELAY_GOALS: Final = {"request, 1 KB in": 200, "chunk, singly": 10, "chunk, in bursts": 10}
GOALS: Final = {
    "Dragoman, Responses over Chat": {
        "request, 1 KB in": 300,
        "chunk, singly": 30,
        "chunk, in bursts": 10,
    },
    "Dragoman, Chat on Chat (relayed)": _RELAY_GOALS,
    "Dragoman, Responses on Responses (relayed)": _RELAY_GOALS,
}
"""By row and unit, the CPU microseconds that were aimed at."""


# Loads


class Load(NamedTuple):
    """What is asked of a row at a time."""

    unit: str
    """What the cost is given of: a request, or a chunk of a stream."""
    connections: int
    model: str
    """The upstream's."""
    size: str = "4 KB"
    """Of the request."""

    @property
    def streams(self) -> bool:
        """Whether the replies are streams."""
        return streams(self.model)

    @property
    def units(self) -> int:
        """How many units a request has."""
        return DELTAS if self.streams else 1

    @property
    def title(self) -> str:
        """The head of its column."""
        return f"{self.unit}, {self.connections}"


def loads_at(connections: Sequence[int]) -> list[Load]:
    """All loads, each at so many connections."""

    def gap_ms(per_s: int, step: int, n: int) -> int:
        return max(1, round(1000 * step * n / per_s))

    return [
        *(Load(f"request, {size} in", n, "whole", size) for size in SIZES for n in connections),
        *(
            Load("chunk, singly", n, f"stream-{DELTAS}-{gap_ms(SINGLE_PER_S, 1, n)}ms")
            for n in connections
        ),
        *(
            Load("chunk, in bursts", n, f"burst-{DELTAS}-{gap_ms(BURST_PER_S, BURST, n)}ms")
            for n in connections
        ),
    ]


class Sample(NamedTuple):
    """One run of a load on a row."""

    cpu_us: float | None
    """Of the server, per request or per chunk; ``None`` without a server."""
    result: Result
    reads_per_unit: float


class Loaded:
    """A load generator that is connected to a server and warm."""

    def __init__(self, process: subprocess.Popen[bytes], row: Row, load: Load) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._orders, self._results = process.stdin, process.stdout
        self._row = row
        self._load = load
        self._expect(b"ready\n")

    def sample(self, pid: int | None, settle_s: float = 0.0) -> Sample:
        """Load the server; the CPU time is that of the process ``pid`` and its descendants.

        What it does in the next ``settle_s`` seconds counts as well.

        Raises:
            machine.StartError: It gives wrong replies.
        """
        before = machine.cpu_ns(pid) if pid else 0
        self._orders.write(b"go\n")
        self._orders.flush()
        result = msgspec.json.decode(self._expect(), type=Result)
        time.sleep(settle_s)
        used_ns = machine.cpu_ns(pid) - before if pid else 0
        units = result.requests * self._load.units
        return Sample(used_ns / 1000 / units if pid else None, result, result.reads / units)

    def _expect(self, line: bytes | None = None) -> bytes:
        found = self._results.readline()
        if not found or line not in (None, found):
            raise machine.StartError(f"{self._row.title}: wrong replies at {self._load}")
        return found


@contextlib.contextmanager
def loaded(
    port: int, row: Row, load: Load, seconds: float, *, core: int = machine.LOAD_CORE
) -> Iterator[Loaded]:
    """Start a load generator for the server on a port; each sample takes so many seconds.

    Raises:
        machine.StartError: The server gives wrong replies.
    """
    process = machine.start(
        [
            *(machine.python(), "-m", "benchmarks.load", "--wait-for-go", "--model", load.model),
            *("--alias", row.alias, "--connections", str(load.connections)),
            *("--size", load.size, "--seconds", str(seconds), "--paths", str(row.paths)),
            f"http://127.0.0.1:{port}{row.prefix}{PATHS[row.dialect]}",
        ],
        core=core,
        pipes=True,
    )
    try:
        yield Loaded(process, row, load)
    finally:
        machine.stop(process)


def sample(port: int, pid: int | None, row: Row, load: Load, seconds: float) -> Sample:
    """One sample; see ``Loaded.sample``."""
    with loaded(port, row, load, seconds) as one:
        return one.sample(pid)


class Results(NamedTuple):
    """All samples of all loads on the rows that could be measured."""

    rows: Sequence[Row]
    loads: Sequence[Load]
    samples: dict[tuple[Row, Load], list[Sample]]

    def cpu_us(self, row: Row | None, load: Load) -> float | None:
        """The least cost per unit of all rounds; ``None`` where it was not measured.

        What else the machine does only ever adds: by a half and more, for minutes.
        """
        found = self.samples.get((row, load), ()) if row else ()
        values = [one.cpu_us for one in found if one.cpu_us is not None]
        return min(values, default=None)

    def joined(self, row: Row, load: Load) -> bool:
        """Whether chunks that were sent singly were not read singly."""
        reads = statistics.median(one.reads_per_unit for one in self.samples[row, load])
        return "singly" in load.unit and reads < 0.9

    def goals(self) -> list[Figure]:
        """The costs for which something was aimed at."""
        by_title = {row.title: row for row in self.rows}
        nginx = by_title.get(REFERENCE)
        figures = []
        for title, limits in GOALS.items():
            for load in self.loads:
                if (row := by_title.get(title)) and load.unit in limits:
                    # Joined chunks cost less than those that were to be measured.
                    cpu_us = None if self.joined(row, load) else self.cpu_us(row, load)
                    what, limit = f"{title}: {load.title}", limits[load.unit]
                    beside = self.cpu_us(nginx, load)
                    figures.append(Figure(what, cpu_us, "us CPU", limit, nginx=beside))
        return figures


def measure(
    rows: Sequence[Row], loads: Sequence[Load], *, rounds: int = 4, seconds: float = 1.0
) -> Results:
    """Measure the rows in turns at each load.

    Args:
        rows: Those whose server is not installed are left out.
        loads: Each is measured on all rows before the next.
        rounds: How often all that is done.
        seconds: How long requests are started in each sample.

    Raises:
        machine.StartError: A server did not start, or replies were wrong.
    """
    samples: dict[tuple[Row, Load], list[Sample]] = {}
    names = list(dict.fromkeys(row.server for row in rows if row.server))
    models = list(dict.fromkeys(["whole", *(load.model for load in loads)]))
    upstream, upstream_port = machine.start_upstream()
    try:
        with running(names, upstream_port, models) as servers:
            straight = Running(0, upstream_port)
            rows = [row for row in rows if row.server is None or row.server in servers]
            for turn, load in itertools.product(range(rounds), loads):
                print(f"round {turn + 1} of {rounds}: {load.title}", file=sys.stderr)
                for row in rows:
                    few = row.most is None or load.connections <= row.most
                    if few and not (row.once and turn):
                        server = servers[row.server] if row.server else straight
                        taken = sample(server.port, server.pid, row, load, seconds)
                        samples.setdefault((row, load), []).append(taken)
    finally:
        machine.stop(upstream)
    return Results(rows, loads, samples)


# Tables


def cpu_table(results: Results) -> str:
    """CPU time of the server per unit, with the ratio to the reference row."""
    reference = next((row for row in results.rows if row.title == REFERENCE), None)
    lines = []
    for row in results.rows:
        cells = [row.title]
        for load in results.loads:
            cpu_us, base = results.cpu_us(row, load), results.cpu_us(reference, load)
            if cpu_us is None:
                cells.append("-")
                continue
            cell = number(cpu_us) + ("*" if results.joined(row, load) else "")
            cells.append(f"{cell} ({cpu_us / base:.1f}x)" if base else cell)
        lines.append(cells)
    return markdown_table(["CPU us per", *(load.title for load in results.loads)], lines)


def chart(results: Results) -> str:
    """The costs at the fewest connections, as an SVG picture."""
    fewest = min(load.connections for load in results.loads)
    loads = [load for load in results.loads if load.connections == fewest]
    bars = [
        (row.title, [results.cpu_us(row, load) for load in loads])
        for row in results.rows
        if row.server is not None
    ]
    title = f"CPU microseconds of the proxy, {fewest} connections, logarithmic; less is better"
    return bar_chart(title, [f"per {load.unit}" for load in loads], bars)


def speed_table(results: Results) -> str:
    """Requests per second and latency of the 1 KB requests."""
    loads = [load for load in results.loads if load.size == "1 KB"]
    head = ["wall clock, 1 KB in"]
    head += [f"requests/s, {load.connections}" for load in loads]
    head += [f"p50/p99 ms, {load.connections}" for load in loads]
    lines = []
    for row in results.rows:
        cells = [row.title]
        for load, names in (
            *((load, ("per_s",)) for load in loads),
            *((load, ("latency_p50", "latency_p99")) for load in loads),
        ):
            found = [one.result for one in results.samples.get((row, load), ())]
            medians = [statistics.median(getattr(r, n) for r in found) for n in names if found]
            cells.append(" / ".join(map(number, medians)) or "-")
        lines.append(cells)
    return markdown_table(head, lines)


NOTES: Final = """\
CPU time is that of the proxy's process with all its threads, user and system, on core 0; load
and upstream share core 1. Each figure is the least of {rounds} interleaved run(s), on the wall
clock the median. In brackets: the ratio to nginx, which relays without translation. Whole replies
have 1 KB. Streams: 4 KB in, {deltas} chunks of about 200 bytes; singly: {single} chunks/s over all
streams, each in a write of its own; in bursts: {burst} chunks/s, ten to a write. What a stream's
request and end cost is part of its chunks. `*`: the proxy fell behind and chunks were joined.
Requests/s of the first two rows are limited by load and upstream, which share a core."""


def report(results: Results) -> str:
    """The tables and how they came about."""
    rounds = max(map(len, results.samples.values()))
    notes = NOTES.format(rounds=rounds, deltas=DELTAS, single=SINGLE_PER_S, burst=BURST_PER_S)
    return "\n\n".join([cpu_table(results), speed_table(results), notes])


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description="Dragoman beside nginx and a straight connection: CPU time, speed, latency.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer rows, one short round")
    parser.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS, metavar="N")
    parser.add_argument("--rounds", type=int, help="interleaved repetitions (4; with --quick 1)")
    parser.add_argument("--only", help="rows whose title contains this, and nginx")
    args = parser.parse_args()
    rows = [
        row
        for row in ROWS
        if (row.quick or not args.quick)
        and (not args.only or row.title == REFERENCE or args.only.lower() in row.title.lower())
    ]
    rounds = args.rounds or (1 if args.quick else 4)
    seconds = 0.7 if args.quick else 1.0
    loads = loads_at(args.connections)
    return machine.show(lambda: report(measure(rows, loads, rounds=rounds, seconds=seconds)))


if __name__ == "__main__":
    sys.exit(main())
