"""How much later a stream's first byte comes through a proxy that is half busy.

Run ``python -m benchmarks.delay [--quick]``. First the rate of streams is found at which Dragoman,
translating, uses half of its core; then all ways take turns at that rate. What is measured, and why
the load's own delays are not in it, is in ``benchmarks.tap``.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from benchmarks import machine
from benchmarks.load import percentile
from benchmarks.run import PATHS, REFERENCE, ROWS, Row
from benchmarks.servers import Running, running
from benchmarks.tables import Figure, markdown_table
from benchmarks.tap import Delays, Order

HALF: Final = 0.5
"""Of a core."""
FIRST_GUESS_PER_S: Final = 60.0
PERCENTS: Final = (50, 99)

WAYS: Final = tuple(row for row in ROWS if row.quick)
STRAIGHT, *_, TRANSLATING = WAYS


class Results(NamedTuple):
    """What was measured of the ways that could be, round by round."""

    streams_per_s: float
    delays: dict[Row, list[Delays]]

    def delay_ms(self, way: Row, percent: int) -> float:
        """How long a start is on its way, there and back."""
        return percentile([ms for found in self.delays[way] for ms in found.delay], percent)

    def added_ms(self, way: Row, percent: int) -> float:
        """What a way adds to the straight one."""
        return self.delay_ms(way, percent) - self.delay_ms(STRAIGHT, percent)

    def goals(self) -> list[Figure]:
        """What translation adds."""
        nginx = next((way for way in self.delays if way.title == REFERENCE), None)
        return [
            Figure(
                f"{TRANSLATING.title}: first byte at half load, p{percent}",
                self.added_ms(TRANSLATING, percent),
                "ms added",
                at_most=1,
                nginx=self.added_ms(nginx, percent) if nginx else None,
            )
            for percent in PERCENTS
        ]


class _Tap:
    """The process on both sides of the proxies."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.port = int(self._read())

    def measure(self, way: Row, server: Running, streams_per_s: float, seconds: float) -> Delays:
        """Give one order.

        Raises:
            machine.StartError: The replies were wrong.
        """
        order = Order(server.port, PATHS[way.dialect], streams_per_s, seconds, server.pid)
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._read(), type=Delays)

    def _read(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise machine.StartError("wrong replies at half load")
        return line


@contextlib.contextmanager
def _tap() -> Iterator[_Tap]:
    command = [machine.python(), "-m", "benchmarks.tap"]
    process = machine.start(command, core=machine.LOAD_CORE, pipes=True)
    try:
        yield _Tap(process)
    finally:
        machine.stop(process)


def measure(*, quick: bool = False) -> Results:
    """Find the rate of half load, and measure all ways at it.

    Raises:
        machine.StartError: A server did not start, or replies were wrong.
    """
    rounds, seconds = (1, 1.5) if quick else (4, 3.0)
    with _tap() as tap:
        names = list(dict.fromkeys(way.server for way in WAYS if way.server))
        with running(names, tap.port) as servers:
            straight = Running(0, tap.port)
            found = {
                way: servers[way.server] if way.server else straight
                for way in WAYS
                if way.server is None or way.server in servers
            }
            rate = FIRST_GUESS_PER_S
            for _ in range(2):
                rate *= HALF / tap.measure(TRANSLATING, found[TRANSLATING], rate, 1.0).busy
            print(f"half load: {rate:.0f} streams/s", file=sys.stderr)
            delays: dict[Row, list[Delays]] = {way: [] for way in found}
            for _ in range(rounds):
                for way, server in found.items():
                    delays[way].append(tap.measure(way, server, rate, seconds))
    return Results(rate, delays)


NOTES: Final = """\
{rate:.0f} streams of 100 chunks begin per second, at random moments, each asked for with 4 KB;
chunks come singly, every 5 ms. *on the way*: from sending the request to its arrival at the
upstream's socket, and from the upstream's first chunk to its arrival at the caller's socket; what
load and upstream take for themselves is not in it. *added*: that minus the straight way's. *core*:
the share of the time for which the proxy used its core, and for which it waited until another
process left it. Requests were sent {late:.2f} ms late at worst (p99), as load and upstream share a
core."""


def report(results: Results) -> str:
    """The table and how it came about."""
    lines = []
    for way, found in results.delays.items():
        cells = [f"{results.delay_ms(way, percent):.2f}" for percent in PERCENTS]
        if way is STRAIGHT:
            cells += ["-"] * 4
        else:
            cells += [f"{results.added_ms(way, percent):.2f}" for percent in PERCENTS]
            cells.append(f"{statistics.mean(delays.busy for delays in found):.0%}")
            cells.append(f"{statistics.mean(delays.waited for delays in found):.1%}")
        lines.append([way.title, *cells])
    late = max(percentile(d.late, 99) for found in results.delays.values() for d in found)
    head = ["first byte at half load, ms", "on the way, p50", "p99", "added, p50", "p99"]
    head += ["core used", "waited for"]
    notes = NOTES.format(rate=results.streams_per_s, late=late)
    return f"{markdown_table(head, lines)}\n\n{notes}"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.delay")
    parser.add_argument("--quick", action="store_true", help="one short round")
    quick = parser.parse_args().quick
    return machine.show(lambda: report(measure(quick=quick)))


if __name__ == "__main__":
    sys.exit(main())
