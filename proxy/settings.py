"""What an operator can set, and where from: defaults, a TOML file, the environment, flags."""

import os
import shlex
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from backends.azure import Auth, Form
from backends.vllm_command import printable, printable_flags
from translators.profiles import PROFILES, Policy, Profile, Render
from translators.wire import JSON

DEFAULT = "default"
"""Name of the upstream that flags and ``DRAGOMAN_*`` variables describe."""

NAMES_UPSTREAM = ("url", "preset", "vllm.model")
"""Members of an upstream with which flags and variables say which one it is."""

S = TypeVar("S", bound=msgspec.Struct)

Name = Annotated[str, Meta(min_length=1)]

Limit = Annotated[float, Meta(gt=0)]
"""A duration in seconds."""


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the proxy listens, and what it accepts.

    Attributes:
        host: Address to listen on.
        port: TCP port; 0 takes a free one.
        max_body_bytes: Largest request body, after decompression.
        heartbeat_s: Seconds of silence after which a translated stream shows that it is alive;
            0 for never.
        reasoning_key_env: Environment variable with the secret that seals reasoning and summaries;
            without one they can be read until the proxy stops.
        drain_s: Seconds that open requests may take when the proxy stops.
        relay: Endpoints of the upstreams that are relayed, such as ``/v1/embeddings`` or
            ``GET /version``; ``default`` stands for the usual ones.
        workers: Processes that share the port.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    max_body_bytes: Annotated[int, Meta(ge=1)] = 64 * 1024 * 1024
    drain_s: Annotated[float, Meta(ge=0)] = 5.0
    heartbeat_s: Annotated[float, Meta(ge=0)] = 15.0
    reasoning_key_env: str | None = None
    relay: tuple[str, ...] = ("default",)
    workers: Annotated[int, Meta(ge=1, le=64)] = 1


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the log looks: ``format`` is ``auto`` (JSON unless on a terminal), ``json``, ``console``.

    ``level`` is ``debug``, ``info``, ``warning`` or ``error``.
    """

    level: str = "info"
    format: str = "auto"


class VLLM(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A vLLM to spawn.

    Attributes:
        model: What vLLM calls the model: a folder or a repository.
        python: Interpreter of another environment that has vLLM, or its ``vllm`` script.
        flags: vLLM's flags by name, such as ``tensor_parallel_size``. In a file they may stand
            beside the settings as well.
        args: Further arguments; they win over the flags.
        env: More environment variables.
        hf_home: Folder of Hugging Face's cache, for models and token.
        log_file: File to which vLLM's whole output is appended.
        stall_timeout_s: The start failed if vLLM logs nothing for so long.
        health_interval_s: Pause between two questions for its health.
        health_failures: So many bad answers in a row make it unhealthy.
        engine_stall_timeout_s: So long may requests be open while its engine does nothing before
            the engine is asked for one token; 0 for any time.
        engine_answer_timeout_s: It is unhealthy if the engine has not answered then.
        restart: Whether it is restarted after it exited or became unhealthy.
        restart_backoff_s: Pause before the first restart; each further one doubles it.
        restart_backoff_cap_s: The longest pause.
        restart_wait_s: So long may a request wait for a restart; with 0 it is refused at once.
    """

    model: Name
    python: str | None = None
    flags: dict[str, JSON] = {}
    args: list[str] = []
    env: dict[str, str] = {}
    hf_home: str | None = None
    log_file: str | None = None
    stall_timeout_s: Limit = 600.0
    health_interval_s: Limit = 5.0
    health_failures: Annotated[int, Meta(ge=1)] = 3
    engine_stall_timeout_s: Annotated[float, Meta(ge=0)] = 120.0
    engine_answer_timeout_s: Limit = 30.0
    restart: bool = True
    restart_backoff_s: Limit = 1.0
    restart_backoff_cap_s: Limit = 60.0
    restart_wait_s: Annotated[float, Meta(ge=0)] = 30.0


