"""What tests need beyond the lock file, installed once into the user's cache folder."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

_MARKER: Final = "finished"
_TAIL_LINES: Final = 15
_STEP_LIMIT_S: Final = 1800


class Unavailable(Exception):
    """Something cannot be installed here; the message says why in one sentence."""


def cache_root() -> Path:
    """The folder for what may be made again.

    ``$DRAGOMAN_CACHE``, else ``$XDG_CACHE_HOME/dragoman``, else ``~/.cache/dragoman``.
    An empty variable counts as absent.
    """
    if own := os.environ.get("DRAGOMAN_CACHE"):
        return Path(own).expanduser().absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser().absolute() / "dragoman"
    return Path.home() / ".cache" / "dragoman"


def kept(name: str, install: Callable[[Path], None]) -> Path:
    """The folder of that name in the cache, made by ``install`` if it is not there.

    Of two concurrent calls, in any processes, one installs and the other waits for it. It is
    made at its final place, since virtual environments cannot be moved, and counts as finished
    once the marker file, which is written last, is there.

    Raises:
        Unavailable: It cannot be installed here.
    """
    folder = cache_root() / name
    if (folder / _MARKER).is_file():
        return folder
    if sys.platform == "win32":
        raise Unavailable("it is installed on POSIX systems only")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f"{name}.lock")):
            if (folder / _MARKER).is_file():  # another process made it while we waited
                return folder
            shutil.rmtree(folder, ignore_errors=True)  # left by a run that was cut short
            started = time.monotonic()
            say(f"installing into {folder}")
            try:
                folder.mkdir()
                install(folder)
            except Unavailable:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            (folder / _MARKER).touch()
            say(f"finished in {time.monotonic() - started:.0f} s")
    except OSError as exc:
        raise Unavailable(f"the cache folder {folder.parent} cannot be used: {exc}") from exc
    return folder


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file; the kernel frees it if the process dies."""
    import fcntl  # not on Windows, which ``kept`` has refused already

    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is installing it, waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(step: str, command: list[str], cwd: Path) -> str:
    """Run one step to its end; what it wrote.

    Raises:
        Unavailable: Its exit status is not 0, or it takes too long. The message has the first
            line that speaks of an error; standard error gets the last lines.
    """
    say(step)
    # The caller's import path must not reach into the environment that is being made.
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=_STEP_LIMIT_S,
        )
    except subprocess.TimeoutExpired as exc:
        raise Unavailable(f"{step}: not finished after {_STEP_LIMIT_S} s") from exc
    if done.returncode != 0:
        lines = done.stdout.splitlines()
        for line in lines[-_TAIL_LINES:]:
            say(line)
        telling = (line.strip() for line in lines if "error" in line.lower())
        why = next(telling, lines[-1] if lines else "it wrote nothing")
        raise Unavailable(f"{step} failed with exit status {done.returncode}: {why}")
    return done.stdout


def say(line: str) -> None:
    """Show progress on standard error."""
    sys.stderr.write(f"extras: {line}\n")
    sys.stderr.flush()
