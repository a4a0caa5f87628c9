"""Dragoman beside nginx and a straight connection, as one table.

Run ``python -m benchmarks.run [--quick] [--connections 32 256] [--write]``.

A *server* is something that stands between load and upstream; a *row* is a dialect spoken to a
server. To measure another proxy, add it to ``servers.SERVERS`` and its rows to ``ROWS``.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from benchmarks import machine
from benchmarks.load import Result
from benchmarks.plot import bar_chart
from benchmarks.servers import ALIAS, SERVERS, Place

PROXY_CORE: Final = 0
LOAD_CORE: Final = 1
"""Load and upstream share a core; the proxy has the other one for itself."""

PATHS: Final = {"chat": "/v1/chat/completions", "responses": "/v1/responses"}

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


_ROLLOUT: Final = "/ng-rollout/benchmark-{}"

ROWS: Final = (
    Row("straight to the upstream", None, "chat"),
    Row("nginx", "nginx", "chat"),
    Row("Dragoman, Chat on Chat (relayed)", "dragoman-chat", "chat"),
    Row("Dragoman, Responses over Chat", "dragoman-chat", "responses"),
    Row("Dragoman, Chat over Responses", "dragoman-responses", "chat"),
    Row("Dragoman, Responses on Responses (relayed)", "dragoman-responses", "responses", False),
    Row("Dragoman, Chat on Chat, captured", "dragoman-captures", "chat", False, _ROLLOUT),
    Row(
        "Dragoman, Responses over Chat, captured", "dragoman-captures", "responses", False, _ROLLOUT
    ),
    Row("Dragoman, Chat on Chat, in full", "dragoman-full", "chat", False, _ROLLOUT, ALIAS),
    Row(
        *("Dragoman, Responses over Chat, in full", "dragoman-full", "responses"),
        *(False, _ROLLOUT, ALIAS),
    ),
    Row("LiteLLM, Chat on Chat", "litellm", "chat", False, most=32),
    Row("LiteLLM, Responses over Chat", "litellm", "responses", False, most=32),
)
REFERENCE: Final = "nginx"
"""The row to which ratios are given."""


# Workloads


class Load(NamedTuple):
    """What is asked of a row at a time."""

    kind: str
    """``whole``, ``single`` or ``burst``."""
    connections: int

    def model(self, deltas: int) -> str:
        """The upstream's model for it."""
        if self.kind == "whole":
            return "whole"
        if self.kind == "single":
            return f"stream-{deltas}-{max(1, round(1000 * self.connections / SINGLE_PER_S))}ms"
        return f"burst-{deltas}-{max(1, round(10_000 * self.connections / BURST_PER_S))}ms"

    def title(self) -> str:
        """The head of its column."""
        unit = {"whole": "request", "single": "chunk, singly", "burst": "chunk, in bursts"}
        return f"{unit[self.kind]}, {self.connections}"


class Sample(NamedTuple):
    """One run of a load on a row."""

    cpu_us: float | None
    """Of the server, per request or per chunk; ``None`` without a server."""
    result: Result
    reads_per_unit: float


@contextlib.contextmanager
def _running(
    names: Sequence[str], upstream_port: int, folder: Path, models: Sequence[str]
) -> Iterator[dict[str, tuple[subprocess.Popen[bytes], int]]]:
    """Start servers; those that could not be started are named and left out."""
    # What the caller of the benchmark has configured for Dragoman must not take part.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DRAGOMAN_", "OPENAI_"))
    }
    running: dict[str, tuple[subprocess.Popen[bytes], int]] = {}
    with contextlib.ExitStack() as stack:
        for name in names:
            place = Place(machine.free_port(), upstream_port, folder / name, models)
            place.folder.mkdir()
            command = SERVERS[name].command(place)
            if command is None:
                print(f"left out: {name} is not installed")
                continue
            log = place.folder / "log"
            with log.open("wb") as file:
                process = machine.start(command, core=PROXY_CORE, log=file, environment=environment)
            stack.callback(machine.stop, process)
            url = f"http://127.0.0.1:{place.port}{SERVERS[name].ready}"
            try:
                machine.wait_ready(process, url, log, SERVERS[name].start_s)
            except machine.StartError as exc:
                print(f"left out: {name} {exc}")
                continue
            running[name] = process, place.port
        yield running


