"""Presets: rows of data that an upstream's own settings win over."""

import re
from pathlib import Path

import msgspec
import pytest

from proxy.cli import main
from proxy.loading import load
from proxy.options import OPTIONS
from proxy.presets import PRESETS
from proxy.settings import Upstream, key_of
from proxy.tables import SettingsError
from translators.profiles import PROFILES
from translators.wire import JSON

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


def upstream(environment: dict[str, str] | None = None, **table: JSON) -> Upstream:
    """An upstream as it is after loading."""
    overrides = {"upstreams.a": table, "server.port": 9000}  # llama.cpp has our own port
    return load(None, overrides, environment or {}).upstreams["a"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_all_that_is_needed(name: str) -> None:
    preset = PRESETS[name]
    environment = {} if preset.key_env is None else {preset.key_env: "sk-1"}
    found = upstream(environment, preset=name)
    assert (found.url, found.speaks, found.profile) == (preset.url, preset.speaks, preset.profile)
    assert key_of(found, environment) == (None if preset.key_env is None else "sk-1")
    assert preset.profile in PROFILES


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_documented(name: str) -> None:
    """With what it stands for."""
    (row,) = re.findall(rf"^\| `{name}` \|.*$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    preset = PRESETS[name]
    cells = [cell.strip(" `") for cell in row.strip("| ").split("|")]
    assert cells == [name, preset.url, preset.key_env or "", preset.profile, preset.speaks]


def test_what_is_said_besides_wins() -> None:
    said = {
        "url": "http://mirror/v1",
        "key_env": "OTHER",
        "profile": "vllm",
        "speaks": "responses",
        "overrides": {"files": True},
    }
    environment = {"GROQ_API_KEY": "sk-1", "OTHER": "sk-2"}
    found = upstream(environment, preset="groq", **said)
    assert {name: getattr(found, name) for name in said} == said


def test_a_key_of_its_own_wins_over_the_variable() -> None:
    found = upstream({"GROQ_API_KEY": "sk-1"}, preset="groq", key="sk-2")
    assert key_of(found, {"GROQ_API_KEY": "sk-1"}) == "sk-2"


def test_without_the_variable_the_callers_key_passes() -> None:
    assert key_of(upstream(preset="groq"), {}) is None


def test_a_preset_for_replicas() -> None:
    """Then it says how they are spoken to."""
    found = upstream(preset="sglang", urls=["http://x/v1", "http://y/v1"])
    assert (found.url, found.profile) == (None, "sglang")


@pytest.mark.parametrize("preset", ["nobody", 5])
def test_a_preset_that_is_unknown(preset: JSON) -> None:
    with pytest.raises(SettingsError, match=r"upstreams\.a\.preset"):
        upstream(preset=preset)


@pytest.fixture
def effective(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> object:
    for variable in ["DRAGOMAN_CONFIG", "OPENAI_BASE_URL", *(o.variable for o in OPTIONS)]:
        monkeypatch.delenv(variable, raising=False)

    def check(*arguments: str) -> JSON:
        main(["check", *arguments])
        out = capsys.readouterr().out
        return msgspec.json.decode(out[: out.rindex("\n}") + 2])["upstreams"]["default"]

    return check


def test_a_preset_by_flag(effective: JSON, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the place of a file's upstream, and of ``OPENAI_BASE_URL``."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    preset = PRESETS["lmstudio"]
    assert effective("--preset", "lmstudio")["url"] == preset.url
    mirror = effective("--preset", "lmstudio", "--upstream", "http://127.0.0.1:1/v1")
    assert (mirror["url"], mirror["profile"]) == ("http://127.0.0.1:1/v1", preset.profile)
    path = tmp_path / "dragoman.toml"
    path.write_text('[upstreams.default]\nurl = "http://127.0.0.1:1/v1"\n')
    assert effective("--config", str(path), "--preset", "lmstudio")["url"] == preset.url
