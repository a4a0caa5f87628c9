"""The 'model' of the demo: a pure function from a chat request to what it says.

It has no weights, clock or randomness: the same request always gets the same steps. What it
does with which request is the table in ``backends.demo``.
"""

import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

import msgspec

from backends.demo.filler import Filler, json_text, names_place, required, topic_words
from backends.demo.requests import (
    JSON,
    MEDIA_TYPES,
    ChatRequest,
    Function,
    Message,
    NamedChoice,
    Part,
)

MODEL: Final = "dragoman-demo"

QUOTED_WORDS: Final = 100
"""Longer quotations are cut, with an ellipsis, so that a long prompt gives no endless stream."""


class Reasoning(msgspec.Struct, frozen=True):
    """Text thought before answering."""

    text: str


class Content(msgspec.Struct, frozen=True):
    """Text of the answer."""

    text: str


class Call(msgspec.Struct, frozen=True):
    """One tool call; ``arguments`` is JSON text, cut if the answer ran into the token limit."""

    id: str
    name: str
    arguments: str


Step: TypeAlias = Reasoning | Content | Call


def split_words(text: str) -> list[str]:
    """The demo's tokens: each word with the space before it; joined they give ``text`` again."""
    return re.findall(r"\s*\S+|\s+", text)


def digest(request: ChatRequest) -> str:
    """32 hexadecimal digits for a request; streamed or not makes no difference."""
    plain = msgspec.structs.replace(request, stream=None, stream_options=None)
    encoded = msgspec.json.encode(plain, order="deterministic")
    return hashlib.blake2b(encoded, digest_size=16).hexdigest()


def speak(request: ChatRequest, choice: int = 0) -> Iterator[Step]:
    """What choice number ``choice`` says: reasoning if wanted, then calls or an answer.

    ``max_tokens`` and ``stop`` are not applied yet.
    """
    message = next((m for m in reversed(request.messages) if m.role == "user"), None)
    prompt = message.text() if message is not None else ""
    results = _tool_results(request.messages)
    form = request.response_format
    tool = _choose_tool(request, prompt, answered=bool(results))

    if tool is not None:
        thought = f"The tool {tool.name} fits what the user asks, so I call it."
        answer: list[Step] = [*_calls(request, tool, prompt, choice)]
    elif form is not None and form.type != "text":
        thought = "The caller wants JSON, so I give the least that fits."
        schema = form.json_schema.schema if form.json_schema is not None else None
        value = {"echo": prompt} if schema is None else Filler(prompt).fill(schema, schema)
        answer = [Content(json_text(value))]
    else:
        if results:
            thought = f"I have {_count(len(results), 'tool result')} to report."
            text = " ".join(f"{name} answered: {_quote(result)}." for name, result in results)
        else:
            thought = f"The user wrote {_count(len(prompt.split()), 'word')}. I can quote them."
            text = _reply(message, prompt)
        if (count := request.n or 1) > 1:
            text = f"Choice {choice + 1} of {count}: {text}"
        answer = [Content(text)]

    if request.thinks:
        yield Reasoning(thought)
    yield from answer


def _calls(request: ChatRequest, tool: Function, prompt: str, choice: int) -> Iterator[Call]:
    arguments = _arguments(tool, prompt)
    if request.parallel_tool_calls is False:
        del arguments[1:]
    seed = digest(request)
    for index, value in enumerate(arguments):
        call_id = hashlib.blake2b(f"{seed} {choice} {index}".encode(), digest_size=8).hexdigest()
        yield Call(f"chatcmpl-tool-{call_id}", tool.name, json_text(value))


def _reply(message: Message | None, prompt: str) -> str:
    """The plain answer: an introduction or a quotation, and a note about media."""
    if message is None:
        return f"I am {MODEL}, and there is no user message that I could quote."
    if _GREETING.match(prompt):
        answer = (
            f"Hello! I am {MODEL}, a small program that stands in for a language model. I quote"
            " what you say, call the tools you give me and fill in JSON schemas; I understand"
            " nothing."
        )
    else:
        answer = f"You said: {_quote(prompt)}. I am {MODEL}, and quoting is all I can do."
    return "\n\n".join([answer, *_media_notes(message.parts())])


