"""The 'model' of the demo: a pure function from a chat request to what it says.

It has no weights, clock or randomness: the same request always gets the same steps. What it
does with which request is the table in ``backends.demo``.
"""

import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

JSON: TypeAlias = Any
"""A decoded JSON value."""

MODEL: Final = "dragoman-demo"

MEDIA_TYPES: Final = ("audio_url", "image_url", "input_audio", "video_url")
"""The content parts that are neither text nor reasoning."""

QUOTED_WORDS: Final = 100
"""Longer quotations are cut, with an ellipsis, so that a long prompt gives no endless stream."""


class Part(msgspec.Struct):
    """One content part; members of types other than text and image_url are not read."""

    type: str
    text: str | None = None
    image_url: JSON = None


class FunctionCall(msgspec.Struct):
    """Name and JSON text of a call in the history."""

    name: str
    arguments: str = ""


class ToolCall(msgspec.Struct):
    """An earlier call in the history."""

    function: FunctionCall
    id: str = ""


class Message(msgspec.Struct):
    """One message of the conversation."""

    role: str
    content: str | list[Part] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    def parts(self) -> list[Part]:
        """The content as parts; a string is one text part."""
        if isinstance(self.content, str):
            return [Part("text", self.content)]
        return self.content or []

    def text(self) -> str:
        """The text parts, a line break between them."""
        return "\n".join(part.text for part in self.parts() if part.text is not None)


class Function(msgspec.Struct):
    """What a tool is called and takes; ``parameters`` is a JSON Schema."""

    name: str
    description: str | None = None
    parameters: dict[str, JSON] | None = None


class Tool(msgspec.Struct):
    """A tool that may be called."""

    type: Literal["function"]
    function: Function


class NamedFunction(msgspec.Struct):
    """The function of a named tool choice."""

    name: str


class NamedChoice(msgspec.Struct):
    """A tool choice that names the function to call."""

    function: NamedFunction


class JSONSchema(msgspec.Struct):
    """The schema of a structured answer."""

    schema: dict[str, JSON]


class ResponseFormat(msgspec.Struct):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchema | None = None


class StreamOptions(msgspec.Struct):
    """What a stream carries besides the answer."""

    include_usage: bool | None = None


Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ChatRequest(msgspec.Struct):
    """The part of a chat request that the demo reads; it ignores other members, as vLLM does."""

    model: str
    messages: list[Message]
    tools: list[Tool] | None = None
    tool_choice: str | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Effort | None = None
    include_reasoning: bool = True
    chat_template_kwargs: dict[str, JSON] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def thinks(self) -> bool:
        """Whether reasoning comes before the answer."""
        enabled = (self.chat_template_kwargs or {}).get("enable_thinking") is not False
        return enabled and self.include_reasoning and self.reasoning_effort != "none"

    @property
    def must_call(self) -> bool:
        """Whether the caller demands a tool call, by name or of any tool."""
        return isinstance(self.tool_choice, NamedChoice) or self.tool_choice == "required"


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
        answer = [Content(_json_text(value))]
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
        yield Call(f"chatcmpl-tool-{call_id}", tool.name, _json_text(value))


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
    words = _topic_words(prompt)

    def score(function: Function) -> int:
        sentence = re.split(r"[.\n]", function.description or "", maxsplit=1)[0]
        named = words & _topic_words(function.name)
        return 3 * len(named) + len(words & _topic_words(sentence))

    best = max(functions, key=score)
    if request.must_call:
        return best
    return best if score(best) and not answered else None


_IDLE_WORDS: Final = re.compile(
    r"(a|about|an|and|any|are|at|be|by|can|do|for|from|get|give|given|how|i|if|in|is|it|me|my|of|on"
    r"|or|please|that|the|them|then|this|to|use|user|was|what|when|which|with|you|your)"
)


def _topic_words(text: str) -> set[str]:
    """Lower-case words that may carry a topic, without a plural's s; camelCase is two words."""
    words = re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower())
    return {word.removesuffix("s") for word in words if not _IDLE_WORDS.fullmatch(word)}


_NAME: Final = r"[^\W\d_a-z][\w'\u2019-]*(?:\s+[^\W\d_a-z][\w'\u2019-]*)*"
_NAMES: Final = re.compile(rf"\bin\s+({_NAME}(?:(?:\s*,\s*(?:and\s+)?|\s+and\s+){_NAME})*)")
_PLACE_WORDS: Final = frozenset({"city", "citie", "location", "place", "town"})


def _arguments(function: Function, prompt: str) -> list[JSON]:
    """Arguments for each call: one call, or one for each place where the function takes a place."""
    schema = function.parameters or {}
    places = [
        place
        for match in _NAMES.finditer(prompt)
        for place in re.split(r"\s*,\s*(?:and\s+)?|\s+and\s+", match[1])
    ]
    takes_place = any(map(_names_place, _required(schema)))
    chosen: list[str | None] = [*dict.fromkeys(places)] if takes_place and places else [None]
    filled = [Filler(prompt, place).fill(schema, schema) for place in chosen]
    return [arguments if isinstance(arguments, dict) else {} for arguments in filled]


def _names_place(name: str) -> bool:
    return not _PLACE_WORDS.isdisjoint(_topic_words(name))


