"""What else rollouts need: overflow, the guard, audio and a judge's candidates in ``metadata``."""

import base64
import os
from collections.abc import AsyncIterator
from pathlib import Path
from textwrap import dedent

import msgspec
import pytest

from proxy.audio import TYPES
from proxy.loading import load
from proxy.settings import Model, Settings, Upstream
from proxy.tables import SettingsError
from tests.proxy.caller import Answer, ask
from tests.proxy.conftest import RunningProxy, RunProxy
from tests.proxy.dialects import CHAT, RESPONSES, chat_reply, chat_request, responses_request
from tests.upstream import Reply, ScriptedUpstream
from translators.wire import JSON

pytestmark = pytest.mark.server

TOO_LONG = (
    "This model's maximum context length is 4096 tokens. However, your prompt contains at least "
    "4097 input tokens, which exceeds this limit even without any output tokens."
)
TOO_MUCH = "max_tokens=5000 cannot be greater than max_model_len=4096."

both = pytest.mark.parametrize("path", [CHAT, RESPONSES])
either_way = pytest.mark.parametrize("is_stream", [False, True])


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream(handler=lambda _: Reply.json(chat_reply())) as upstream:
        yield upstream


async def running(
    running_proxy: RunProxy, upstream: ScriptedUpstream, model: Model
) -> RunningProxy:
    upstreams = {"vllm": Upstream(url=upstream.url, speaks="chat")}
    return await running_proxy(Settings(upstreams=upstreams, models=[model]))


def model(**settings: JSON) -> Model:
    members = {"name": "public", "upstream": "vllm", "upstream_model": "m", **settings}
    return msgspec.convert(members, Model)


def request(path: str, text: str = "Hello", **members: JSON) -> JSON:
    made = chat_request(text) if path == CHAT else responses_request(text)
    return {**made, "model": "public", **members}


def refused(message: str) -> Reply:
    """An error as vLLM words it."""
    error = {"message": message, "type": "BadRequestError", "param": "input_tokens", "code": 400}
    return Reply.json({"error": error}, 400)


# --- overflow ------------------------------------------------------------------------------


@both
@either_way
async def test_overflow_as_an_error(
    path: str, is_stream: bool, upstream: ScriptedUpstream, running_proxy: RunProxy
) -> None:
    upstream.queue(refused(TOO_LONG))
    proxy = await running(running_proxy, upstream, model(context_overflow="error"))
    answer = await ask(proxy.port, path, request(path, stream=is_stream))
    assert answer.status == 400
    assert answer.error["code"] == "context_length_exceeded"
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["param"] == ("messages" if path == CHAT else "input")


async def test_overflow_is_relayed_as_it_is_by_default(
    upstream: ScriptedUpstream, running_proxy: RunProxy
) -> None:
    upstream.queue(refused(TOO_LONG))
    proxy = await running(running_proxy, upstream, model())
    answer = await ask(proxy.port, CHAT, request(CHAT))
    assert (answer.status, answer.body) == (400, refused(TOO_LONG).body)


@both
@either_way
async def test_overflow_as_an_incomplete_reply(
    path: str, is_stream: bool, upstream: ScriptedUpstream, running_proxy: RunProxy
) -> None:
    upstream.queue(refused(TOO_LONG), refused(TOO_LONG))
    proxy = await running(running_proxy, upstream, model(context_overflow="incomplete"))
    ids = []
    for _ in range(2):
        answer = await ask(proxy.port, path, request(path, stream=is_stream))
        ids.append(check_empty(answer, path, is_stream, "length", "max_output_tokens"))
    assert ids[0] != ids[1]


