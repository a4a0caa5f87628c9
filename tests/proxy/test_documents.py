"""What the documents show has to work."""

import itertools
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from backends.vllm import VllmBackend
from backends.vllm_command import find_launcher, plan_launch
from proxy.loading import load
from proxy.upstreams import build_upstreams
from translators.translation import Translation

ROOT = Path(__file__).parents[2]


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


PAGES = ("docs/configuration.md", "docs/vllm.md", "docs/nemo-gym.md")


@pytest.mark.parametrize("text", [text for page in PAGES for text in blocks(page, "toml")])
def test_settings_shown_are_accepted(text: str, tmp_path: Path) -> None:
    """The first example is a whole file; a later one may leave out what is shown before."""
    names = re.findall(r'"([A-Z_]{3,})"', text)
    path = tmp_path / "dragoman.toml"
    path.write_text(text)
    settings = load(path, {}, dict.fromkeys(names, "secret"))
    assert set(tomllib.loads(text)["upstreams"]) == set(settings.upstreams)


SHOWN = re.findall(
    r"^```toml\n([^`]*)^```\n\n```text\n([^`]*)^```",
    (ROOT / "docs/vllm.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


@pytest.mark.parametrize(("table", "expected"), SHOWN)
def test_a_vllm_is_started_as_shown(
    table: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table's command line, with the variables that it adds before it."""
    monkeypatch.setattr("shutil.which", lambda program: program)
    path = tmp_path / "dragoman.toml"
    path.write_text(table)
    (upstream,) = build_upstreams(load(path, {}))
    backend = upstream.backend
    assert isinstance(backend, VllmBackend)
    launch = plan_launch(
        find_launcher(backend._python),
        model=backend._model,
        args=backend._args,
        env=backend._env,
        port=8123,
    )
    words = shlex.split(expected.replace("PORT", "8123"))
    variables = dict(word.split("=", 1) for word in itertools.takewhile(lambda w: "=" in w, words))
    assert list(launch.command) == words[len(variables) :]
    assert backend._env == variables
    assert launch.env.items() >= variables.items()


def test_the_library_example_runs() -> None:
    """The last Python block of the README, with a stream put through what it makes."""
    names: dict[str, object] = {}
    exec(blocks("README.md", "python")[-1], names)
    assert names["outgoing"] == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hello!"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert isinstance(names["translation"], Translation)
