"""The third-party clients that ``tests/clients`` drives, installed once into the user's cache.

``python -m tests.extras.clients_env`` prints where they are, one line for each language:
the interpreter of a virtual environment, and the folder that has ``node_modules``. Progress goes
to standard error. They are apart from the proxy's own environment so that their pins do not
govern ours.

What is installed is written down, with hashes, beside this file: ``clients-requirements.txt``
(compiled from ``clients-requirements.in``, which has the command) and ``npm/package-lock.json``
(``npm install --package-lock-only --omit-lockfile-registry-resolved=true`` in that folder, then
without its ``funding`` members). A folder's name has a digest of these files: a changed lock is
another folder. Where packages come from is the business of pip's and npm's own configuration.
"""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tests.extras.vllm_env import Unavailable, cache_root

_HERE: Final = Path(__file__).parent
REQUIREMENTS: Final = _HERE / "clients-requirements.txt"
PACKAGES: Final = (_HERE / "npm" / "package.json", _HERE / "npm" / "package-lock.json")

CHECK_PYTHON: Final = "import agents, langchain_openai, pydantic_ai.models.openai"
CHECK_NODE: Final = "await Promise.all(['ai', '@ai-sdk/openai', 'zod'].map((m) => import(m)))"
"""The last steps: what the programs import."""

OLDEST_NODE: Final = 20
"""What the AI SDK's version 6 line needs."""

_MARKER: Final = "finished"
_TAIL_LINES: Final = 15
_STEP_LIMIT_S: Final = 900


def python_clients() -> Path:
    """The interpreter of an environment with openai-agents, LangChain and pydantic-ai.

    The first call takes about half a minute and 250 MB; a later one returns at once. Of two
    concurrent calls, in any processes, one installs and the other waits for it.

    Raises:
        Unavailable: It cannot be installed here.
    """
    major, minor = sys.version_info[:2]
    name = f"clients-python-cp{major}{minor}-{_digest(REQUIREMENTS)}"
    return _kept(name, _install_python) / "bin" / "python"


def node_clients() -> Path:
    """The folder whose ``node_modules`` has the AI SDK and Codex.

    As ``python_clients`` otherwise; 400 MB, nearly all of it Codex's binary.

    Raises:
        Unavailable: It cannot be installed here; Node is missing, say.
    """
    return _kept(f"clients-node-{_digest(*PACKAGES)}", _install_node)


def codex(node: Path) -> Path:
    """The ``codex`` command of a folder that ``node_clients`` gave."""
    return node / "node_modules" / ".bin" / "codex"


def _digest(*files: Path) -> str:
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _kept(name: str, install: Callable[[Path], None]) -> Path:
    """The folder of that name in the cache, made by ``install`` if it is not there.

    It is made at its final place, since virtual environments cannot be moved, and counts as
    finished once the marker file, which is written last, is there.
    """
    folder = cache_root() / name
    if (folder / _MARKER).is_file():
        return folder
    if sys.platform == "win32":
        raise Unavailable("the test clients are installed on POSIX systems only")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f"{name}.lock")):
            if (folder / _MARKER).is_file():  # another process made it while we waited
                return folder
            shutil.rmtree(folder, ignore_errors=True)  # left by a run that was cut short
            started = time.monotonic()
            _say(f"installing into {folder}")
            try:
                folder.mkdir()
                install(folder)
            except Unavailable:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            (folder / _MARKER).touch()
            _say(f"finished in {time.monotonic() - started:.0f} s")
    except OSError as exc:
        raise Unavailable(f"the cache folder {folder.parent} cannot be used: {exc}") from exc
    return folder


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file; the kernel frees it if the process dies."""
    import fcntl  # not on Windows, which ``_kept`` has refused already

    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another process is installing it, waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _install_python(folder: Path) -> None:
    _run("virtual environment", [sys.executable, "-m", "venv", str(folder)], folder)
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    _run("pip install", [*pip, "--require-hashes", "--requirement", str(REQUIREMENTS)], folder)
    _run("import check", [python, "-c", CHECK_PYTHON], folder)


def _install_node(folder: Path) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise Unavailable(f"the Node clients need {'npm' if node else 'Node'} on the PATH")
    version = _run("node", [node, "--version"], folder).strip()
    found = re.match(r"v(\d+)", version)
    if found is None or int(found[1]) < OLDEST_NODE:
        raise Unavailable(
            f"the Node clients need Node {OLDEST_NODE} or later, and this is {version}"
        )
    for file in PACKAGES:
        shutil.copy(file, folder)
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
    _run("npm ci", [npm, "ci", *quiet], folder)
    _run("import check", [node, "--input-type=module", "--eval", CHECK_NODE], folder)
    # Its binary is an optional dependency, which npm leaves out without a word where it has none.
    _run("codex check", [str(codex(folder)), "--version"], folder)


def _run(step: str, command: list[str], cwd: Path) -> str:
    """Run one step to its end; what it wrote.

    Raises:
        Unavailable: Its exit status is not 0, or it takes too long. The message has the first
            line that speaks of an error; standard error gets the last lines.
    """
    _say(step)
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
            _say(line)
        telling = (line.strip() for line in lines if "error" in line.lower())
        why = next(telling, lines[-1] if lines else "it wrote nothing")
        raise Unavailable(f"{step} failed with exit status {done.returncode}: {why}")
    return done.stdout


def _say(line: str) -> None:
    sys.stderr.write(f"clients_env: {line}\n")
    sys.stderr.flush()


def main() -> int:
    """Print the paths; 1 if one of the two is missing, which standard error explains."""
    status = 0
    for ensure in (python_clients, node_clients):
        try:
            sys.stdout.write(f"{ensure()}\n")
        except Unavailable as exc:
            _say(f"unavailable: {exc}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