class Azure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An Azure OpenAI resource.

    Attributes:
        endpoint: The resource, such as ``https://name.openai.azure.com``.
        form: ``v1`` (``/openai/v1/...``) or ``deployments`` (``/openai/deployments/...``).
        api_version: Date of the API, or ``preview``; ``deployments`` needs one.
        deployment: Deployment for all requests; else the upstream's model name is that of one.
        auth: Whether the upstream's key is an ``api-key`` or a ``bearer`` token.
    """

    endpoint: str
    form: Form = Form.V1
    api_version: str | None = None
    deployment: str | None = None
    auth: Auth = Auth.API_KEY


class Upstream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One upstream: a URL, the URLs of replicas, Azure, a vLLM to spawn, or the embedded demo.

    Attributes:
        preset: A known provider or server, whose members hold where these are absent.
        url: API root, such as ``http://127.0.0.1:8000/v1``.
        urls: API roots of servers that serve the same.
        eject_after: Consecutive failures after which one of ``urls`` is left out for a while.
        session_cookie: Whether callers that name no session get a cookie, by which they come back
            to the same of ``urls``.
        health_interval_s: Pause between two questions for the health of all ``urls``; 0 for never.
        drain_file: A file that lists those of ``urls`` that are to get no new sessions.
        azure: An Azure OpenAI resource.
        vllm: A vLLM to spawn.
        demo: Whether it is the embedded demo.
        speaks: ``chat``, ``responses``, ``completions``, ``both``, which follows the caller, or
            ``auto``, which asks the upstream once.
        render: How a conversation becomes the prompt of ``completions``: ``raw`` or
            ``chat-template``; as the profile says if absent.
        key: Key to send; never shown.
        key_env: Environment variable that holds the key.
        profile: Name of the profile that says how it wants to be spoken to.
        overrides: Members of the profile that differ.
        connect_timeout_s: Limit for making a connection.
        read_timeout_s: Limit for the silence between two reads.
        max_concurrent: Most requests that are open at one server; no limit if absent.
        queue_limit: Most requests that wait for one server; with 0 none does.
        queue_timeout_s: So long may a request wait for its turn.
    """

    preset: str | None = None
    url: str | None = None
    urls: Annotated[list[str], Meta(min_length=1)] | None = None
    azure: Azure | None = None
    vllm: VLLM | None = None
    demo: bool = False
    speaks: str = "auto"
    render: str | None = None
    key: str | None = None
    key_env: str | None = None
    profile: str = "vllm"
    overrides: dict[str, JSON] = {}
    eject_after: Annotated[int, Meta(ge=1)] = 3
    session_cookie: bool = False
    health_interval_s: Annotated[float, Meta(ge=0)] = 5.0
    drain_file: str | None = None
    connect_timeout_s: Limit = 10.0
    read_timeout_s: Limit = 600.0
    max_concurrent: Annotated[int, Meta(ge=1)] | None = None
    queue_limit: Annotated[int, Meta(ge=0)] = 10_000
    queue_timeout_s: Limit = 600.0


class Overflow(StrEnum):
    """What a caller gets whose prompt is too long."""

    ERROR = "error"
    """A 400 with the code ``context_length_exceeded``."""
    INCOMPLETE = "incomplete"
    """An empty reply that the limit cut."""


class RewardRole(StrEnum):
    """A role that only the templates of judges know."""

    PRINCIPLE = "principle"
    RESPONSE_1 = "response_1"
    RESPONSE_2 = "response_2"