def sample(port: int, pid: int | None, row: Row, load: Load, deltas: int, seconds: float) -> Sample:
    """Load the server on a port; the CPU time is that of the process ``pid`` and its descendants.

    Raises:
        StartError: It gives wrong replies.
    """
    model = load.model(deltas)
    process = machine.start(
        [
            *(machine.python(), "-m", "benchmarks.load", "--wait-for-go", "--model", model),
            *("--alias", row.alias, "--connections", str(load.connections)),
            *("--seconds", str(seconds)),
            f"http://127.0.0.1:{port}{row.prefix}{PATHS[row.dialect]}",
        ],
        core=LOAD_CORE,
        pipes=True,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise machine.StartError(f"{row.title}: wrong replies at {load}")
        before = machine.cpu_ns(pid) if pid else 0
        process.stdin.write(b"go\n")
        process.stdin.flush()
        line = process.stdout.readline()
        used_ns = machine.cpu_ns(pid) - before if pid else 0
    finally:
        machine.stop(process)
    if not line:
        raise machine.StartError(f"{row.title}: wrong replies at {load}")
    result = msgspec.json.decode(line, type=Result)
    units = result.requests * (1 if load.kind == "whole" else deltas)
    return Sample(used_ns / 1000 / units if pid else None, result, result.reads / units)


# Tables


Samples = dict[tuple[Row, Load], list[Sample]]


def _median_cpu(samples: list[Sample] | None) -> float | None:
    values = [sample.cpu_us for sample in samples or () if sample.cpu_us is not None]
    return statistics.median(values) if values else None


def markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, readable as plain text."""
    widths = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join([first, *rest])} |"

    rule = (
        f"|{'|'.join([':' + '-' * (widths[0] + 1), *('-' * (w + 1) + ':' for w in widths[1:])])}|"
    )
    return "\n".join([line(head), rule, *map(line, lines)])


def cpu_table(rows: Sequence[Row], loads: Sequence[Load], samples: Samples) -> str:
    """CPU time of the server per unit, with the ratio to the reference row."""
    reference = next((row for row in rows if row.title == REFERENCE), None)
    lines = []
    for row in rows:
        cells = [row.title]
        for load in loads:
            cpu_us = _median_cpu(samples.get((row, load)))
            base = _median_cpu(samples.get((reference, load))) if reference else None
            if cpu_us is None:
                cells.append("-")
                continue
            cell = f"{cpu_us:.1f}" if cpu_us < 100 else f"{cpu_us:.0f}"
            # A single delta that was not read singly was not measured singly.
            joined = statistics.median(s.reads_per_unit for s in samples[row, load]) < 0.9
            cell += "*" if load.kind == "single" and joined else ""
            cells.append(f"{cell} ({cpu_us / base:.1f}x)" if base else cell)
        lines.append(cells)
    return markdown_table(["CPU us per", *(load.title() for load in loads)], lines)


def _chart(rows: Sequence[Row], loads: Sequence[Load], samples: Samples) -> str:
    bars = [
        (row.title, [_median_cpu(samples.get((row, load))) for load in loads])
        for row in rows
        if row.server is not None
    ]
    title = "CPU microseconds of the proxy, logarithmic; less is better"
    return bar_chart(title, [f"per {load.title()} connections" for load in loads], bars)


def speed_table(rows: Sequence[Row], loads: Sequence[Load], samples: Samples) -> str:
    """Requests per second, latency, and the delay of a stream's first byte."""
    whole = [load for load in loads if load.kind == "whole"]
    single = [load for load in loads if load.kind == "single"]
    head = ["wall clock"]
    head += [f"requests/s, {load.connections}" for load in whole]
    head += [f"p50/p99 ms, {load.connections}" for load in whole]
    head += [f"first byte p50/p99 ms, {load.connections}" for load in single]
    lines = []
    for row in rows:
        cells = [row.title]
        for load, names in (
            *((load, ("per_s",)) for load in whole),
            *((load, ("latency_p50", "latency_p99")) for load in whole),
            *((load, ("first_byte_p50", "first_byte_p99")) for load in single),
        ):
            results = [sample.result for sample in samples.get((row, load), ())]
            medians = [
                statistics.median(getattr(r, name) for r in results) for name in names if results
            ]
            cells.append(" / ".join(f"{m:.0f}" if m >= 100 else f"{m:.1f}" for m in medians) or "-")
        lines.append(cells)
    return markdown_table(head, lines)


NOTES: Final = """\
CPU time is that of the proxy's process with all its threads, user and system, alone on core 0; load
and upstream share core 1. Each figure is the median of {rounds} interleaved run(s). In brackets:
the ratio to nginx, which relays without translation. 4 KB in and 1 KB out per request, {deltas}
chunks of about 200 bytes per stream; singly: {single} chunks/s over all streams, each in a write of
its own; in bursts: {burst} chunks/s, ten to a write. `*`: the proxy fell behind and chunks were
joined. Requests/s of the first two rows are limited by load and upstream, which share a core."""


def _report(
    rows: Sequence[Row], loads: Sequence[Load], samples: Samples, rounds: int, deltas: int
) -> str:
    notes = NOTES.format(rounds=rounds, deltas=deltas, single=SINGLE_PER_S, burst=BURST_PER_S)
    tables = [cpu_table(rows, loads, samples), speed_table(rows, loads, samples)]
    return "\n\n".join([*tables, notes])


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description="Dragoman beside nginx and a straight connection: CPU time, speed, latency.",
    )
    parser.add_argument("--quick", action="store_true", help="one short round, in about a minute")
    parser.add_argument("--connections", type=int, nargs="+", default=[32, 256], metavar="N")
    parser.add_argument("--rounds", type=int, help="interleaved repetitions (3; with --quick 1)")
    parser.add_argument("--only", help="rows whose title contains this, and nginx")
    parser.add_argument("--write", action="store_true", help="replace benchmarks/RESULTS.md")
    return parser.parse_args()


