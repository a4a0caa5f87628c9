"""The state of a spawned vLLM, as ``/ready`` and ``dragoman check`` show it."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy import cli
from proxy.settings import VLLM, Settings, Upstream
from tests.backends.managed_vllm import install_fake
from tests.backends.processes import Family, a_family
from tests.proxy.caller import ask
from tests.proxy.conftest import RunProxy

pytestmark = pytest.mark.server


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Family]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with a_family() as family:
        yield family


def spawning(family: Family, tmp_path: Path, **more: Any) -> Settings:
    mark = {"FAMILY_MARK": family.env["FAMILY_MARK"]}
    env = {**mark, **install_fake(tmp_path), **more.pop("env", {})}
    return Settings(
        upstreams={"local": Upstream(vllm=VLLM("m", python=sys.executable, env=env, **more))}
    )


async def in_state(port: int, state: str) -> Any:
    """What ``/ready`` says once vLLM is in a state, and its status."""
    async with asyncio.timeout(10):
        while True:
            answer = await ask(port, "/ready", method="GET")
            if answer.json["vllm"]["local"]["state"] == state:
                return answer.json, answer.status
            await asyncio.sleep(0.02)


async def check(port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit status of ``dragoman check`` beside the proxy, and its line on the upstream."""
    config = tmp_path / "dragoman.toml"
    config.write_text(f'[server]\nport = {port}\n[upstreams.local.vllm]\nmodel = "m"\n')
    status = await asyncio.to_thread(cli.main, ["check", "--config", str(config)])
    out = capsys.readouterr().out
    return status, next(line for line in out.splitlines() if line.startswith("local: "))


async def test_ready_with_model_and_version(
    family: Family, tmp_path: Path, running_proxy: RunProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy = await running_proxy(spawning(family, tmp_path))
    body, status = await in_state(proxy.port, "ready")
    assert status == 200
    assert body == {
        "status": "ready",
        "upstreams": {"local": "ready"},
        "vllm": {"local": {"state": "ready", "message": "", "model": "m", "version": "0.0.0"}},
    }
    assert await check(proxy.port, tmp_path, capsys) == (
        0,
        "local: ready in the running proxy: vLLM 0.0.0 with m",
    )


@pytest.mark.parametrize(
    ("env", "state", "words"),
    [
        ({"FAKE_HANG": "1"}, "starting", "local: vLLM is still starting (importing, "),
        ({"FAKE_EXIT": "4"}, "failed", "local: vLLM exited with status 4 before it was ready; its"),
    ],
)
async def test_not_ready(
    env: dict[str, str],
    state: str,
    words: str,
    family: Family,
    tmp_path: Path,
    running_proxy: RunProxy,
    capsys: pytest.CaptureFixture[str],
) -> None:
    proxy = await running_proxy(spawning(family, tmp_path, env=env))
    body, status = await in_state(proxy.port, state)
    assert status == 503
    assert body["vllm"]["local"]["message"].startswith(words)
    status, line = await check(proxy.port, tmp_path, capsys)
    assert (status, line.startswith(f"local: {state} in the running proxy: {words}")) == (1, True)


async def test_unhealthy(
    family: Family, tmp_path: Path, running_proxy: RunProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    sick = tmp_path / "sick"
    env = {"FAKE_SICK_IF": str(sick)}
    more = {"env": env, "health_interval_s": 0.02, "restart": False}
    proxy = await running_proxy(spawning(family, tmp_path, **more))
    await in_state(proxy.port, "ready")
    sick.touch()
    await in_state(proxy.port, "unhealthy")  # which it may become while it is being asked
    body, status = await in_state(proxy.port, "unhealthy")
    assert status == 503
    reason = "local: vLLM is unhealthy: it failed 3 health checks in a row"
    assert body["vllm"]["local"]["message"].startswith(reason)
    status, line = await check(proxy.port, tmp_path, capsys)
    assert status == 1
    assert line.startswith(f"local: unhealthy in the running proxy: {reason}")
