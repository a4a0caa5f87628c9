"""Generated conversations survive the way through the other dialect and back."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from translators.canonical import (
    FunctionTool,
    Item,
    Message,
    Reasoning,
    Refusal,
    Request,
    Text,
    ToolCall,
    ToolResult,
)
from translators.profiles import PROFILES, SystemMessages
from translators.translation import Translation
from translators.wire import JSON

# An upstream that takes everything: what is lost here is lost by the translation itself.
PROFILE = msgspec.structs.replace(
    PROFILES["openai"], reasoning_field="reasoning", sampling_extras=True, minimum_output_tokens=1
)
assert PROFILE.system_messages is SystemMessages.KEEP

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True)
ARGUMENTS = st.dictionaries(NAMES, st.one_of(st.integers(), TEXTS, st.booleans()), max_size=3)
SCHEMAS: st.SearchStrategy[JSON] = st.builds(
    lambda names: {"type": "object", "properties": {name: {"type": "string"} for name in names}},
    st.lists(NAMES, max_size=3, unique=True),
)
KNOBS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0, 1),
        "presence_penalty": st.floats(-2, 2),
        "user": TEXTS,
        "seed": st.integers(0, 2**31),
        "stop": st.lists(TEXTS, min_size=1, max_size=4),
        "parallel_tool_calls": st.booleans(),
        "top_k": st.integers(1, 100),
        "metadata": st.dictionaries(NAMES, TEXTS, max_size=2),
    },
)


@st.composite
def functions(draw: st.DrawFn) -> list[JSON]:
    names = draw(st.lists(NAMES, max_size=3, unique=True))
    return [
        {
            "name": name,
            "description": draw(TEXTS),
            "parameters": draw(SCHEMAS),
            "strict": draw(st.booleans()),
        }
        for name in names
    ]


@st.composite
def turns(draw: st.DrawFn) -> list[JSON]:
    """Turns of a legal conversation, in no dialect: dicts with what each of them holds."""
    conversation: list[JSON] = []
    for number in range(draw(st.integers(1, 4))):
        role = draw(st.sampled_from(["user", "user", "system", "developer"]))
        images = ["data:image/png;base64,AA=="] * draw(st.integers(0, 1)) if role == "user" else []
        conversation.append({"role": role, "text": draw(TEXTS), "images": images})
        said = draw(st.one_of(st.none(), TEXTS))
        calls = [
            {
                "id": f"call_{number}_{i}",
                "name": draw(NAMES),
                "arguments": msgspec.json.encode(draw(ARGUMENTS)).decode(),
                "output": draw(TEXTS),
            }
            for i in range(draw(st.integers(0, 3)))
        ]
        if said is not None or calls:
            thought = draw(st.one_of(st.none(), TEXTS))
            conversation.append(
                {"role": "assistant", "text": said, "thought": thought, "calls": calls}
            )
    return conversation


def as_responses(conversation: list[JSON]) -> list[JSON]:
    items: list[JSON] = []
    for turn in conversation:
        if turn["role"] != "assistant":
            content = [{"type": "input_text", "text": turn["text"]}]
            content += [{"type": "input_image", "image_url": url} for url in turn["images"]]
            items.append({"type": "message", "role": turn["role"], "content": content})
            continue
        if turn["thought"] is not None:
            parts = [{"type": "reasoning_text", "text": turn["thought"]}]
            items.append({"type": "reasoning", "id": "rs_1", "summary": [], "content": parts})
        if turn["text"] is not None:
            part = {"type": "output_text", "text": turn["text"], "annotations": []}
            items.append({"type": "message", "role": "assistant", "content": [part]})
        for call in turn["calls"]:
            items.append(
                {
                    "type": "function_call",
                    "call_id": call["id"],
                    "name": call["name"],
                    "arguments": call["arguments"],
                }
            )
        for call in turn["calls"]:
            items.append(
                {
                    "type": "function_call_output",
                    "call_id": call["id"],
                    "output": call["output"],
                }
            )
    return items


def as_chat(conversation: list[JSON]) -> list[JSON]:
    messages: list[JSON] = []
    for turn in conversation:
        if turn["role"] != "assistant":
            content: JSON = turn["text"]
            if turn["images"]:
                images = [{"type": "image_url", "image_url": {"url": u}} for u in turn["images"]]
                content = [{"type": "text", "text": content}, *images]
            messages.append({"role": turn["role"], "content": content})
            continue
        message: dict[str, JSON] = {"role": "assistant", "content": turn["text"]}
        if turn["thought"] is not None:
            message["reasoning"] = turn["thought"]
        if turn["calls"]:
            message["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": call["arguments"]},
                }
                for call in turn["calls"]
            ]
        messages.append(message)
        messages += [
            {"role": "tool", "tool_call_id": call["id"], "content": call["output"]}
            for call in turn["calls"]
        ]
    return messages


def essence(request: Request) -> JSON:
    """What a request means, without the ids that a dialect makes up."""
    return {
        "items": [_essence_of(item) for item in request.items],
        "tools": [
            (tool.name, tool.description, tool.parameters, tool.strict)
            for tool in request.tools
            if isinstance(tool, FunctionTool)
        ],
        "choice": request.tool_choice,
        "limit": request.max_output_tokens,
        "format": request.format,
        "effort": request.effort,
        "knobs": {k: v for k, v in request.knobs.items() if k != "parallel_tool_calls"},
        "extra": request.extra,
    }


def _essence_of(item: Item) -> JSON:
    match item:
        case Message():
            parts = [
                (type(part).__name__, getattr(part, "text", None) or getattr(part, "url", None))
                for part in item.parts
            ]
            return ("message", item.role, parts)
        case Reasoning():
            return ("reasoning", item.content)
        case ToolCall():
            return ("call", item.call_id, item.name, item.arguments)
        case ToolResult():
            texts = [part.text for part in item.parts if isinstance(part, Text | Refusal)]
            return ("result", item.call_id, texts)
    return item


def read(dialect: str, body: Any) -> Request:
    other = "chat" if dialect == "responses" else "responses"
    translation = Translation.between(dialect, other, profile=PROFILE)
    return translation.caller.read_request(body, translation.ctx)


def forth_and_back(dialect: str, body: JSON) -> tuple[Request, Request]:
    other = "chat" if dialect == "responses" else "responses"
    forth = Translation.between(dialect, other, profile=PROFILE)
    back = Translation.between(other, dialect, profile=PROFILE)
    returned = back.request(forth.request(body))
    assert forth.losses == []
    assert back.losses == []
    return read(dialect, body), read(dialect, returned)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(turns(), functions(), KNOBS, st.sampled_from([None, "low", "high"]))
def test_responses_through_chat(
    conversation: list[JSON], tools: list[JSON], knobs: dict[str, JSON], effort: str | None
) -> None:
    body = {"model": "m", "input": as_responses(conversation), "max_output_tokens": 50, **knobs}
    body["tools"] = [{"type": "function", **tool} for tool in tools]
    if effort is not None:
        body["reasoning"] = {"effort": effort}
    before, after = forth_and_back("responses", body)
    assert essence(before) == essence(after)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(turns(), functions(), KNOBS, st.sampled_from([None, "low", "high"]))
def test_chat_through_responses(
    conversation: list[JSON], tools: list[JSON], knobs: dict[str, JSON], effort: str | None
) -> None:
    body = {"model": "m", "messages": as_chat(conversation), "max_tokens": 50, **knobs}
    body["tools"] = [{"type": "function", "function": tool} for tool in tools]
    if effort is not None:
        body["reasoning_effort"] = effort
    before, after = forth_and_back("chat", body)
    assert essence(before) == essence(after)
