"""Install everything that tests need beyond the lock file; say what cannot be had, and why.

It always succeeds: the tests that need a missing piece fail, and say why it is missing.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from tests.extras import clients_env, vllm_env
from tests.extras.cache import Unavailable

EXTRAS: dict[str, Callable[[], Path]] = {
    "real vLLM": vllm_env.ensure,
    "Python clients": clients_env.python_clients,
    "Node clients": clients_env.node_clients,
}


def main() -> None:
    """Install them all."""
    for name, ensure in EXTRAS.items():
        try:
            ensure()
        except Unavailable as error:
            sys.stderr.write(f"{name}: not installed, so its tests cannot run: {error}\n")


if __name__ == "__main__":
    main()
