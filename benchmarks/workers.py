"""What a second worker costs: CPU time per request beside one worker, of the whole process tree.

Run ``python -m benchmarks.workers [--rounds N] [--connections N]``. On a machine whose cores load
and upstream need too, requests per second cannot tell how two workers on two free cores would do.
What can be told is what each request costs then, and whether workers that share a core get in each
other's way; see ``README.md``.
"""

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import machine
from benchmarks.run import Load, Row, sample
from benchmarks.tables import Figure, markdown_table

SECONDS: Final = 1.0
AMPLE: Final = 1000
SCARCE: Final = 24
"""Limits of open requests that are never reached, and always."""

ROW: Final = Row("Dragoman, Responses over Chat", "dragoman-chat", "responses")


class Setting(NamedTuple):
    """Workers, and what they run on."""

    title: str
    workers: int
    has_two_cores: bool = False
    """Whether each worker has its core, of which one is that of load and upstream too."""
    limit: int | None = None


SETTINGS: Final = tuple(
    Setting(title + ("" if limit is None else f", max_concurrent {limit}"), workers, cores, limit)
    for limit in (None, AMPLE, SCARCE)
    for title, workers, cores in (
        ("1 worker, core 0", 1, False),
        ("2 workers, both on core 0", 2, False),
        ("2 workers, cores 0 and 1", 2, True),
    )
)
UNLIMITED: Final = tuple(setting for setting in SETTINGS if setting.limit is None)


class Sample(NamedTuple):
    """One run."""

    cpu_us: float
    """Of all processes, per request."""
    per_s: float
    busiest: float
    """The part of the workers' CPU time that the busiest one had."""


@contextlib.contextmanager
def running(setting: Setting, upstream_port: int, folder: Path) -> Iterator[tuple[int, int]]:
    """Dragoman; its process id and port."""
    port = machine.free_port()
    folder.mkdir()
    config = folder / "dragoman.toml"
    limit = "" if setting.limit is None else f"max_concurrent = {setting.limit}\n"
    config.write_text(
        f"[server]\nport = {port}\nworkers = {setting.workers}\n[upstreams.default]\n"
        f'url = "http://127.0.0.1:{upstream_port}/v1"\nspeaks = "chat"\n{limit}'
    )
    command = [machine.python(), "-m", "proxy", "serve", "--config", str(config)]
    log = folder / "log"
    with log.open("wb") as file:
        process = machine.start(command, core=machine.PROXY_CORE, log=file)
    try:
        machine.wait_ready(process, f"http://127.0.0.1:{port}/ready", log, 20)
        while machine.listeners(port) < setting.workers:
            time.sleep(0.05)
        if setting.has_two_cores:
            for worker, core in zip(machine.children(process.pid), (0, 1), strict=True):
                os.sched_setaffinity(worker, {core})
        yield process.pid, port
    finally:
        machine.stop(process)


def _take(pid: int, port: int, connections: int) -> Sample:
    workers = machine.children(pid) or [pid]
    before = [machine.cpu_ns(worker) for worker in workers]
    taken = sample(port, pid, ROW, Load("request, 4 KB in", connections, "whole"), SECONDS)
    used = [machine.cpu_ns(worker) - b for worker, b in zip(workers, before, strict=True)]
    assert taken.cpu_us is not None
    return Sample(taken.cpu_us, taken.result.per_s, max(used) / sum(used))


class Results(NamedTuple):
    """All runs of each setting."""

    samples: Mapping[Setting, Sequence[Sample]]

    def best(self) -> dict[Setting, Sample]:
        """The least CPU time and the most requests per second."""
        return {
            setting: Sample(
                min(run.cpu_us for run in runs),
                max(run.per_s for run in runs),
                statistics.median(run.busiest for run in runs),
            )
            for setting, runs in self.samples.items()
        }

    def times_one(self, setting: Setting) -> float:
        """How many times the requests of one worker, with a core for each and by CPU time."""
        best = self.best()
        return setting.workers * best[_alone(setting)].cpu_us / best[setting].cpu_us

    def goals(self) -> list[Figure]:
        """What two workers without a limit do."""
        return [
            Figure(
                "two workers on two cores, by CPU", self.times_one(setting), "times one", None, 1.8
            )
            for setting in self.samples
            if setting.has_two_cores and setting.limit is None
        ]


def _alone(setting: Setting) -> Setting:
    """One worker with the same limit."""
    return next(s for s in SETTINGS if s.workers == 1 and s.limit == setting.limit)


def measure(settings: Sequence[Setting], *, rounds: int = 10, connections: int = 64) -> Results:
    """Measure settings in turns.

    Raises:
        machine.StartError: A server did not start, or replies were wrong.
    """
    samples: dict[Setting, list[Sample]] = {setting: [] for setting in settings}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dragoman-bench-")))
        upstream, upstream_port = machine.start_upstream()
        stack.callback(machine.stop, upstream)
        servers = [
            stack.enter_context(running(setting, upstream_port, folder / str(number)))
            for number, setting in enumerate(settings)
        ]
        for _ in range(rounds):
            for setting, (pid, port) in zip(settings, servers, strict=True):
                samples[setting].append(_take(pid, port, connections))
    return Results(samples)


def report(results: Results) -> str:
    """The best runs as a table; each setting's ratios are to one worker with the same limit."""
    best = results.best()
    lines = []
    for setting, found in best.items():
        base = best[_alone(setting)]
        lines.append(
            [
                setting.title,
                f"{found.cpu_us:.0f}",
                f"{found.per_s:.0f} ({found.per_s / base.per_s:.2f})",
                f"{found.busiest:.0%}",
                f"{results.times_one(setting):.2f}" if setting.workers > 1 else "1",
            ]
        )
    head = ["", "CPU us per request", "requests/s", "busiest worker", "times one, by CPU"]
    return markdown_table(head, lines)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--connections", type=int, default=64)
    args = parser.parse_args()
    return machine.show(
        lambda: report(measure(SETTINGS, rounds=args.rounds, connections=args.connections))
    )


if __name__ == "__main__":
    sys.exit(main())