def check_empty(answer: Answer, path: str, is_stream: bool, finish: str, reason: str) -> str:
    """Check a reply in which nothing is said; its id."""
    assert answer.status == 200
    if path == CHAT and not is_stream:
        (choice,) = answer.json["choices"]
        assert (choice["message"]["role"], choice["message"]["content"]) == ("assistant", "")
        assert choice["finish_reason"] == finish
        assert answer.json["id"].startswith("chatcmpl-")
        assert "usage" not in answer.json
        return str(answer.json["id"])
    if path == CHAT:
        assert answer.frames[-1] == "[DONE]"
        choices = [chunk["choices"][0] for chunk in answer.events]
        assert choices[0]["delta"] == {"role": "assistant", "content": ""}
        assert [choice["finish_reason"] for choice in choices] == [None, finish]
        return str(answer.events[0]["id"])
    response = answer.events[-1]["response"] if is_stream else answer.json
    if is_stream:
        assert answer.events[-1]["type"] == "response.incomplete"
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": reason}
    assert [part["text"] for part in response["output"][0]["content"]] == [""]
    assert len(response["output"]) == 1
    assert response["usage"] is None
    assert response["model"] == "public"
    return str(response["id"])


@both
@pytest.mark.parametrize("policy", ["error", "incomplete"])
async def test_other_errors_are_no_overflow(
    path: str, policy: str, upstream: ScriptedUpstream, running_proxy: RunProxy
) -> None:
    upstream.queue(refused(TOO_MUCH), Reply.json({"error": TOO_LONG}, 500))
    proxy = await running(running_proxy, upstream, model(context_overflow=policy))
    answer = await ask(proxy.port, path, request(path))
    assert answer.status == 400
    assert answer.json["error"]["message"] == TOO_MUCH
    assert answer.json["error"]["code"] != "context_length_exceeded"
    assert (await ask(proxy.port, path, request(path))).status == 500


# --- the guard -----------------------------------------------------------------------------


def thinking(path: str, **members: JSON) -> JSON:
    user = {"role": "user", "content": "Hello"}
    if path == CHAT:
        turns = [user, {"role": "assistant", "content": None, "reasoning": "Hm"}]
        return {"model": "public", "messages": turns, **members}
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}]}
    return {"model": "public", "input": [user, thought], **members}


@both
@either_way
async def test_reasoning_is_not_continued(
    path: str, is_stream: bool, upstream: ScriptedUpstream, running_proxy: RunProxy
) -> None:
    proxy = await running(running_proxy, upstream, model(sequential_reasoning=False))
    answer = await ask(proxy.port, path, thinking(path, stream=is_stream))
    check_empty(answer, path, is_stream, "content_filter", "content_filter")
    assert upstream.requests == []


@both
async def test_other_conversations_go_on(
    path: str, upstream: ScriptedUpstream, running_proxy: RunProxy
) -> None:
    proxy = await running(running_proxy, upstream, model(sequential_reasoning=False))
    assert (await ask(proxy.port, path, request(path))).status == 200
    other = await running(running_proxy, upstream, model())
    assert (await ask(other.port, path, thinking(path))).status == 200
    assert len(upstream.requests) == 2


# --- audio ---------------------------------------------------------------------------------

