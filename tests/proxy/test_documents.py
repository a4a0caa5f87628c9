"""What the documents show has to work."""

import re
import tomllib
from pathlib import Path

import pytest

from proxy.loading import load
from translators.translation import Translation

ROOT = Path(__file__).parents[2]


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(blocks("docs/configuration.md", "toml"))))
def test_settings_shown_are_accepted(number: int, tmp_path: Path) -> None:
    """The first example is a whole file; a later one may leave out what is shown before."""
    text = blocks("docs/configuration.md", "toml")[number]
    names = re.findall(r'"([A-Z_]{3,})"', text)
    path = tmp_path / "dragoman.toml"
    path.write_text(text)
    settings = load(path, {}, dict.fromkeys(names, "secret"))
    assert set(tomllib.loads(text)["upstreams"]) == set(settings.upstreams)


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