class Audio(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Audio that requests name in ``metadata``.

    Attributes:
        root: Folder in which files may be named; without one only ``data:`` URIs are taken.
        max_bytes: Most that the files of one request may have together.
    """

    root: str | None = None
    max_bytes: Annotated[int, Meta(ge=1)] = 32 * 1024 * 1024


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A public model name, or many.

    Attributes:
        name: What callers ask for; ``*`` in it stands for any text.
        upstream: The upstream that serves it.
        upstream_model: What the upstream calls it; the same name if absent.
        speaks: ``chat``, ``responses`` or ``completions``, where it differs from the upstream's.
        relay: Whether requests in the upstream's own dialect pass as they are; else they are
            translated like all others, so that profile and policy hold for them.
        defaults: Request members to add where the caller is silent, in the upstream's dialect.
        sets: Request members to set whatever the caller says, in the upstream's dialect.
        chat_template_kwargs: Arguments for the chat template, below those of the caller.
        reasoning: Whether it is to reason, whatever the caller says.
        overrides: Members of the upstream's profile that differ.
        policy: Members of the policy that differ.
        headers: More headers for the upstream; never shown.
        headers_env: The same, from environment variables.
        token_ids: Whether replies carry token ids and log-probs, and earlier turns go back with
            theirs.
        context_overflow: What a caller gets whose prompt is too long; ``None`` leaves relayed
            errors as they are.
        sequential_reasoning: Whether a model that has only thought so far may be asked to go on.
        audio: How audio comes in ``metadata``; ``None`` leaves ``metadata`` as it is.
        reward_roles: Members of ``metadata`` that become messages with these roles, in this order.
    """

    name: Name
    upstream: str = DEFAULT
    upstream_model: Name | None = None
    speaks: str | None = None
    relay: bool = True
    defaults: dict[str, JSON] = {}
    sets: dict[str, JSON] = {}
    chat_template_kwargs: dict[str, JSON] = {}
    reasoning: bool | None = None
    overrides: dict[str, JSON] = {}
    policy: dict[str, JSON] = {}
    headers: dict[str, str] = {}
    headers_env: dict[str, str] = {}
    token_ids: bool = False
    context_overflow: Overflow | None = None
    sequential_reasoning: bool = True
    audio: Audio | None = None
    reward_roles: list[RewardRole] = []


class Capture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Records the calls of rollouts.

    Attributes:
        dir: Folder of the records; made if need be.
        upstream: Whether what goes to the upstream, and what it says, is recorded too.
        fsync: Whether records are brought to the disk, at the latest a second after they are
            written; else the operating system decides when.
        buffer_bytes: So much memory may hold calls that are not written yet; those for which
            there is no room are not recorded.
    """

    dir: Name
    upstream: bool = False
    fsync: bool = True
    buffer_bytes: Annotated[int, Meta(ge=1)] = 256 * 1024 * 1024


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set."""

    server: Server = Server()
    log: Log = Log()
    policy: Policy = Policy()
    capture: Capture | None = None
    upstreams: dict[str, Upstream] = {}
    models: list[Model] = []


CHOICES: Mapping[str, tuple[str, ...]] = {
    "log.level": ("debug", "info", "warning", "error"),
    "log.format": ("auto", "json", "console"),
    "speaks": ("auto", "chat", "responses", "completions", "both"),
    "render": tuple(Render),
    "profile": tuple(PROFILES),
}
"""Settings whose values are words of a list, by path or last name."""


def profile_of(upstream: Upstream) -> Profile:
    """The profile of an upstream, with its overrides."""
    members = dict(upstream.overrides)
    if upstream.render is not None:
        members["render"] = upstream.render
    return override(PROFILES[upstream.profile], members)


def override(base: S, members: Mapping[str, JSON]) -> S:
    """A Struct with some members changed, of JSON values that have been checked."""
    if not members:
        return base
    return msgspec.convert({**msgspec.to_builtins(base), **members}, type(base))


def speaks_of(upstream: Upstream) -> str:
    """What an upstream speaks; ``auto`` is Chat for the kinds that need not be asked."""
    is_known = upstream.vllm is not None or upstream.azure is not None or upstream.demo
    return "chat" if upstream.speaks == "auto" and is_known else upstream.speaks


def key_of(upstream: Upstream, environment: Mapping[str, str] | None = None) -> str | None:
    """The key to send to an upstream, ``None`` if the caller's passes through."""
    if upstream.key is not None:
        return upstream.key
    if upstream.key_env is None:
        return None
    return (os.environ if environment is None else environment).get(upstream.key_env)


def secret_of(server: Server, environment: Mapping[str, str] | None = None) -> str | None:
    """The secret that seals what callers keep for us, ``None`` if none is set."""
    if server.reasoning_key_env is None:
        return None
    return (os.environ if environment is None else environment).get(server.reasoning_key_env)


def public(settings: Settings) -> JSON:
    """The settings without their secrets, for display."""
    tree = msgspec.to_builtins(settings)
    for upstream in tree["upstreams"].values():
        if upstream["key"] is not None:
            upstream["key"] = "(hidden)"
        if upstream["vllm"] is not None:
            upstream["vllm"]["env"] = dict.fromkeys(upstream["vllm"]["env"], "(hidden)")
            upstream["vllm"]["args"] = shlex.split(printable(upstream["vllm"]["args"]))
            upstream["vllm"]["flags"] = printable_flags(upstream["vllm"]["flags"])
    for model in tree["models"]:
        model["headers"] = dict.fromkeys(model["headers"], "(hidden)")
    return _without_none(tree)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_none(v) for v in value]
    return value