URI = "data:audio/wav;base64,AAAA"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of audio files, beside which there is one more."""
    root = tmp_path / "audio"
    (root / "deep").mkdir(parents=True)
    for suffix in TYPES:
        (root / f"a{suffix}").write_bytes(suffix.encode())
    (root / "deep" / "b.WAV").write_bytes(b"deep")
    (root / "notes.txt").write_bytes(b"no audio")
    (root / "folder.wav").mkdir()
    (tmp_path / "secret.wav").write_bytes(b"secret")
    (root / "out.wav").symlink_to(tmp_path / "secret.wav")
    (root / "up").symlink_to(tmp_path)
    (root / "loop.wav").symlink_to(root / "loop.wav")
    os.mkfifo(root / "pipe.wav")
    return root


def parts_of(upstream: ScriptedUpstream) -> JSON:
    return upstream.requests[-1].json["messages"][-1]["content"]


def part(url: str) -> JSON:
    return {"type": "audio_url", "audio_url": {"url": url}}


def encoded(kind: str, content: bytes) -> str:
    return f"data:audio/{kind};base64,{base64.b64encode(content).decode()}"


TEXT = {"type": "text", "text": "Hello"}


@both
async def test_audio_data(path: str, upstream: ScriptedUpstream, running_proxy: RunProxy) -> None:
    proxy = await running(running_proxy, upstream, model(audio={}))
    metadata = {"audio_data": URI, "row": "7"}
    answer = await ask(proxy.port, path, request(path, metadata=metadata))
    assert answer.status == 200
    assert parts_of(upstream) == [part(URI), TEXT]
    sent = upstream.requests[-1].json
    assert sent.get("metadata") == ({"row": "7"} if path == CHAT else None)
    if path == RESPONSES:
        assert answer.json["metadata"] == {"row": "7"}


@both
@pytest.mark.parametrize(
    "paths",
    [["a.flac", "deep/b.WAV"], '["a.flac", "deep/b.WAV"]', '["deep/../a.flac", "deep/b.WAV"]'],
)
async def test_audio_paths(
    path: str, paths: JSON, folder: Path, upstream: ScriptedUpstream, running_proxy: RunProxy
) -> None:
    proxy = await running(running_proxy, upstream, model(audio={"root": str(folder)}))
    answer = await ask(proxy.port, path, request(path, metadata={"audio_paths": paths}))
    assert answer.status == 200
    urls = [encoded("flac", b".flac"), encoded("wav", b"deep")]
    assert parts_of(upstream) == [part(urls[0]), part(urls[1]), TEXT]
    assert "metadata" not in upstream.requests[-1].json


@pytest.mark.parametrize("suffix", TYPES)
async def test_audio_path(
    suffix: str, folder: Path, upstream: ScriptedUpstream, running_proxy: RunProxy
) -> None:
    proxy = await running(running_proxy, upstream, model(audio={"root": str(folder)}))
    metadata = {"audio_path": f"a{suffix}"}
    assert (await ask(proxy.port, CHAT, request(CHAT, metadata=metadata))).status == 200
    assert parts_of(upstream) == [part(encoded(TYPES[suffix], suffix.encode())), TEXT]


BAD_AUDIO: dict[str, tuple[JSON, str]] = {
    "two": ({"audio_data": URI, "audio_path": "a.wav"}, "audio_path"),
    "no-uri": ({"audio_data": "https://example.com/a.wav"}, "audio_data"),
    "no-audio": ({"audio_data": "data:image/png;base64,AAAA"}, "audio_data"),
    "no-string": ({"audio_path": 5}, "audio_path"),
    "missing": ({"audio_path": "x.wav"}, "audio_path"),
    "type": ({"audio_path": "notes.txt"}, "audio_path"),
    "no-type": ({"audio_path": "a"}, "audio_path"),
    "folder": ({"audio_path": "folder.wav"}, "audio_path"),
    "pipe": ({"audio_path": "pipe.wav"}, "audio_path"),
    "up": ({"audio_path": "../secret.wav"}, "audio_path"),
    "up-and-down": ({"audio_path": "deep/../../secret.wav"}, "audio_path"),
    "absolute": ({"audio_path": "/etc/secret.wav"}, "audio_path"),
    "link": ({"audio_path": "out.wav"}, "audio_path"),
    "linked-folder": ({"audio_path": "up/secret.wav"}, "audio_path"),
    "loop": ({"audio_path": "loop.wav"}, "audio_path"),
    "nul": ({"audio_path": "a\0.wav"}, "audio_path"),
    "no-json": ({"audio_paths": "a.wav"}, "audio_paths"),
    "no-list": ({"audio_paths": '"a.wav"'}, "audio_paths"),
    "empty-list": ({"audio_paths": "[]"}, "audio_paths"),
    "second": ({"audio_paths": '["a.wav", "../secret.wav"]'}, "audio_paths[1]"),
    "too-many": ({"audio_paths": str(["a.wav"] * 257).replace("'", '"')}, "audio_paths"),
    "not-strings": ({"audio_paths": "[5]"}, "audio_paths[0]"),
}


@both
@pytest.mark.parametrize("case", BAD_AUDIO)
async def test_bad_audio(
    path: str, case: str, folder: Path, upstream: ScriptedUpstream, running_proxy: RunProxy
) -> None:
    metadata, param = BAD_AUDIO[case]
    proxy = await running(running_proxy, upstream, model(audio={"root": str(folder)}))
    answer = await ask(proxy.port, path, request(path, metadata=metadata))
    assert (answer.status, answer.error["param"]) == (400, f"metadata.{param}")
    assert upstream.requests == []


async def test_what_lies_outside_is_as_if_it_were_not_there(
    folder: Path, upstream: ScriptedUpstream, running_proxy: RunProxy
) -> None:
    proxy = await running(running_proxy, upstream, model(audio={"root": str(folder)}))
    messages = set()
    for name in ("x.wav", "../secret.wav", "../x.wav", "out.wav"):
        answer = await ask(proxy.port, CHAT, request(CHAT, metadata={"audio_path": name}))
        messages.add(answer.error["message"])
    assert len(messages) == 1


async def test_audio_has_a_limit(
    folder: Path, upstream: ScriptedUpstream, running_proxy: RunProxy
) -> None:
    """It holds for all files of a request together."""
    limit = {"root": str(folder), "max_bytes": 8}
    proxy = await running(running_proxy, upstream, model(audio=limit))
    answers = [
        await ask(proxy.port, CHAT, request(CHAT, metadata={"audio_paths": paths}))
        for paths in ('["a.wav", "deep/b.WAV"]', '["a.flac", "deep/b.WAV"]')
    ]
    assert [answer.status for answer in answers] == [200, 400]
    assert answers[1].error["param"] == "metadata.audio_paths[1]"


async def test_files_need_a_folder(upstream: ScriptedUpstream, running_proxy: RunProxy) -> None:
    proxy = await running(running_proxy, upstream, model(audio={}))
    answer = await ask(proxy.port, CHAT, request(CHAT, metadata={"audio_path": "a.wav"}))
    assert answer.status == 400
    assert "no folder" in answer.error["message"]


@both
async def test_audio_beside_members_for_the_upstream(
    path: str, upstream: ScriptedUpstream, running_proxy: RunProxy
) -> None:
    proxy = await running(running_proxy, upstream, model(audio={}))
    metadata = {"audio_data": URI, "extra_body": '{"top_k": 5}'}
    assert (await ask(proxy.port, path, request(path, metadata=metadata))).status == 200
    sent = upstream.requests[0].json
    assert (parts_of(upstream), sent["top_k"]) == ([part(URI), TEXT], 5)
    assert not sent.get("metadata")


@pytest.mark.parametrize("metadata", [None, {}, {"row": "7"}, {"audio_data": ""}])
async def test_metadata_without_audio(
    metadata: JSON, upstream: ScriptedUpstream, running_proxy: RunProxy
) -> None:
    proxy = await running(running_proxy, upstream, model(audio={}))
    assert (await ask(proxy.port, CHAT, request(CHAT, metadata=metadata))).status == 200
    assert parts_of(upstream) == "Hello"


# --- a judge's candidates ------------------------------------------------------------------

ROLES = ["principle", "response_1", "response_2"]


@both
async def test_candidates_become_messages(
    path: str, upstream: ScriptedUpstream, running_proxy: RunProxy
) -> None:
    proxy = await running(running_proxy, upstream, model(reward_roles=ROLES))
    metadata = {"response_2": "", "response_1": "Paris", "principle": "Be fair.", "row": "7"}
    answer = await ask(proxy.port, path, request(path, metadata=metadata))
    assert answer.status == 200
    assert upstream.requests[0].json["messages"] == [
        {"role": "user", "content": "Hello"},
        {"role": "principle", "content": "Be fair."},
        {"role": "response_1", "content": "Paris"},
        {"role": "response_2", "content": ""},
    ]


async def test_empty_principle_is_none(upstream: ScriptedUpstream, running_proxy: RunProxy) -> None:
    proxy = await running(running_proxy, upstream, model(reward_roles=ROLES))
    metadata = {"principle": "", "response_1": "Paris"}
    assert (await ask(proxy.port, CHAT, request(CHAT, metadata=metadata))).status == 200
    roles = [message["role"] for message in upstream.requests[0].json["messages"]]
    assert roles == ["user", "response_1"]
    assert "metadata" not in upstream.requests[0].json


@both
@pytest.mark.parametrize(
    ("metadata", "param"),
    [({"principle": "Be fair."}, "principle"), ({"response_1": 5}, "response_1")],
)
async def test_bad_candidates(
    path: str,
    metadata: JSON,
    param: str,
    upstream: ScriptedUpstream,
    running_proxy: RunProxy,
) -> None:
    proxy = await running(running_proxy, upstream, model(reward_roles=ROLES[1:]))
    answer = await ask(proxy.port, path, request(path, metadata=metadata))
    assert (answer.status, answer.error["param"]) == (400, f"metadata.{param}")
    assert upstream.requests == []


# --- settings ------------------------------------------------------------------------------

_FILE = """\
[upstreams.u]
url = "http://x/v1"
speaks = "{speaks}"
[[models]]
name = "a"
upstream = "u"
{setting}
"""


def loading(folder: Path, setting: str, speaks: str = "chat") -> Settings:
    path = folder / "dragoman.toml"
    path.write_text(_FILE.format(setting=dedent(setting), speaks=speaks))
    return load(path, {}, {})


@pytest.mark.parametrize(
    ("setting", "speaks", "words"),
    [
        ("token_ids = true", "responses", ["models[0].token_ids", "upstreams.u, to 'chat'"]),
        ("token_ids = true", "auto", ["models[0].token_ids", "upstreams.u, to 'chat'"]),
        ("sequential_reasoning = false", "both", ["models[0].sequential_reasoning", "'chat'"]),
        ("token_ids = true", "both", ["models[0].token_ids", "in Chat or Completions; set"]),
        ("token_ids = true\naudio = {}", "completions", ["models[0].audio", "in Chat; set"]),
        ('context_overflow = "cut"', "chat", ["dragoman.toml:7", "error, incomplete"]),
        ('reward_roles = ["user"]', "chat", ["dragoman.toml:7", "principle, response_1"]),
        ('audio = { root = "/nowhere" }', "chat", ["dragoman.toml:7", "no folder '/nowhere'"]),
        ("audio = { max_bytes = 0 }", "chat", ["models[0].audio.max_bytes"]),
        ("audio = { rot = 1 }", "chat", ["models[0].audio.rot", "did you mean 'root'?"]),
    ],
)
def test_wrong_settings(setting: str, speaks: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        loading(tmp_path, setting, speaks)
    for word in words:
        assert word in str(caught.value)


def test_model_may_speak_chat_by_itself(tmp_path: Path) -> None:
    assert loading(tmp_path, 'token_ids = true\nspeaks = "chat"', "auto").models[0].token_ids


def test_a_model_that_speaks_completions(tmp_path: Path) -> None:
    setting = 'token_ids = true\ncontext_overflow = "error"'
    assert loading(tmp_path, setting, "completions").models[0].token_ids


def test_plain_models_need_no_dialect(tmp_path: Path) -> None:
    settings = loading(tmp_path, "token_ids = false\nsequential_reasoning = true", "auto")
    assert settings.models == [Model(name="a", upstream="u")]


@pytest.mark.parametrize(
    "kind",
    [
        '[upstreams.u.vllm]\nmodel = "m"',
        '[upstreams.u.azure]\nendpoint = "https://x.openai.azure.com"',
        "[upstreams.u]\ndemo = true",
    ],
)
def test_kinds_that_are_never_asked_speak_chat(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "dragoman.toml"
    path.write_text(f'{kind}\n[[models]]\nname = "a"\nupstream = "u"\ntoken_ids = true')
    assert load(path, {}, {}).models[0].token_ids