class Filler:
    """Makes the least instance of a JSON Schema, out of the words of a prompt.

    Objects get their required properties, arrays ``minItems`` items. Numbers are those of the
    prompt in turn, then 0; an enumeration's value is the one that the prompt names, else its
    first; a string whose property is named like a place is ``place`` if there is one, any other
    is the prompt. Bounds of length and size are kept. ``pattern``, ``multipleOf`` and ``not``
    are not understood: the instance may break them.
    """

    def __init__(self, prompt: str, place: str | None = None) -> None:
        self._prompt = prompt
        self._place = place
        found = re.findall(r"(?<!\w)-?\d{1,15}(?:\.\d{1,15})?(?!\w)", prompt)
        self._numbers = [float(number) for number in found]

    def fill(
        self, schema: JSON, root: JSON, name: str = "", opened: frozenset[str] = frozenset("#")
    ) -> JSON:
        """An instance of ``schema``.

        Args:
            schema: A schema, or ``true``, or anything else, which counts as ``true``.
            root: The document in which ``$ref`` is looked up.
            name: The property that is being filled.
            opened: References being followed; one of them is not opened again, so that a
                recursive schema ends in ``null`` or in an alternative.
        """
        if not isinstance(schema, dict):
            return self._prompt
        if ref := _ref(schema):
            return (
                None if ref in opened else self.fill(_find(root, ref), root, name, opened | {ref})
            )
        if "const" in schema:
            return schema["const"]
        if options := _list(schema, "enum"):
            return self._pick(options)
        for key in ("anyOf", "oneOf"):
            if branches := _list(schema, key):
                ends = (branch for branch in branches if _ref(branch) not in opened)
                return self.fill(next(ends, None), root, name, opened)
        if branches := _list(schema, "allOf"):
            own = {key: value for key, value in schema.items() if key != "allOf"}
            filled = [self.fill(branch, root, name, opened) for branch in branches]
            if "properties" in own:
                filled.append(self.fill(own, root, name, opened))
            if all(isinstance(value, dict) for value in filled):
                return {key: value for part in filled for key, value in part.items()}
            return filled[0]
        return self._fill_type(schema, root, name, opened)

    def _fill_type(self, schema: JSON, root: JSON, name: str, opened: frozenset[str]) -> JSON:
        kind = schema.get("type", "object" if "properties" in schema else "string")
        match kind[0] if isinstance(kind, list) and kind else kind:
            case "object":
                properties = schema.get("properties")
                known = properties if isinstance(properties, dict) else {}
                return {
                    key: self.fill(known.get(key), root, key, opened) for key in _required(schema)
                }
            case "array":
                items = list(_list(schema, "prefixItems"))
                missing = int(_bound(schema, "minItems") or 0) - len(items)
                items += [schema.get("items")] * missing
                return [self.fill(item, root, name, opened) for item in items]
            case "integer":
                return int(self._number(schema, least_step=1))
            case "number":
                number = self._number(schema, least_step=0.5)
                return int(number) if number.is_integer() else number
            case "boolean":
                return True
            case "null":
                return None
        return self._string(schema, name)

    def _pick(self, options: Sequence[JSON]) -> JSON:
        named = (
            option
            for option in options
            if isinstance(option, str)
            and re.search(rf"\b{re.escape(option)}\b", self._prompt, re.IGNORECASE)
        )
        return next(named, options[0])

    def _number(self, schema: Mapping[str, JSON], *, least_step: float) -> float:
        number = self._numbers.pop(0) if self._numbers else 0.0
        if (low := _bound(schema, "minimum")) is not None:
            number = max(number, low)
        if (low := _bound(schema, "exclusiveMinimum")) is not None and number <= low:
            number = low + least_step
        if (high := _bound(schema, "maximum")) is not None:
            number = min(number, high)
        if (high := _bound(schema, "exclusiveMaximum")) is not None and number >= high:
            number = high - least_step
        return float(number)

    def _string(self, schema: Mapping[str, JSON], name: str) -> str:
        if (example := _FORMATS.get(str(schema.get("format")))) is not None:
            return example
        text = self._prompt
        if self._place is not None and _names_place(name):
            text = self._place
        longest = _bound(schema, "maxLength")
        text = text.ljust(int(_bound(schema, "minLength") or 0), ".")
        return text if longest is None else text[: int(longest)]


_FORMATS: Final = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "email": "demo@example.org",
    "time": "00:00:00Z",
    "uri": "https://example.org/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
"""Strings of the formats that callers often check."""


def _list(schema: Mapping[str, JSON], key: str) -> list[JSON]:
    """A member that should be a list; anything else counts as absent."""
    value = schema.get(key)
    return value if isinstance(value, list) else []


def _required(schema: Mapping[str, JSON]) -> list[str]:
    return [name for name in _list(schema, "required") if isinstance(name, str)]


def _bound(schema: Mapping[str, JSON], key: str) -> float | None:
    """A member that should be a number; anything else, draft 4's booleans too, counts as absent."""
    value = schema.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _ref(schema: JSON) -> str | None:
    ref = schema.get("$ref") if isinstance(schema, dict) else None
    return ref if isinstance(ref, str) else None


def _find(root: JSON, ref: str) -> JSON:
    """What a reference like ``#/$defs/Name`` points to; ``None`` for anything not found."""
    found = root
    for step in ref.removeprefix("#").split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _json_text(value: JSON) -> str:
    """JSON with a space after each colon and comma, as models write it: words to stream and cut."""
    return msgspec.json.format(msgspec.json.encode(value), indent=0).decode()


def _quote(text: str) -> str:
    words = split_words(text)
    cut = "…" if len(words) > QUOTED_WORDS else ""
    return f'"{"".join(words[:QUOTED_WORDS]).strip()}{cut}"'


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
