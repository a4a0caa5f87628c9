"""Custom (free text) tools on upstreams that know functions only.

A custom tool goes out as a function with one string, ``input``. The model's arguments are JSON
then, and the caller gets the bare text back, in streams as it arrives.

Spec: Responses, "tools", ``custom``; Chat Completions, "tool_calls", ``function.arguments``.
"""

import re

import msgspec

from translators.canonical import CustomTool
from translators.chat.grammars import read_grammar
from translators.errors import UpstreamProtocolError
from translators.wire import JSON, decode, encode

_OPENING = re.compile(r'\s*\{\s*"input"\s*:\s*"')
_MAYBE_OPENING = re.compile(
    r'\s*(?:\{\s*(?:"(?:i(?:n(?:p(?:u(?:t(?:"\s*(?::\s*"?)?)?)?)?)?)?)?)?)?$'
)
_PLAIN = re.compile(r'[^"\\]+')
_LONGEST_ESCAPE = 12  # a surrogate pair
_WRAP = "Put the tool's whole free-form text into 'input', as it is."
_ANSWER = "Call it now: answer with the tool's whole free-form text and with nothing else."
_PARAMETERS: JSON = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}


def as_function(tool: CustomTool, name: str, *, is_bound: bool = False) -> dict[str, JSON]:
    """``function`` of a custom tool; its grammar is told in the description.

    Args:
        tool: The custom tool.
        name: Its name at the upstream.
        is_bound: Whether the text of the answer is the tool's input, and not arguments.
    """
    lines = [tool.description] if tool.description else []
    lines.append(_ANSWER if is_bound else _WRAP)
    grammar = read_grammar(tool)
    if grammar is not None:
        syntax, definition = grammar
        lines.append(f"The text has to match this {syntax} grammar:\n{definition}")
    return {"name": name, "description": "\n\n".join(lines), "parameters": _PARAMETERS}


def wrap(text: str) -> str:
    """Free text as the arguments of its function."""
    return encode({"input": text}).decode()


def unwrap(arguments: str) -> str:
    """The free text in a function's arguments; what has another shape stays as it is.

    Of arguments that were cut it is the text as far as it goes.
    """
    try:
        value = decode(arguments.encode("utf-8", "replace"), UpstreamProtocolError)
    except UpstreamProtocolError:
        decoder = InputDecoder()
        text = decoder.feed(arguments)
        return text if decoder.is_inside else arguments
    match value:
        case {"input": str(text)}:
            return text
        case str(text):
            return text
        case dict() if not value:
            return ""
    return arguments


class InputDecoder:
    """Decodes ``{"input": "..."}`` piece by piece into the text it holds.

    Arguments of another shape are kept until the end and then unwrapped as a whole; ``is_inside``
    says that they have not.
    """

    def __init__(self) -> None:
        """Make a decoder for one call."""
        self._pending = ""
        self.is_inside = False
        self._is_over = False

    def feed(self, piece: str) -> str:
        """The text that this piece of the arguments makes certain."""
        if self._is_over:
            return ""
        self._pending += piece
        if not self.is_inside:
            opening = _OPENING.match(self._pending)
            if opening is None:
                if not _MAYBE_OPENING.match(self._pending):
                    self._is_over = True
                return ""
            self.is_inside = True
            self._pending = self._pending[opening.end() :]
        return self._decode()

    def finish(self, arguments: str) -> str:
        """The text that remains at the end of a call with these whole arguments."""
        if not self.is_inside:
            return unwrap(arguments) if arguments.strip() else ""
        return ""

    def _decode(self) -> str:
        out: list[str] = []
        text, at = self._pending, 0
        while at < len(text):
            if plain := _PLAIN.match(text, at):
                out.append(plain[0])
                at = plain.end()
            elif text[at] == '"':
                self._is_over = True
                at = len(text)
            else:
                escape = text[at : at + _LONGEST_ESCAPE]
                length = _escape_length(escape)
                if length is None:
                    break
                out.append(_unescape(escape[:length]))
                at += length
        self._pending = text[at:]
        return "".join(out)


def _escape_length(text: str) -> int | None:
    """Length of the escape sequence at the start of a text, ``None`` if it is not whole yet.

    The first half of a surrogate pair waits for what follows it.
    """
    if len(text) < 2:
        return None
    if text[1] != "u":
        return 2
    if len(text) < 6:
        return None
    is_high = text[2:4].lower() in ("d8", "d9", "da", "db")
    if not is_high:
        return 6
    follows = text[6:8]
    if follows and not "\\u".startswith(follows):
        return 6
    if len(text) < 12:
        return None if len(follows) < 2 or follows == "\\u" else 6
    is_low = text[8:10].lower() in ("dc", "dd", "de", "df")
    return 12 if is_low else 6


def _unescape(sequence: str) -> str:
    try:
        return str(msgspec.json.decode(f'"{sequence}"'))
    except msgspec.DecodeError:
        return "\ufffd" if sequence.startswith("\\u") else sequence[1:]
