"""What all tests share."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let golden files be rewritten."""
    parser.addoption(
        "--update-goldens", action="store_true", help="rewrite golden files; review the diff"
    )
