"""LiteLLM's proxy, installed once into the user's cache, in an environment of its own."""

import sys
from pathlib import Path
from typing import Final

from tests.extras.cache import Unavailable, kept, run, say

VERSION: Final = "1.80.0"

_CONFIG: Final = """\
model_list:
  - model_name: "*"
    litellm_params:
      model: "hosted_vllm/*"
      api_base: "http://127.0.0.1:{upstream_port}/v1"
      api_key: "benchmark"
litellm_settings:
  telemetry: false
"""
"""Any model, sent as it is called to our upstream in Chat."""


def litellm() -> Path | None:
    """The ``litellm`` command, ``None`` if it cannot be installed here.

    The first call takes about a minute and 600 MB; a later one returns at once.
    """
    major, minor = sys.version_info[:2]
    try:
        folder = kept(f"litellm-{VERSION}-cp{major}{minor}", _install)
    except Unavailable as exc:
        say(f"unavailable: {exc}")
        return None
    return folder / "bin" / "litellm"


def write_config(folder: Path, upstream_port: int) -> Path:
    """The proxy's configuration file."""
    path = folder / "litellm.yaml"
    path.write_text(_CONFIG.format(upstream_port=upstream_port))
    return path


def _install(folder: Path) -> None:
    run("virtual environment", [sys.executable, "-m", "venv", str(folder)], folder)
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run("pip install", [*pip, f"litellm[proxy]=={VERSION}"], folder)
    run("import check", [python, "-c", "import litellm.proxy.proxy_server"], folder)
