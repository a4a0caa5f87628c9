"""How items become Chat messages."""

from translators.canonical import (
    Image,
    Item,
    Message,
    Reasoning,
    Refusal,
    Role,
    Text,
    ToolCall,
    ToolResult,
)
from translators.chat.turns import write_messages
from translators.context import Context, counting_ids
from translators.names import ToolNames
from translators.profiles import Policy, Profile, ReasoningHistory
from translators.wire import JSON


def context(**members: object) -> Context:
    profile = Profile(**members)  # type: ignore[arg-type]
    return Context(new_id=counting_ids(), now=lambda: 0.0, profile=profile, policy=Policy())


def messages(*items: Item, ctx: Context | None = None) -> list[JSON]:
    return write_messages(items, ToolNames(), ctx or context())


def user(text: str) -> Message:
    return Message(Role.USER, [Text(text)])


def answer(text: str) -> Message:
    return Message(Role.ASSISTANT, [Text(text)])


def thought(*texts: str) -> Reasoning:
    return Reasoning(content=[*texts])


def call(call_id: str, arguments: str = "{}") -> ToolCall:
    return ToolCall(call_id, "f", arguments)


def result(call_id: str, text: str = "ok") -> ToolResult:
    return ToolResult(call_id, [Text(text)])


def turns(*items: Item, ctx: Context | None = None) -> list[tuple[JSON, ...]]:
    """Content, reasoning and call ids of assistant messages; other roles by name."""
    return [
        (
            message["content"],
            message.get("reasoning"),
            [call["id"] for call in message.get("tool_calls", ())],
        )
        if message["role"] == "assistant"
        else (message["role"],)
        for message in messages(*items, ctx=ctx)
    ]


def test_reasoning_goes_forward() -> None:
    expected: JSON = [("a", "1", []), ("b", "2", [])]
    assert expected == turns(thought("1"), answer("a"), thought("2"), answer("b"))


def test_reasoning_goes_to_calls() -> None:
    assert turns(thought("1"), call("x"), call("y")) == [(None, "1", ["x", "y"])]


def test_reasoning_text_and_calls_are_one_turn() -> None:
    assert turns(thought("1"), answer("a"), call("x")) == [("a", "1", ["x"])]


def test_reasoning_between_text_and_call_begins_a_turn() -> None:
    assert turns(answer("a"), thought("1"), call("x")) == [("a", None, []), (None, "1", ["x"])]


def test_reasoning_between_calls_joins() -> None:
    expected = [(None, "1\n2", ["x", "y"])]
    assert expected == turns(thought("1"), call("x"), thought("2"), call("y"))


def test_reasoning_at_the_end_goes_back() -> None:
    assert turns(thought("1"), answer("a"), thought("2")) == [("a", "1\n2", [])]


def test_reasoning_goes_back_over_no_user() -> None:
    assert turns(user("a"), thought("1"), user("b")) == [("user",), ("", "1", []), ("user",)]


def test_reasoning_after_results_stands_alone() -> None:
    expected: JSON = [(None, None, ["x"]), ("tool",), ("", "1", [])]
    assert expected == turns(call("x"), result("x"), thought("1"))


def test_two_reasonings_join() -> None:
    assert turns(thought("1", "2"), thought("3"), answer("a")) == [("a", "1\n2\n3", [])]


def test_content_is_preferred_to_the_summary() -> None:
    both = Reasoning(content=["raw"], summary=["digest"])
    assert turns(both, answer("a")) == [("a", "raw", [])]
    assert turns(Reasoning(summary=["digest"]), answer("a")) == [("a", "digest", [])]


def test_reasoning_without_text_is_nothing() -> None:
    assert turns(Reasoning(), answer("a")) == [("a", None, [])]
    ctx = context()
    assert turns(user("a"), Reasoning(encrypted="x"), ctx=ctx) == [("user",)]
    assert len(ctx.losses) == 1


