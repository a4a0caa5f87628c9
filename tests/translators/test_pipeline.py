import pytest

from translators.canonical import Image, Item, Message, Request, Role, Text
from translators.context import Context, counting_ids
from translators.pipeline import map_developer, merge_system, run
from translators.profiles import Policy, Profile, SystemMessages


def context(**members: object) -> Context:
    profile = Profile(**members)  # type: ignore[arg-type]
    return Context(new_id=counting_ids(), now=lambda: 0.0, profile=profile, policy=Policy())


def said(role: Role, *texts: str) -> Message:
    return Message(role, [Text(text) for text in texts])


def system(*texts: str) -> Message:
    return said(Role.SYSTEM, *texts)


def user(*texts: str) -> Message:
    return said(Role.USER, *texts)


def merged(mode: SystemMessages, *items: Item) -> list[Item]:
    ctx = context(system_messages=mode)
    return merge_system(Request("m", list(items)), ctx).items


def test_developer_becomes_system() -> None:
    items: list[Item] = [said(Role.DEVELOPER, "a"), user("b")]
    assert [system("a"), user("b")] == map_developer(Request("m", items), context()).items
    kept = map_developer(Request("m", items), context(developer_role=True))
    assert items == kept.items


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([], []),
        ([user("a")], [user("a")]),
        ([system("a"), user("b")], [system("a"), user("b")]),
        ([system("a"), system("b"), user("c")], [system("a\n\nb"), user("c")]),
        ([user("a"), system("b")], [system("b"), user("a")]),
        ([system("a"), user("b"), system("c", "d")], [system("a\n\nc\nd"), user("b")]),
        ([system(""), system("a")], [system("a")]),
    ],
)
def test_merge(items: list[Item], expected: list[Item]) -> None:
    assert expected == merged(SystemMessages.MERGE, *items)


def test_merge_leading_leaves_later_ones() -> None:
    items = [system("a"), system("b"), user("c"), system("d")]
    assert [system("a\n\nb"), user("c"), system("d")] == merged(
        SystemMessages.MERGE_LEADING, *items
    )
    assert [user("c"), system("d")] == merged(SystemMessages.MERGE_LEADING, *items[2:])


def test_keep() -> None:
    items = [system("a"), system("b"), user("c"), system("d")]
    assert items == merged(SystemMessages.KEEP, *items)


def test_merge_keeps_images() -> None:
    image = Image(url="data:,")
    actual = merged(SystemMessages.MERGE, system("a"), Message(Role.SYSTEM, [image]))
    assert [Message(Role.SYSTEM, [Text("a"), image])] == actual


def test_the_first_role_stays() -> None:
    items = [said(Role.DEVELOPER, "a"), system("b")]
    assert [said(Role.DEVELOPER, "a\n\nb")] == merged(SystemMessages.MERGE, *items)


def test_run_keeps_the_order() -> None:
    """A developer message is merged as the system message that it became."""
    request = Request("m", [said(Role.DEVELOPER, "a"), system("b")])
    assert [system("a\n\nb")] == run((map_developer, merge_system), request, context()).items
    assert request == run((), request, context())
