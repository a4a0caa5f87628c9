"""A real vLLM with the tiny model, spawned once by ``dragoman serve --vllm``."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.extras import vllm_env
from tests.extras.need import need

CHECKPOINT = Path(__file__).parents[2] / "fixtures" / "tiny-model" / "checkpoint"
FLAGS = (
    *("--served-model-name", "tiny", "--max-model-len", "4096", "--seed", "0"),
    *("--enforce-eager", "--dtype", "bfloat16"),
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
    *("--reasoning-parser", "qwen3"),
)
SUPERVISION = """
[upstreams.default.vllm]
restart_backoff_s = {backoff_s}
restart_wait_s = 300
health_interval_s = 1
engine_stall_timeout_s = 10
engine_answer_timeout_s = 20
"""
KEY = "tiny-key"
"""What the spawned vLLM wants from those who ask it past the proxy."""
START_LIMIT_S = 420
STOP_LIMIT_S = 60


class Served:
    """A running ``dragoman serve``; ``root`` is its address without ``/v1``."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []
        self.root = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                self.lines.append(line)
                if '"dragoman serves"' in line:
                    self.root = json.loads(line)["url"].removesuffix("/v1")

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                if self.root and urllib.request.urlopen(f"{self.root}/ready", timeout=15):
                    return
            except urllib.error.HTTPError as error:
                error.close()
            except OSError:
                pass
            time.sleep(0.5)
        raise AssertionError("vLLM did not get ready:\n" + "".join(self.lines[-60:]))

    def vllm_url(self) -> str:
        """The API root of the vLLM that it spawned."""
        starts = [json.loads(line) for line in self.lines if '"vllm_start"' in line]
        words = starts[-1]["command"].split()
        return f"http://127.0.0.1:{words[words.index('--port') + 1]}/v1"

    def tree(self) -> set[int]:
        """Process ids of the proxy and of all that descend from it."""
        return descendants(self.process.pid) | {self.process.pid}


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found |= {child} | descendants(child)
    return found


def alive(pids: set[int]) -> set[int]:
    """Those that still run; a zombie does not."""
    running = set()
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        if stat.rpartition(")")[2].split()[0] != "Z":
            running.add(pid)
    return running


def serve(*arguments: str) -> Served:
    """Start ``dragoman serve``; it is not ready yet."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    command = [sys.executable, "-m", "proxy", "serve", "--port", "0", "--log-format", "json"]
    command += arguments
    return Served(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment))


def spawn(
    python: Path,
    config: Path,
    *flags: str,
    model: Path = CHECKPOINT,
    backoff_s: float = 0.1,
    workers: int = 1,
) -> Served:
    """Start ``dragoman serve`` with a vLLM; it is not ready yet."""
    config.write_text(SUPERVISION.format(backoff_s=backoff_s))
    ours = ("--config", str(config), "--vllm", str(model), "--vllm-python", str(python))
    return serve(*ours, "--workers", str(workers), "--", *FLAGS, "--api-key", KEY, *flags)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The proxy in front of the vLLM that it spawned; afterwards nothing of it may be left."""
    served = spawn(need(vllm_env.ensure), tmp_path_factory.mktemp("tiny") / "dragoman.toml")
    with stopping(served):
        served.wait_ready()
        assert len(served.tree()) > 2, "the proxy, its vLLM and the engine are their own processes"
        yield served


@contextlib.contextmanager
def stopping(served: Served) -> Iterator[None]:
    """Stop it at the end, when nothing of it may be left."""
    try:
        yield
        tree = served.tree()
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(STOP_LIMIT_S) == 0
        assert alive(tree) == set()
    finally:
        served.process.kill()
        served.process.wait()


@pytest.fixture(scope="session")
def client(tiny: Served) -> Iterator[openai.OpenAI]:
    """The official SDK, pointed at the proxy."""
    with openai.OpenAI(base_url=f"{tiny.root}/v1", api_key="unused", max_retries=0) as sdk:
        yield sdk