_GREETING: Final = re.compile(
    r"\s*(hi|hello|hey|good (morning|afternoon|evening|day)|who are you|what are you)\b",
    re.IGNORECASE,
)


def _media_notes(parts: Iterable[Part]) -> Iterator[str]:
    images = [_describe_image(part.image_url) for part in parts if part.type == "image_url"]
    if images:
        yield (
            f"I received {_count(len(images), 'image')} ({'; '.join(images)}),"
            " but I cannot see: I only counted bytes."
        )
    others = [part.type for part in parts if part.type in MEDIA_TYPES and part.type != "image_url"]
    if others:
        yield f"I also received {', '.join(others)}, which I can neither hear nor see."


def _describe_image(image: JSON) -> str:
    """Media type and size of an ``image_url`` value, an object or a bare string."""
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str):
        return "without URL"
    if not (found := re.match(r"data:([^;,]*)[^,]*?;base64,", url)):
        return "by URL, not fetched"
    try:
        size = len(binascii.a2b_base64(url[found.end() :]))
    except binascii.Error:
        return f"{found[1]}, broken base64"
    return f"{found[1]}, {_count(size, 'byte')}"


def _tool_results(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Name and text of the tool results that end the conversation, in order."""
    names = {
        call.id: call.function.name for message in messages for call in message.tool_calls or []
    }
    results: list[tuple[str, str]] = []
    for message in reversed(messages):
        if message.role != "tool":
            break
        results.insert(0, (names.get(message.tool_call_id or "", "The tool"), message.text()))
    return results


def _choose_tool(request: ChatRequest, prompt: str, *, answered: bool) -> Function | None:
    """The function to call, or ``None`` for an answer in words.

    A word that the prompt shares with a function's name counts three times one that it shares
    with the first sentence of its description; the first of equals wins. Unless the caller
    demands a call there is none without any shared word, nor after tool results.
    """
    functions = [tool.function for tool in request.tools or []]
    if not functions or request.tool_choice == "none":
        return None
    if isinstance(request.tool_choice, NamedChoice):
        name = request.tool_choice.function.name
        return next(function for function in functions if function.name == name)
    words = topic_words(prompt)

    def score(function: Function) -> int:
        sentence = re.split(r"[.\n]", function.description or "", maxsplit=1)[0]
        named = words & topic_words(function.name)
        return 3 * len(named) + len(words & topic_words(sentence))

    best = max(functions, key=score)
    if request.must_call:
        return best
    return best if score(best) and not answered else None


_NAME: Final = r"[^\W\d_a-z][\w'\u2019-]*(?:\s+[^\W\d_a-z][\w'\u2019-]*)*"
_NAMES: Final = re.compile(rf"\bin\s+({_NAME}(?:(?:\s*,\s*(?:and\s+)?|\s+and\s+){_NAME})*)")


def _arguments(function: Function, prompt: str) -> list[JSON]:
    """Arguments for each call: one call, or one for each place where the function takes a place."""
    schema = function.parameters or {}
    places = [
        place
        for match in _NAMES.finditer(prompt)
        for place in re.split(r"\s*,\s*(?:and\s+)?|\s+and\s+", match[1])
    ]
    takes_place = any(map(names_place, required(schema)))
    chosen: list[str | None] = [*dict.fromkeys(places)] if takes_place and places else [None]
    filled = [Filler(prompt, place).fill(schema, schema) for place in chosen]
    return [arguments if isinstance(arguments, dict) else {} for arguments in filled]


def _quote(text: str) -> str:
    words = split_words(text)
    cut = "…" if len(words) > QUOTED_WORDS else ""
    return f'"{"".join(words[:QUOTED_WORDS]).strip()}{cut}"'


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