def main() -> int:
    """Measure and print."""
    args = _parse()
    rounds = args.rounds or (1 if args.quick else 3)
    deltas = 100 if args.quick else 200
    seconds = 0.7 if args.quick else 1.5
    rows = [
        row
        for row in ROWS
        if (row.quick or not args.quick)
        and (not args.only or row.title == REFERENCE or args.only.lower() in row.title.lower())
    ]
    loads = [Load(kind, n) for kind in ("whole", "single", "burst") for n in args.connections]
    samples: Samples = {}
    with tempfile.TemporaryDirectory(prefix="dragoman-bench-") as folder:
        upstream, upstream_port = machine.start_upstream(LOAD_CORE)
        try:
            names = list(dict.fromkeys(row.server for row in rows if row.server))
            models = list(dict.fromkeys(["whole", *(load.model(deltas) for load in loads)]))
            with _running(names, upstream_port, Path(folder), models) as running:
                rows = [row for row in rows if row.server is None or row.server in running]
                for number in range(rounds):
                    for load in loads:
                        print(f"round {number + 1} of {rounds}: {load.title()}", file=sys.stderr)
                        for row in rows:
                            if row.most is not None and load.connections > row.most:
                                continue
                            process, port = running.get(row.server or "", (None, upstream_port))
                            pid = process.pid if process else None
                            taken = sample(port, pid, row, load, deltas, seconds)
                            samples.setdefault((row, load), []).append(taken)
        except machine.StartError as exc:
            print(f"stopped: {exc}", file=sys.stderr)
            return 1
        finally:
            machine.stop(upstream)
    report = _report(rows, loads, samples, rounds, deltas)
    print(report)
    if args.write:
        facts = machine.describe(["uvloop", "uvicorn", "httptools", "litestar", "httpx", "msgspec"])
        lines = [
            "# Results",
            "",
            "![CPU time per request and chunk](results.svg)",
            "",
            f"Made by `python -m benchmarks.run {' '.join(sys.argv[1:])}`.",
            "How to read it: `benchmarks/README.md`.",
            "",
            *(f"- {name}: {value}" for name, value in facts),
            "",
            report,
            "",
        ]
        (machine.ROOT / "benchmarks" / "RESULTS.md").write_text("\n".join(lines))
        (machine.ROOT / "benchmarks" / "results.svg").write_text(_chart(rows, loads, samples))
    return 0


if __name__ == "__main__":
    sys.exit(main())
