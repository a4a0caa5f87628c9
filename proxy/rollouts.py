"""What reinforcement learning and evaluation need of a model's requests, beside their answers.

All of it happens to bodies between an exchange and its upstream, below both the translation and
the relay, so that callers of every dialect get the same.
"""

import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from backends.base import UpstreamReply, UpstreamRequest
from proxy import audio
from proxy.gathering import WholeReply, gather
from proxy.replies import read_error_body, whole_of
from proxy.settings import Model, Overflow, RewardRole, Upstream, speaks_of
from proxy.tables import Place, SettingsError
from translators.canonical import StopReason
from translators.chat import CODEC as CHAT
from translators.chat import empty as chat_empty
from translators.chat.additions import add_audio, add_candidates, ends_in_thought
from translators.chat.token_ids import ask, ask_for_prompt, read_prompt
from translators.completions import empty as completions_empty
from translators.errors import MalformedRequest, UpstreamProtocolError
from translators.token_ids import read_token_ids
from translators.wire import JSON, decode_object, encode

Send = Callable[[UpstreamRequest], Awaitable[UpstreamReply]]
_OVERFLOW = "context_length_exceeded"
_SETTINGS = ("token_ids", "context_overflow", "sequential_reasoning", "audio", "reward_roles")
_WITHOUT_MESSAGES = ("token_ids", "context_overflow")
"""Those that a Completions upstream, which is sent a prompt, can have too."""


@dataclass(frozen=True)
class Additions:
    """What ``metadata`` adds to a conversation.

    Attributes:
        audio: ``data:`` URLs, in order.
        candidates: Roles -> texts of the messages that a judge gets, in order.
    """

    audio: list[str] = field(default_factory=list)
    candidates: dict[str, str] = field(default_factory=dict)

    def add(self, messages: list[JSON]) -> list[JSON]:
        """Messages of a Chat request with the additions."""
        if self.audio:
            messages = add_audio(messages, self.audio)
        return add_candidates(messages, self.candidates)


NOTHING = Additions()


class Rollout:
    """The way of one model's requests to a Chat upstream.

    Attributes:
        token_ids: Whether replies carry token ids, and earlier turns go back with theirs.
    """

    def __init__(self, model: Model) -> None:
        """Do what a model's settings say."""
        self._model = model
        self.token_ids = model.token_ids

    async def take(self, body: bytes) -> tuple[bytes, Additions]:
        """A caller's request without what ``metadata`` says to us, and what that is.

        Args:
            body: The request, in any dialect.

        Raises:
            MalformedRequest: The request is no JSON object, or what ``metadata`` says is wrong.
        """
        if self._model.audio is None and not self._model.reward_roles:
            return body, NOTHING
        document = decode_object(body)
        metadata = document.get("metadata")
        if not isinstance(metadata, dict):
            return body, NOTHING
        urls = []
        ours: set[str] = set(self._model.reward_roles)
        if self._model.audio is not None:
            urls = await audio.read_audio(metadata, self._model.audio)
            ours.update(audio.MEMBERS)
        additions = Additions(urls, self._read_candidates(metadata))
        document["metadata"] = {k: v for k, v in metadata.items() if k not in ours}
        if not document["metadata"]:
            del document["metadata"]
        return encode(document), additions

    def _read_candidates(self, metadata: Mapping[str, JSON]) -> dict[str, str]:
        roles = self._model.reward_roles
        if not roles:
            return {}
        for name in RewardRole:
            value, param = metadata.get(name), f"metadata.{name}"
            if value is None:
                continue
            if name not in roles:
                raise MalformedRequest(
                    f"Invalid '{param}': this model knows no such role.", param=param
                )
            if not isinstance(value, str):
                raise MalformedRequest(f"Invalid '{param}': expected a string.", param=param)
        found = {role.value: metadata[role] for role in roles if metadata.get(role) is not None}
        if not found.get(RewardRole.PRINCIPLE):
            found.pop(RewardRole.PRINCIPLE, None)
        return found

    async def send(
        self, request: UpstreamRequest, additions: Additions, send: Send
    ) -> UpstreamReply:
        """Send a request; the reply is the upstream's, changed as the settings say.

        A Completions request asks for token ids itself, since it is always translated.

        Args:
            request: The request as it would be sent without these settings.
            additions: What its ``metadata`` said.
            send: Sends a request to the upstream.

        Raises:
            CallerError: The request excludes what the settings say.
            BackendError: The upstream gave no reply, or broke off.
            UpstreamProtocolError: Its token ids are incomplete, or contradict each other.
        """
        body = decode_object(request.body)
        messages = body.get("messages")
        if isinstance(messages, list):
            body["messages"] = messages = additions.add(messages)
            if not self._model.sequential_reasoning and ends_in_thought(messages):
                return _empty(request.path, body, StopReason.CONTENT_FILTER)
        asked = None
        if self.token_ids and request.path == CHAT.path:
            _check_token_ids(messages)
            body, asked = ask(body)
        request = msgspec.structs.replace(request, body=encode(body))
        reply = await send(request)
        if reply.status >= 400:
            if self._model.context_overflow is None:
                return reply
            return await self._refused(request.path, reply, body)
        if asked is None:
            return reply
        return await gather(reply, asked, partial(_tokenize, request, body, send))

    async def _refused(
        self, path: str, reply: UpstreamReply, body: dict[str, JSON]
    ) -> UpstreamReply:
        """An error; one of a prompt that is too long becomes what the settings say."""
        try:
            content = await read_error_body(reply)
        finally:
            await reply.aclose()
        error = CHAT.read_error(reply.status, content)
        if error.code != _OVERFLOW:
            return WholeReply(reply.status, reply.headers, content)
        if self._model.context_overflow is Overflow.INCOMPLETE:
            return _empty(path, body, StopReason.LENGTH)
        return WholeReply(400, reply.headers, encode(CHAT.write_error(error)))


