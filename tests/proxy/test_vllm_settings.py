"""The ``[upstreams.X.vllm]`` table: what it accepts, shows, and makes of it."""

from pathlib import Path

import pytest

from backends.vllm import VllmBackend
from proxy.loading import load
from proxy.settings import public
from proxy.tables import SettingsError
from proxy.upstreams import build_upstreams

TABLE = """
[upstreams.local.vllm]
model = "m"
hf_home = "~/models"
log_file = "~/vllm.log"
engine_stall_timeout_s = 60
health_failures = 2
restart = false
restart_wait_s = 20
args = ["--seed", "1"]

[upstreams.local.vllm.flags]
tensor_parallel_size = 4
enable_auto_tool_choice = true
limit_mm_per_prompt = { image = 4 }
api_key = "k3y"
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "dragoman.toml"
    path.write_text(text)
    return path


def test_the_table_reaches_the_backend(tmp_path: Path) -> None:
    settings = load(written(tmp_path, TABLE), {})
    (upstream,) = build_upstreams(settings)
    backend = upstream.backend
    assert isinstance(backend, VllmBackend)
    assert backend._args == (
        *("--tensor-parallel-size", "4", "--enable-auto-tool-choice"),
        *("--limit-mm-per-prompt", '{"image":4}', "--api-key", "k3y"),
        *("--seed", "1"),
    )
    assert backend._log_file == Path.home() / "vllm.log"
    assert backend._env == {"HF_HOME": str(Path.home() / "models")}
    assert (backend._rules.wait_s, backend._rules.stall_s) == (20, 60)
    assert backend._rules.health_failures == 2
    assert not backend._rules.restart


def test_flags_may_stand_beside_the_settings(tmp_path: Path) -> None:
    text = """
        [upstreams.x.vllm]
        model = "m"
        tensor_parallel_size = 4
        model_impl = "transformers"
        hf-token = "hf_1"
        limit_mm_per_prompt.image = 4
        flags = { seed = 1 }
    """
    settings = load(written(tmp_path, text), {})
    vllm = settings.upstreams["x"].vllm
    assert vllm is not None
    assert vllm.flags == {
        "tensor_parallel_size": 4,
        "model_impl": "transformers",
        "hf-token": "hf_1",
        "limit_mm_per_prompt": {"image": 4},
        "seed": 1,
    }
    assert public(settings)["upstreams"]["x"]["vllm"]["flags"]["hf-token"] == "***"


def test_a_secret_flag_is_not_shown(tmp_path: Path) -> None:
    shown = public(load(written(tmp_path, TABLE), {}))
    flags = shown["upstreams"]["local"]["vllm"]["flags"]
    assert flags["api_key"] == "***"
    assert flags["tensor_parallel_size"] == 4


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("health_failures = 0", "upstreams.x.vllm.health_failures"),
        ("restart_backoff_s = 0", "upstreams.x.vllm.restart_backoff_s"),
        ("restart_wait_s = -1", "upstreams.x.vllm.restart_wait_s"),
        ("engine_stall_timeout_s = -1", "upstreams.x.vllm.engine_stall_timeout_s"),
        ("restart_wait = 1", "upstreams.x.vllm.restart_wait: unknown setting; did you mean"),
        ("seed = 1\nflags = { seed = 1 }", r"toml:3: upstreams.x.vllm.seed: it is in .* too"),
        ("uds = '/x'", "upstreams.x.vllm: vLLM argument --uds cannot be used here"),
        ("flags = { uds = '/x' }", "upstreams.x.vllm: vLLM argument --uds cannot be used here"),
    ],
)
def test_wrong_values_are_refused(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        build_upstreams(load(written(tmp_path, f"[upstreams.x.vllm]\nmodel = 'm'\n{line}\n"), {}))