def test_reasoning_that_the_upstream_does_not_take() -> None:
    ctx = context(reasoning_field=None)
    assert turns(thought("1"), answer("a"), ctx=ctx) == [("a", None, [])]
    assert turns(user("a"), thought("1"), ctx=ctx) == [("user",)]
    assert len(ctx.losses) == 1


def test_texts_in_a_row_stay_apart() -> None:
    assert turns(answer("a"), answer("b")) == [("a", None, []), ("b", None, [])]


def test_text_after_calls_joins_their_turn() -> None:
    """Results have to follow the calls, so no message may come between."""
    expected = [("a", None, ["x"]), ("tool",)]
    assert expected == turns(call("x"), answer("a"), result("x"))
    assert turns(answer("a"), call("x"), answer("b")) == [("a\n\nb", None, ["x"])]


def test_results_keep_their_order() -> None:
    actual = messages(call("x"), call("y"), result("y", "2"), result("x", "1"))
    assert [message["tool_call_id"] for message in actual[1:]] == ["y", "x"]


def test_images_of_results_wait_for_all_results() -> None:
    image = ToolResult("x", [Image(url="data:,")])
    roles = [m["role"] for m in messages(call("x"), call("y"), image, result("y"), user("a"))]
    assert roles == ["assistant", "tool", "tool", "user", "user"]


def test_empty_content_of_a_call() -> None:
    assert turns(call("x"), ctx=context(empty_content="")) == [("", None, ["x"])]
    assert turns(answer(""), call("x")) == [(None, None, ["x"])]
    assert turns(answer("")) == [("", None, [])]


def test_last_reasoning_belongs_to_a_tool_turn_only_if_that_called() -> None:
    ctx = context(reasoning_history=ReasoningHistory.TOOL_TURNS)
    assert turns(call("x"), thought("b"), ctx=ctx) == [(None, "b", ["x"])]
    assert ctx.losses == []
    assert turns(answer("a"), thought("b"), ctx=ctx) == [("a", None, [])]
    assert [loss.param for loss in ctx.losses] == ["items"]


def test_refusal() -> None:
    refusal = Message(Role.ASSISTANT, [Refusal("No.")])
    assert messages(refusal) == [{"role": "assistant", "content": "No."}]
    expected = [{"role": "assistant", "content": None, "refusal": "No."}]
    assert expected == messages(refusal, ctx=context(refusal_field=True))


def test_names_and_vendor_members() -> None:
    said = Message(Role.USER, [Text("a")], name="ann", extra={"x": 1, "role": "robot"})
    assert messages(said) == [{"role": "user", "content": "a", "name": "ann", "x": 1}]
    said = Message(Role.ASSISTANT, [Text("a")], name="bot", extra={"x": 1})
    assert messages(said) == [{"role": "assistant", "content": "a", "name": "bot", "x": 1}]


def test_each_turns_first_call_is_signed_where_the_upstream_wants_that() -> None:
    kept: JSON = {"google": {"thought_signature": "kept"}}
    lost: JSON = {"google": {"thought_signature": "lost"}}
    ctx = context(call_signatures=True, thought_signature="lost")
    first = ToolCall("d", "f", "{}", extra={"extra_content": kept})
    items: list[Item] = [call("a"), call("b"), result("a"), result("b"), call("c"), result("c")]
    items += [first, call("e"), result("d"), result("e")]
    assert signatures(items, ctx) == [[lost, None], [lost], [kept, None]]
    assert [loss.param for loss in ctx.losses] == ["items"]
    ctx = context()
    assert signatures([first, result("d")], ctx) == [[None]]
    assert [loss.why for loss in ctx.losses] == ["the upstream takes no 'extra_content' of calls"]


def signatures(items: list[Item], ctx: Context) -> list[list[JSON]]:
    """Those of each assistant message's calls."""
    said = [m for m in messages(user("q"), *items, ctx=ctx) if m["role"] == "assistant"]
    return [[entry.get("extra_content") for entry in m["tool_calls"]] for m in said]
