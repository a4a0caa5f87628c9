"""Processes for measurements: pinned, waited for, their CPU time read, their versions named."""

import contextlib
import datetime
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import IO, Final

ROOT: Final = Path(__file__).resolve().parent.parent

PROXY_CORE: Final = 0
LOAD_CORE: Final = 1
"""Load and upstream share a core; the proxy has the other one for itself."""

_CPUCLOCK_SCHED: Final = 2  # as in clock_getcpuclockid(3)


class StartError(Exception):
    """A process did not become usable."""


def cpu_ns(pid: int) -> int:
    """User and system time of a process and its living descendants, in nanoseconds.

    All threads count, ended ones too. The kernel's CPU-time clock of a process is used, which has
    the sum of ``/proc/PID/stat``'s ``utime`` and ``stime`` without rounding it to 10 ms.
    """
    total = time.clock_gettime_ns((~pid << 3) | _CPUCLOCK_SCHED)
    for child in children(pid):
        with contextlib.suppress(OSError):  # it just ended
            total += cpu_ns(child)
    return total


def children(pid: int) -> list[int]:
    """Process ids of a process's living children."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """We and processes started inside run on this core only; one that is not there is ignored."""
    before = os.sched_getaffinity(0)
    if core is not None:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def start(
    command: Sequence[str],
    *,
    core: int | None,
    log: IO[bytes] | int | None = None,
    pipes: bool = False,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process on a core, in a process group of its own.

    Args:
        command: Program and arguments; it runs in the repository's root.
        core: The core it may use; ``None``: ours.
        log: Where its output goes; with ``pipes`` its standard error only.
        pipes: Standard input and output are pipes.
        environment: Its environment, ours if absent.
    """
    with pinned(core):
        return subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def show(report: Callable[[], str]) -> int:
    """Print a report, or why it cannot be made; the exit status of a command that does this."""
    try:
        print(report())
    except StartError as exc:
        print(f"stopped: {exc}", file=sys.stderr)
        return 1
    return 0


def start_upstream(core: int = LOAD_CORE) -> tuple[subprocess.Popen[bytes], int]:
    """Start the benchmark's upstream; the process and its port."""
    process = start([python(), "-m", "benchmarks.upstream"], core=core, pipes=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise StartError("the upstream did not start")
    return process, int(line)


def wait_ready(process: subprocess.Popen[bytes], url: str, log: Path, timeout_s: float) -> None:
    """Wait until a URL answers with 200.

    Raises:
        StartError: The process ended or was too slow; the message has the end of its output.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError), opener.open(url, timeout=1):
            return
        time.sleep(0.05)
    lines = log.read_text(errors="replace").strip().splitlines()[-3:] or ["without a word"]
    what = "is not ready" if process.poll() is None else f"exited with {process.returncode}"
    raise StartError(f"{what}: {' / '.join(lines)}")


def listeners(port: int) -> int:
    """How many sockets listen on a port of IPv4."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def python() -> str:
    """The interpreter that runs this benchmark."""
    return sys.executable


def find_nginx() -> str | None:
    """Nginx's program, if it is installed."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return (done.stdout + done.stderr).strip()


def describe(packages: Sequence[str]) -> list[tuple[str, str]]:
    """Machine, date and versions, for the head of a report."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    facts = [
        ("date", datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("machine", f"{len(models)} cores, {models[0] if models else platform.machine()}"),
        ("system", f"Linux {platform.release()}, load {os.getloadavg()[0]:.1f} at the end"),
        ("Python", platform.python_version()),
    ]
    if commit := _output("git", "describe", "--always", "--dirty"):
        facts.append(("commit", commit))
    if nginx := find_nginx():
        facts.append(("nginx", _output(nginx, "-v").rpartition("/")[2]))
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            facts.append((package, metadata.version(package)))
    return facts
