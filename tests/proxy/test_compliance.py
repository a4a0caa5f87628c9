"""The compliance cases with the demo behind the proxy."""

import pytest

from backends.demo import DemoBackend
from proxy.routing import Upstream
from proxy.settings import Settings
from tests.compliance import Ask, Compliance
from tests.proxy.caller import Answer
from tests.proxy.caller import ask as ask_proxy
from tests.proxy.conftest import RunProxy
from translators.profiles import PROFILES
from translators.wire import JSON


class TestDemo(Compliance):
    """The demo answers every case."""

    @pytest.fixture
    async def ask(self, running_proxy: RunProxy) -> Ask:
        """Asks a proxy in front of the demo."""
        upstream = Upstream(DemoBackend(pause_s=0), PROFILES["vllm"], "chat")
        proxy = await running_proxy(Settings(), [upstream])

        async def send(path: str, body: JSON) -> Answer:
            return await ask_proxy(proxy.port, path, body)

        return send
