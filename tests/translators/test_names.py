import re

import pytest

from translators.canonical import CustomTool, FunctionTool, HostedTool, ToolKind, ToolName
from translators.names import LIMIT, ToolNames

LEGAL = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def test_names_without_a_namespace_stay() -> None:
    names = ToolNames([FunctionTool("a.b"), CustomTool("patch")])
    assert names.flat("a.b", None) == "a.b"
    assert ToolName("a.b") == names.restore("a.b")
    assert ToolName("patch", ToolKind.CUSTOM) == names.restore("patch")


@pytest.mark.parametrize(
    ("namespace", "name", "flat"),
    [
        ("files", "read", "files__read"),
        ("a" * 31, "b" * 31, "a" * 31 + "__" + "b" * 31),
        ("a.b", "read/all", None),
        ("a" * 31, "b" * 32, None),
        ("ns", "x" * 200, None),
    ],
)
def test_round_trip(namespace: str, name: str, flat: str | None) -> None:
    """Flat names are legal, keep the name's end, and lead back."""
    names = ToolNames([FunctionTool(name, namespace=namespace)])
    actual = names.flat(name, namespace)
    assert flat in (None, actual)
    assert LEGAL.fullmatch(actual)
    assert ToolName(name, namespace=namespace) == names.restore(actual)


def test_shortened_names_keep_the_end() -> None:
    flat = ToolNames().flat("click_" * 9 + "end", "desktop")
    assert len(flat) == LIMIT
    assert flat.endswith("click_end")


def test_collision_with_a_plain_name() -> None:
    """The plain function keeps its name, wherever it stands."""
    names = ToolNames([FunctionTool("b", namespace="a"), FunctionTool("a__b")])
    flat = names.flat("b", "a")
    assert names.flat("a__b", None) == "a__b"
    assert flat != "a__b"
    assert ToolName("b", namespace="a") == names.restore(flat)


def test_collision_of_two_namespaces() -> None:
    tools = [FunctionTool("c", namespace="a__b"), FunctionTool("b__c", namespace="a")]
    names = ToolNames(tools)
    flats = {names.flat(tool.name, tool.namespace) for tool in tools}
    assert len(flats) == 2
    assert {"c", "b__c"} == {names.restore(flat).name for flat in flats}


def test_names_are_the_same_in_each_turn() -> None:
    tools = [FunctionTool("x" * 80, namespace="ns")]
    assert ToolNames(tools).flat("x" * 80, "ns") == ToolNames(tools).flat("x" * 80, "ns")
    assert ToolNames().flat("x" * 80, "ns") == ToolNames(tools).flat("x" * 80, "ns")


def test_undeclared_tools() -> None:
    names = ToolNames()
    assert names.flat("a", "ns") == "ns__a"
    assert ToolName("ns__a") == names.restore("ns__a")


def test_hosted_tools_have_no_name() -> None:
    names = ToolNames([HostedTool("web_search", {"type": "web_search"}, "tools[0]")])
    assert not names.is_whole("web_search")


def test_is_whole() -> None:
    """Declared, and not the beginning of another declared name."""
    names = ToolNames([FunctionTool("read"), FunctionTool("read_all")])
    actual = [names.is_whole(name) for name in ("rea", "read", "read_all", "write")]
    assert actual == [False, False, True, False]
