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

import hashlib
import re
import shutil
import sys
from pathlib import Path
from typing import Final

from tests.extras.cache import Unavailable, kept, run, say

_HERE: Final = Path(__file__).parent
REQUIREMENTS: Final = _HERE / "clients-requirements.txt"
PACKAGES: Final = (_HERE / "npm" / "package.json", _HERE / "npm" / "package-lock.json")

CHECK_PYTHON: Final = "import agents, langchain_openai, pydantic_ai.models.openai"
CHECK_NODE: Final = "await Promise.all(['ai', '@ai-sdk/openai', 'zod'].map((m) => import(m)))"
"""The last steps: what the programs import."""

OLDEST_NODE: Final = 20
"""What the AI SDK's version 6 line needs."""


def python_clients() -> Path:
    """The interpreter of an environment with openai-agents, LangChain and pydantic-ai.

    The first call takes about half a minute and 250 MB; a later one returns at once. Of two
    concurrent calls, in any processes, one installs and the other waits for it.

    Raises:
        Unavailable: It cannot be installed here.
    """
    major, minor = sys.version_info[:2]
    name = f"clients-python-cp{major}{minor}-{_digest(REQUIREMENTS)}"
    return kept(name, _install_python) / "bin" / "python"


def node_clients() -> Path:
    """The folder whose ``node_modules`` has the AI SDK and Codex.

    As ``python_clients`` otherwise; 400 MB, nearly all of it Codex's binary.

    Raises:
        Unavailable: It cannot be installed here; Node is missing, say.
    """
    return kept(f"clients-node-{_digest(*PACKAGES)}", _install_node)


def codex(node: Path) -> Path:
    """The ``codex`` command of a folder that ``node_clients`` gave."""
    return node / "node_modules" / ".bin" / "codex"


def _digest(*files: Path) -> str:
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _install_python(folder: Path) -> None:
    run("virtual environment", [sys.executable, "-m", "venv", str(folder)], folder)
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run("pip install", [*pip, "--require-hashes", "--requirement", str(REQUIREMENTS)], folder)
    run("import check", [python, "-c", CHECK_PYTHON], folder)


def _install_node(folder: Path) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise Unavailable(f"the Node clients need {'npm' if node else 'Node'} on the PATH")
    version = run("node", [node, "--version"], folder).strip()
    found = re.match(r"v(\d+)", version)
    if found is None or int(found[1]) < OLDEST_NODE:
        raise Unavailable(
            f"the Node clients need Node {OLDEST_NODE} or later, and this is {version}"
        )
    for file in PACKAGES:
        shutil.copy(file, folder)
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
    run("npm ci", [npm, "ci", *quiet], folder)
    run("import check", [node, "--input-type=module", "--eval", CHECK_NODE], folder)
    # Its binary is an optional dependency, which npm leaves out without a word where it has none.
    run("codex check", [str(codex(folder)), "--version"], folder)


def main() -> int:
    """Print the paths; 1 if one of the two is missing, which standard error explains."""
    status = 0
    for ensure in (python_clients, node_clients):
        try:
            sys.stdout.write(f"{ensure()}\n")
        except Unavailable as exc:
            say(f"unavailable: {exc}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
