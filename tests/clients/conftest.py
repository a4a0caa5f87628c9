"""The third-party clients; tests that use these fixtures need them."""

from pathlib import Path

import pytest

from tests.extras import clients_env
from tests.extras.need import need


@pytest.fixture(scope="session")
def python_clients() -> Path:
    """The interpreter that has the Python clients; a first run installs them."""
    return need(clients_env.python_clients)


@pytest.fixture(scope="session")
def node_clients() -> Path:
    """The folder whose ``node_modules`` has the Node clients; a first run installs them."""
    return need(clients_env.node_clients)
