"""What a test needs and may not be there: skipped with the reason, but a failure in CI."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.extras.cache import Unavailable


def need(ensure: Callable[[], Path]) -> Path:
    """Where an extra is installed; without it the test is skipped, or fails if ``CI`` is set."""
    try:
        return ensure()
    except Unavailable as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI needs this extra: {error}")
        pytest.skip(str(error))
