"""What a test needs and installs for itself; without it the test fails, and says why."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.extras.cache import Unavailable


def need(ensure: Callable[[], Path]) -> Path:
    """Where an extra is installed; where it cannot be, the test fails with the reason."""
    try:
        return ensure()
    except Unavailable as error:
        pytest.fail(f"the tests below tests/vllm and tests/clients need this: {error}")
