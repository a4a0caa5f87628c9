"""JSON at the edges: decode, open, encode, and peek.

Documents are decoded once to builtins and then *opened* object by object: a Struct that names the
members we read is filled, and the members it does not name are kept beside it, because msgspec
drops undeclared members and its tagged unions refuse unknown tags.
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeAlias, TypeVar

import msgspec

from translators.errors import MalformedRequest, TranslationError

JSON: TypeAlias = Any
"""A decoded JSON value: ``dict``, ``list``, ``str``, ``int``, ``float``, ``bool`` or ``None``."""

S = TypeVar("S", bound=msgspec.Struct)

_convert = msgspec.convert
_decode = msgspec.json.Decoder().decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encoder = msgspec.json.Encoder()
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for a text that is not JSON or does not fit a type."""
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_MISSING = re.compile(r"^Object missing required field `(?P<name>.*)`$")
_JSON_NAMES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
_TYPE_NAME = re.compile(rf"\b(?:{'|'.join(_JSON_NAMES)})\b")
_AT_PATH = re.compile(r"^(?P<what>.*?)(?: - at `(?:key in )?\$(?P<path>[^`]*)`)?$", re.DOTALL)

encode = _encoder.encode
"""Encode a JSON value as UTF-8 text."""


class Peek(msgspec.Struct):
    """The members of a request that decide its way.

    ``is_responses`` says that it has an ``input`` and no ``messages``, whatever path it came to;
    ``is_strict`` that it is JSON for strict readers, too, but for bytes that are no UTF-8.
    """

    model: JSON = None
    stream: JSON = None
    is_responses: bool = False
    metadata: JSON = None
    is_strict: bool = False


class _Head(msgspec.Struct):
    model: JSON = None
    stream: JSON = None
    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    messages: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    metadata: JSON = None


_read_head = msgspec.json.Decoder(_Head).decode


def decode(body: bytes, fault: type[TranslationError] = MalformedRequest) -> JSON:
    """Decode JSON text; escaped lone surrogates become U+FFFD.

    Byte-level tokens can leave half of a surrogate pair in a text. msgspec refuses such a body,
    so it is decoded once more with the standard library.

    Raises:
        TranslationError: Of class ``fault``; the body is not JSON.
    """
    try:
        return _decode(body)
    except UNREADABLE as error:
        return _decode_leniently(body, error, fault)


def _decode_leniently(body: bytes, error: Exception, fault: type[TranslationError]) -> JSON:
    if b"\\u" in body:
        try:
            return _replace_surrogates(json.loads(body))
        except (ValueError, RecursionError):
            pass
    if isinstance(error, RecursionError):
        raise fault("The body is nested too deeply.") from error
    raise fault(f"The body is not valid JSON: {error}.") from error


def _replace_surrogates(value: JSON) -> JSON:
    if isinstance(value, str):
        return _LONE_SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_replace_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_replace_surrogates(key): _replace_surrogates(v) for key, v in value.items()}
    return value


def decode_object(body: bytes, fault: type[TranslationError] = MalformedRequest) -> dict[str, JSON]:
    """Decode JSON text that has to be an object.

    Raises:
        TranslationError: Of class ``fault``; the body is not JSON or not an object.
    """
    value = decode(body, fault)
    if not isinstance(value, dict):
        raise fault(f"The body must be a JSON object, not {kind_of(value)}.")
    return value


def is_json(text: str) -> bool:
    """Whether a text, such as a call's arguments, is complete JSON."""
    return _parse(text) is not msgspec.UNSET


def is_object(text: str) -> bool:
    """Whether a text is a complete JSON object."""
    return isinstance(_parse(text), dict)


def _parse(text: str) -> JSON:
    try:
        return _decode(text)
    except (*UNREADABLE, UnicodeEncodeError):
        pass
    try:
        return decode(text.encode("utf-8", "replace"))
    except MalformedRequest:
        return msgspec.UNSET


def peek(body: bytes) -> Peek:
    """Read what decides a request's way without reading the rest.

    Raises:
        MalformedRequest: The body is not a JSON object.
    """
    try:
        head = _read_head(body)
    except UNREADABLE:
        value = decode_object(body)
        is_responses = "input" in value and "messages" not in value
        return Peek(value.get("model"), value.get("stream"), is_responses, value.get("metadata"))
    is_responses = head.input is not msgspec.UNSET and head.messages is msgspec.UNSET
    return Peek(head.model, head.stream, is_responses, head.metadata, True)


def open_members(body: bytes) -> dict[str, JSON]:
    """The members of a JSON object, each still as the bytes it came in (``msgspec.Raw``).

    Encoded again, members that nobody touched are what they were. A body with lone surrogates is
    decoded.

    Raises:
        MalformedRequest: The body is not a JSON object.
    """
    try:
        return dict(_decode_members(body))
    except UNREADABLE:
        return decode_object(body)


def read_member(value: JSON) -> JSON:
    """A member's value, decoded if it is not yet."""
    return decode(bytes(value)) if isinstance(value, msgspec.Raw) else value


@cache
def known_members(cls: type[msgspec.Struct]) -> frozenset[str]:
    """The wire names of a Struct's fields."""
    return frozenset(cls.__struct_encode_fields__)


def open_as(
    cls: type[S], value: JSON, path: str, fault: type[TranslationError] = MalformedRequest
) -> S:
    """Fill a Struct from a decoded object, ignoring members the Struct does not name.

    Args:
        cls: Struct to fill; its members accept ``None`` where the wire accepts ``null``.
        value: Decoded JSON value.
        path: Path of ``value`` in its body, for errors.
        fault: Error class to raise.

    Raises:
        TranslationError: Of class ``fault``; ``param`` is the path of the offending member.
    """
    try:
        return _convert(value, cls)
    except msgspec.ValidationError as error:
        match = _AT_PATH.match(str(error))
        what, tail = (match["what"], match["path"] or "") if match else (str(error), "")
        param = (path + tail).removeprefix(".")
        if missing := _MISSING.match(what):
            param = f"{param}.{missing['name']}".removeprefix(".")
            raise fault(f"Missing required parameter: '{param}'.", param=param) from error
        raise fault(f"Invalid '{param}': {_sentence(what)}.", param=param) from error


def extra_of(value: Mapping[str, JSON], known: frozenset[str]) -> dict[str, JSON]:
    """Members that ``known`` does not name and that are not ``null``."""
    if known.issuperset(value):
        return {}
    return {name: v for name, v in value.items() if name not in known and v is not None}


def kind_of(value: JSON) -> str:
    """The JSON name of a value's type, with its article."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"


def _sentence(text: str) -> str:
    text = _TYPE_NAME.sub(lambda match: _JSON_NAMES[match[0]], text.replace("`", "'"))
    return text[:1].lower() + text[1:]
