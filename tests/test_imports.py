"""Who may import whom, read from the syntax trees."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = [
    path for name in ("translators", "backends", "proxy") for path in (ROOT / name).rglob("*.py")
]
HTTPX = {"backends/openai_compatible.py", "backends/transport.py", "backends/http1.py"}
PURE = {
    *("base64", "binascii", "collections", "contextlib", "dataclasses", "enum", "functools"),
    *("hashlib", "itertools", "json", "re", "typing", "urllib.parse", "msgspec", "translators"),
}
"""What translators may import: no I/O, no clock, no randomness, no environment, no logging."""
IMPURE = {
    # The library's front door has defaults for ids and time.
    "translators/translation.py": {"time", "secrets"},
}

BUILT_ON = {"completions": ("chat",)}
"""Dialects whose package stands on that of another one."""


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


# Read while tests are collected: CPython 3.11 counts the depth of syntax trees for all threads
# together, and other tests have threads.
IMPORTS = {path: frozenset(imports(path)) for path in MODULES}


def within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports(path: Path) -> None:
    place = path.relative_to(ROOT).as_posix()
    package, *rest = place.split("/")
    names = IMPORTS[path]
    assert package == "proxy" or not any(within(n, {"proxy", "litestar"}) for n in names)
    assert place in HTTPX or not any(within(n, {"httpx"}) for n in names)
    if package == "translators":
        allowed = PURE | IMPURE.get(place, set())
        assert sorted(n for n in names if not within(n, allowed)) == []
    if package == "backends":
        own = {"translators", "translators.dialect", "translators.dialect.Dialect"}
        assert sorted(n for n in names if within(n, {"translators"}) and n not in own) == []
    dialects = {"translators.chat", "translators.responses", "translators.completions"}
    dialects -= {f"translators.{name}" for name in (rest[0], *BUILT_ON.get(rest[0], ()))}
    if package == "translators" and rest != ["__init__.py"]:
        assert sorted(n for n in names if within(n, dialects)) == []
