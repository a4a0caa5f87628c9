"""The chunks of a Chat stream, put together.

Spec: Chat Completions, "The chat completion chunk object" and "The chat completion object".
"""

from collections.abc import Sequence
from typing import Any

from translators.envelope import is_error
from translators.errors import UpstreamProtocolError
from translators.sse import Frame
from translators.wire import JSON, decode, encode

_PADDING = "obfuscation"
_WORDS = frozenset({"role", "type", "id", "index"})
"""Members that come whole; all other texts grow."""


class _Pieces(list[str]):
    """A text that grows."""


class ChatFold:
    """Folds chunks into a reply with all its choices; see ``streams.Fold``."""

    def __init__(self) -> None:
        """Make a fold of one stream."""
        self.has_content = False
        self._is_done = False
        self._error: JSON = None
        self._members: dict[str, JSON] = {}
        self._choices: dict[int, _Choice] = {}

    @property
    def ending(self) -> str | None:
        """How the stream ended; without ``[DONE]`` every choice has to have a reason."""
        if self._error is not None:
            return "error"
        reasons = [choice.members.get("finish_reason") for choice in self._choices.values()]
        return "complete" if self._is_done or (reasons and all(reasons)) else None

    def feed(self, frame: Frame) -> None:
        """Fold one frame."""
        if frame.data == b"[DONE]":
            self._is_done = True
            return
        chunk = decode(frame.data, UpstreamProtocolError)
        if is_error(chunk, "choices") or frame.event == "error":
            self._error = chunk.get("error", chunk) if isinstance(chunk, dict) else chunk
            return
        if not isinstance(chunk, dict):
            raise UpstreamProtocolError("A frame of the stream is not an object.")
        for choice in chunk.pop("choices", None) or ():
            if not isinstance(choice, dict):
                raise UpstreamProtocolError("A choice of the stream is not an object.")
            self._fold_choice(choice)
        if None in chunk.values():
            chunk = {n: v for n, v in chunk.items() if v is not None or n not in self._members}
        self._members.update(chunk)

    def skip_to_end(self, rest: Sequence[bytes]) -> bool:
        """No chunk tells of those before it."""
        return False

    def document(self) -> bytes | None:
        """The reply as one line of JSON; what ended it is ``error``."""
        if not self._members and self._error is None:
            return None
        body = {name: value for name, value in self._members.items() if name != _PADDING}
        if body.get("object") == "chat.completion.chunk":
            body["object"] = "chat.completion"
        if self._members:
            body["choices"] = [
                {"index": index, **self._choices[index].whole()} for index in sorted(self._choices)
            ]
        if self._error is not None:
            body["error"] = self._error
        return encode(body)

    def _fold_choice(self, choice: dict[str, JSON]) -> None:
        index = choice.pop("index", None) or 0
        found = self._choices.get(index)
        if found is None:
            found = self._choices[index] = _Choice()
        delta = choice.pop("delta", None) or choice.pop("message", None)
        if isinstance(delta, dict):
            if not self.has_content:
                self.has_content = any(v for name, v in delta.items() if name != "role")
            found.fold_delta(delta)
        found.fold_members(choice)


class _Choice:
    """One choice; lists beside the delta, such as token ids and log-probs, grow."""

    def __init__(self) -> None:
        self.members: dict[str, JSON] = {}
        self._message: dict[str, Any] = {}
        self._calls: list[dict[str, Any]] = []

    def fold_delta(self, delta: dict[str, JSON]) -> None:
        for entry in delta.pop("tool_calls", None) or ():
            if isinstance(entry, dict):
                _merge(self._find_call(entry), entry)
        _merge(self._message, delta)

    def fold_members(self, members: dict[str, JSON]) -> None:
        _grow(self.members, members)

    def whole(self) -> dict[str, JSON]:
        message: dict[str, JSON] = {"role": "assistant", "content": None}
        message |= _whole(self._message)
        if self._calls:
            message["tool_calls"] = [_whole_call(call) for call in self._calls]
        others = (value for name, value in message.items() if name not in ("role", "content"))
        if not message["content"] and any(others):
            message["content"] = None  # the first chunk's "", which whole replies do not have
        return {"message": message, **self.members}

    def _find_call(self, entry: dict[str, JSON]) -> dict[str, Any]:
        """The call that an entry goes on with, by index, else by id; a new one if there is none."""
        index, call_id = entry.get("index"), entry.get("id")
        found = None
        for call in self._calls:  # of several, the one that began last
            is_its = not call_id or call.get("id") == call_id
            if call.get("index") == index if index is not None else is_its:
                found = call
        if found is None or _is_another(found, entry):
            found = {}
            self._calls.append(found)
        return found


def _is_another(call: dict[str, Any], entry: dict[str, JSON]) -> bool:
    """Whether an index is used again; some servers merely make up a new id for each chunk."""
    body = entry.get("function") or entry.get("custom") or {}
    return bool(entry.get("id") and body.get("name") and call.get("id") not in (None, entry["id"]))


def _whole_call(call: dict[str, Any]) -> dict[str, JSON]:
    whole = {"id": None, "type": "custom" if "custom" in call else "function"} | _whole(call)
    whole.pop("index", None)
    return whole


def _grow(target: dict[str, Any], members: dict[str, JSON]) -> None:
    """Lists grow; of anything else the last one counts."""
    for name, value in members.items():
        before = target.get(name)
        if isinstance(value, list) and isinstance(before, list):
            before += value
        elif isinstance(value, dict) and isinstance(before, dict):
            _grow(before, value)
        elif value is not None or name not in target:
            target[name] = value


def _merge(target: dict[str, Any], delta: dict[str, JSON]) -> None:
    """Texts and lists grow."""
    for name, value in delta.items():
        before = target.get(name)
        if value is None:
            target.setdefault(name, None)
        elif isinstance(value, str):
            if name in _WORDS:
                target[name] = before or value
            elif isinstance(before, list) and not isinstance(before, _Pieces):
                _add_text(before, value)
            elif isinstance(before, _Pieces):
                if name != "name" or before != [value]:  # some repeat a call's name
                    before.append(value)
            else:
                target[name] = _Pieces([value])
        elif isinstance(value, dict):
            if not isinstance(before, dict):
                before = target[name] = {}
            _merge(before, value)
        elif isinstance(value, list) and isinstance(before, _Pieces):
            target[name] = [*([{"type": "text", "text": before}] if any(before) else []), *value]
        elif isinstance(value, list) and isinstance(before, list):
            before += value
        else:
            target[name] = value


def _add_text(parts: list[Any], text: str) -> None:
    """Go on with a content of parts, where some servers put texts between them."""
    match parts:
        case [*_, {"type": "text", "text": _Pieces() as pieces}]:
            pieces.append(text)
        case _ if text:
            parts.append({"type": "text", "text": _Pieces([text])})


def _whole(members: dict[str, Any]) -> dict[str, JSON]:
    """The members with their texts joined."""
    found: dict[str, JSON] = {}
    for name, value in members.items():
        if isinstance(value, _Pieces):
            value = "".join(value)
        elif isinstance(value, dict):
            value = _whole(value)
        elif name == "content" and isinstance(value, list):
            value = [_whole(part) if isinstance(part, dict) else part for part in value]
        found[name] = value
    return found
