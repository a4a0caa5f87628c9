"""To which session a request belongs: the key by which replicas are chosen.

Keys are compared as they are, never by prefix, and begin with their kind, so that the same value
of two kinds makes two sessions.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from translators.errors import MalformedRequest
from translators.wire import JSON, decode, decode_object, encode

_HEADERS = (
    *(b"x-session-id", b"session-id", b"session_id", b"thread-id", b"conversation_id"),
    b"x-dragoman-rollout",
)
_COOKIE = "Dragoman___session"
_MEMBERS = ("prompt_cache_key", "previous_response_id")
_LONGEST = 512
_NULL = msgspec.Raw(b"null")


class _Turn(msgspec.Struct, gc=False):
    """An item or message, its content unread."""

    role: JSON = None
    content: msgspec.Raw = _NULL


class _Opening(msgspec.Struct):
    """The members of a request, of either dialect, that tell its session."""

    model: JSON = None
    prompt_cache_key: JSON = None
    previous_response_id: JSON = None
    instructions: JSON = None
    input: str | list[_Turn] | None = None
    messages: list[_Turn] | None = None


_skim = msgspec.json.Decoder(_Opening).decode


def session_of(
    headers: Sequence[tuple[bytes, bytes]], request: bytes | Mapping[str, JSON]
) -> str | None:
    """The key of a request's session, ``None`` if nothing tells it.

    The first of these that is there: a session header, the session in a cookie, ours or NeMo Gym's,
    ``prompt_cache_key``, ``previous_response_id``, else a hash of model, instructions (or first
    system message) and first user message.

    Args:
        headers: The caller's headers, with lower-case names.
        request: The caller's request, as JSON text or decoded; both give the same key.
    """
    found = dict(headers)  # of several with one name the last counts
    for name in _HEADERS:
        if value := found.get(name):
            return _key(name.decode(), value.decode("latin-1"))
    if b"cookie" in found and (session := _read_cookie(found[b"cookie"].decode("latin-1"))):
        return _key("cookie", session)
    return _read_body(request)


def _key(kind: str, value: str) -> str:
    """A key of its kind; a long one is hashed, since keys are remembered and callers make them."""
    if len(value) > _LONGEST:
        value = hashlib.blake2b(value.encode(), digest_size=16).hexdigest()
    return f"{kind}:{value}"


def is_guessed(session: str | None) -> bool:
    """Whether nothing names the session, so that it shares its key with all that begin alike."""
    return session is None or session.startswith("prefix:")


def name_session(name: str) -> tuple[str, tuple[bytes, bytes]]:
    """The key of a new session, and the header that gives it to the caller as a cookie."""
    state = base64.b64encode(encode({"session_id": name})).decode()
    cookie = f"{_COOKIE}={state}; Path=/; HttpOnly; SameSite=Lax"
    return f"cookie:{name}", (b"set-cookie", cookie.encode())


def _read_cookie(cookie: str) -> str | None:
    """The session in NeMo Gym's cookie, or in ours, which is like it but for the signature.

    The cookie is named ``<class>___<server>``. Its value, ``<base64 of JSON>.<time>.<signature>``,
    is signed anew for each reply, so only the JSON's ``session_id`` stays. The signature is not
    checked: its key is no secret, and to be sent to a replica is no privilege.
    """
    for pair in sorted(pair.strip() for pair in cookie.split(";")):
        name, _, value = pair.partition("=")
        if "___" not in name:
            continue
        try:
            state = decode(base64.b64decode(value.strip('"').partition(".")[0], validate=True))
        except (ValueError, MalformedRequest):
            continue
        session = state.get("session_id") if isinstance(state, dict) else None
        if session and isinstance(session, str):
            return session
    return None


def _read_body(request: bytes | Mapping[str, JSON]) -> str | None:
    turns: Iterable[tuple[JSON, JSON]]
    if isinstance(request, bytes):
        try:
            opening = _skim(request)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return _read_oddity(request)
        members = {name: getattr(opening, name) for name in ("model", "instructions", *_MEMBERS)}
        source = opening.input if opening.messages is None else opening.messages
        turns = ((turn.role, turn.content) for turn in source or () if isinstance(turn, _Turn))
    else:
        members = dict(request)
        source = request.get("messages")
        source = request.get("input") if source is None else source
        items = source if isinstance(source, list) else ()
        turns = ((i.get("role"), i.get("content")) for i in items if isinstance(i, dict))
    for name in _MEMBERS:
        if (value := members.get(name)) and isinstance(value, str):
            return _key(name, value)
    if isinstance(source, str):
        turns = [("user", source)]
    return _hash_prefix(members.get("model"), members.get("instructions"), turns)


def _read_oddity(body: bytes) -> str | None:
    """The key in JSON that cannot be skimmed: lone surrogates, unexpected types, or none at all."""
    try:
        return _read_body(decode_object(body))
    except MalformedRequest:
        return None  # the upstream will say so


def _hash_prefix(model: JSON, instructions: JSON, turns: Iterable[tuple[JSON, JSON]]) -> str | None:
    """The key of a conversation by what does not change as it grows; no user message, no key."""
    for role, content in turns:
        if role == "user":
            try:
                prefix = encode([model, _texts(instructions), _texts(content)])
            except MalformedRequest:  # a text of skimmed JSON; the upstream will say so
                return None
            return f"prefix:{hashlib.blake2b(prefix, digest_size=16).hexdigest()}"
        if role in ("system", "developer") and instructions is None:
            instructions = content
    return None


def _texts(content: JSON) -> list[JSON]:
    """A content's texts: a string and a single part that holds it are the same."""
    if isinstance(content, msgspec.Raw):
        content = decode(bytes(content))
    parts = content if isinstance(content, list) else [content]
    return [part.get("text", part) if isinstance(part, dict) else part for part in parts]