def rollout_of(model: Model) -> Rollout | None:
    """What a model's settings ask for, ``None`` if it is nothing that concerns rollouts."""
    return Rollout(model) if _settings_of(model) else None


def check_rollout(model: Model, upstream: Upstream, at: str, place: Place) -> None:
    """Check what a model's settings ask for.

    Args:
        model: The model.
        upstream: The upstream that serves it.
        at: The model's dotted path in the settings.
        place: The settings' file.

    Raises:
        SettingsError: The upstream cannot do it, or the folder is none.
    """
    spoken = model.speaks or speaks_of(upstream)
    allowed = {"chat": _SETTINGS, "completions": _WITHOUT_MESSAGES}.get(spoken, ())
    for name in _settings_of(model):
        if name not in allowed:
            more = " or Completions" if name in _WITHOUT_MESSAGES else ""
            raise SettingsError(
                f"{place.of(f'{at}.{name}')}: only for upstreams that are spoken to in Chat{more}; "
                f"set 'speaks' of the model, or of upstreams.{model.upstream}, to 'chat'"
            )
    root = None if model.audio is None else model.audio.root
    if root is not None and not Path(root).expanduser().is_dir():
        raise SettingsError(f"{place.of(f'{at}.audio.root')}: there is no folder '{root}'")


def _settings_of(model: Model) -> list[str]:
    """The settings of a model that concern rollouts and are not at their default."""
    plain = Model(name=model.name)
    return [name for name in _SETTINGS if getattr(model, name) != getattr(plain, name)]


def _check_token_ids(messages: JSON) -> None:
    for i, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, dict):
            read_token_ids(message, f"messages[{i}]")


def _empty(path: str, body: dict[str, JSON], stop: StopReason) -> UpstreamReply:
    """A reply in the upstream's place, in which nothing is said."""
    write = chat_empty.write_empty if path == CHAT.path else completions_empty.write_empty
    is_stream = body.get("stream") is True
    kind = "text/event-stream; charset=utf-8" if is_stream else "application/json"
    content = write(
        f"chatcmpl-{uuid.uuid4().hex}",
        int(time.time()),
        body.get("model"),
        stop,
        is_stream=is_stream,
    )
    return WholeReply(200, {"content-type": kind}, content)


async def _tokenize(request: UpstreamRequest, body: dict[str, JSON], send: Send) -> list[int]:
    """The prompt's token ids, of versions of vLLM that do not give them with the reply.

    Raises:
        BackendError: The upstream gave no reply.
        UpstreamProtocolError: It gave no token ids.
    """
    question = msgspec.structs.replace(
        request,
        path="/tokenize",
        body=encode(ask_for_prompt(body)),
        is_at_root=True,
        is_aside=True,
    )
    reply = await send(question)
    try:
        content = await whole_of(reply)
    finally:
        await reply.aclose()
    if reply.status != 200:
        raise UpstreamProtocolError(
            "The upstream gave no token ids of the prompt, and its /tokenize answered with status "
            f"{reply.status}."
        )
    return read_prompt(decode_object(content, UpstreamProtocolError))
