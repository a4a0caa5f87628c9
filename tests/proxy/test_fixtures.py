"""The commands ``fixtures check`` and ``fixtures record``."""

import asyncio
import shutil
import tomllib
from pathlib import Path

import msgspec
import pytest

from backends.demo import DemoBackend
from proxy import cli, corpus, goldens
from tests.cases import FIXTURES
from tests.proxy.dialects import chat_reply, chat_request, responses_reply, responses_request
from tests.upstream import Abort, Answer, Reply, ScriptedUpstream, StreamReply, serve_backend
from translators.wire import JSON, decode

Capture = pytest.CaptureFixture[str]

# --- check -----------------------------------------------------------------------------------


def check(capsys: Capture, *arguments: str) -> tuple[int, list[str]]:
    status = cli.main(["fixtures", "check", *arguments])
    return status, capsys.readouterr().out.splitlines()


def test_check_of_good_cases(capsys: Capture) -> None:
    status, lines = check(capsys, str(FIXTURES), "--only", "responses-chat/tool-choice")
    assert status == 0
    assert len(lines) == 1
    assert lines[0].endswith(" cases, all as they should be")


def test_check_names_each_case_that_fails(tmp_path: Path, capsys: Capture) -> None:
    names = ["text-reply", "string-input", "echo-of-the-request", "tool-choice-none"]
    for name in names:
        case = f"responses-chat/{name}"
        shutil.copytree(FIXTURES / case, tmp_path / case)
    (tmp_path / "responses-chat/string-input/notes.txt").touch()
    golden = tmp_path / "responses-chat/tool-choice-none/upstream.request.json"
    golden.write_bytes(golden.read_bytes().replace(b'"none"', b'"auto"'))
    status, lines = check(capsys, str(tmp_path))
    assert status == 1
    assert lines == [
        "responses-chat/string-input: notes.txt: no case has such a file",
        "responses-chat/tool-choice-none: upstream.request.json: .tool_choice"
        ' should be "auto" and is "none"',
        "4 cases, 2 failed",
    ]


def test_check_without_cases(tmp_path: Path, capsys: Capture) -> None:
    assert check(capsys, str(tmp_path)) == (1, [f"no cases under {tmp_path}"])
    status, [line] = check(capsys, str(FIXTURES), "--only", "no-such-case")
    assert status == 1
    assert line.endswith("have 'no-such-case' in their id")


def test_check_of_the_folder_at_hand(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(FIXTURES.parent)
    status, [line] = check(capsys, "--only", "sse/")
    assert (status, line.endswith("as they should be")) == (0, True)


def test_fault_of_a_translator_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(goldens, "check", stumble)
    with pytest.raises(KeyError) as caught:
        cli.main(["fixtures", "check", str(FIXTURES), "--only", "sse/"])
    assert "in the case " in caught.value.__notes__[0]


# --- record ----------------------------------------------------------------------------------

VERSION = Reply.json({"version": "0.32.0"})
NO_VERSION = Reply(404)


async def record(folder: Path, request: JSON, url: str, *flags: str) -> int:
    """Run the command in a thread, since it has an event loop of its own."""
    file = folder.parents[1] / "request.json"
    file.write_bytes(msgspec.json.encode(request))
    command = ["fixtures", "record", str(folder), "--request", str(file), "--upstream", url]
    return await asyncio.to_thread(cli.main, [*command, *flags])


async def recorded(folder: Path, request: JSON, *script: Answer, flags: str = "") -> JSON:
    """Record what a script answers; the facts of the case, which has to hold."""
    async with ScriptedUpstream(*script) as upstream:
        status = await record(folder, request, upstream.url, *flags.split())
    assert status == 0
    goldens.check(corpus.load_case(folder))
    return tomllib.loads((folder / corpus.FACTS).read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "responses-chat" / "a-case"


def names(folder: Path) -> set[str]:
    """Names of a folder's files; none if it is not there."""
    return {path.name for path in folder.glob("*")}


@pytest.mark.server
async def test_record_of_a_whole_reply(folder: Path, capsys: Capture) -> None:
    """Unknown members stay; the goldens are made, the request that went out among them."""
    asked = responses_request("Hi", truncation="auto")
    async with ScriptedUpstream(Reply.json(chat_reply("Hi there", x=[1])), VERSION) as upstream:
        assert await record(folder, asked, upstream.url, "--note", 'Say "hi".') == 0
    sent, version = upstream.requests
    assert (sent.path, version.path) == ("/v1/chat/completions", "/version")
    assert sent.json == decode((folder / "upstream.request.json").read_bytes())
    assert decode((folder / "caller.request.json").read_bytes()) == asked
    assert decode((folder / "upstream.response.json").read_bytes())["x"] == [1]
    assert b'"Hi there"' in (folder / "caller.response.json").read_bytes()
    assert tomllib.loads((folder / "case.toml").read_text()) == {
        "source": "recorded vllm 0.32.0",
        "notes": 'Say "hi".',
        "losses": ["truncation"],
    }
    goldens.check(corpus.load_case(folder))
    assert "upstream.response.json: " in capsys.readouterr().out


@pytest.mark.server
async def test_record_of_a_stream_keeps_its_bytes(folder: Path) -> None:
    pieces = [
        b': hello\r\n\r\ndata: {"id":"x","choices":[{"index":0,"delta":{"content":"Hi"},',
        b"",
    ]
    pieces += [b'"finish_reason":"stop"}]}\r\n\r\n', b"data: [DONE]"]
    request = responses_request("Hi", stream=True)
    facts = await recorded(folder, request, StreamReply(pieces), NO_VERSION)
    assert (folder / "upstream.stream.sse").read_bytes() == b"".join(pieces)
    assert b"response.completed" in (folder / "caller.stream.sse").read_bytes()
    assert facts == {"source": "recorded an OpenAI-compatible server"}


@pytest.mark.server
@pytest.mark.parametrize("answer", [Abort(), Reply(200, body=b"<html>"), Reply.json({"v": 1})])
async def test_record_of_a_server_that_says_no_version(folder: Path, answer: Answer) -> None:
    facts = await recorded(folder, responses_request(), Reply.json(chat_reply()), answer, answer)
    assert facts["source"] == "recorded an OpenAI-compatible server"


@pytest.mark.server
@pytest.mark.parametrize("body", [b'{"error":{"message":"No."}}', b"<html>No."])
async def test_record_of_an_error(folder: Path, body: bytes) -> None:
    error = Reply(429, {"retry-after": "7"}, body)
    facts = await recorded(folder, responses_request(stream=True), error, VERSION)
    assert facts["status"] == 429
    assert names(folder) == {
        *("case.toml", "caller.request.json", "upstream.request.json"),
        *("upstream.error.json", "caller.error.json"),
    }


@pytest.mark.server
async def test_record_of_a_reply_that_is_an_error(folder: Path) -> None:
    """Its status is that of the error that the caller gets."""
    reply = Reply.json({"error": {"message": "No."}})
    facts = await recorded(folder, responses_request(), reply, VERSION)
    assert facts["status"] >= 400
    assert {"upstream.response.json", "caller.error.json"} <= names(folder)


@pytest.mark.server
async def test_record_of_the_other_pair(tmp_path: Path) -> None:
    folder = tmp_path / "chat-responses" / "a-case"
    await recorded(folder, chat_request("Hi"), Reply.json(responses_reply("Ho")), VERSION)
    assert decode((folder / "upstream.request.json").read_bytes())["input"]
    reply = decode((folder / "caller.response.json").read_bytes())
    assert reply["choices"][0]["message"]["content"] == "Ho"


def _calls(*ids: str) -> JSON:
    function = {"name": "f", "arguments": "{}"}
    return [{"id": i, "type": "function", "function": function} for i in ids]


def _chunk(delta: JSON, finish_reason: str | None = None) -> JSON:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "x", "object": "chat.completion.chunk", "created": 1, "choices": [choice]}


def _answers(text: str) -> list[Answer]:
    """A whole reply with two calls, and a stream of the same under other ids."""
    reply = chat_reply()
    reply["choices"][0]["message"] |= {"content": "Hi", "tool_calls": _calls("a", "b")}
    reply["choices"][0]["finish_reason"] = "tool_calls"
    calls = [{"index": i, **call} for i, call in enumerate(_calls("b", "c"))]
    chunks = [_chunk({"content": text}), _chunk({"tool_calls": calls}), _chunk({}, "tool_calls")]
    stream = StreamReply.sse(*chunks, {**chunks[0], "choices": [], "usage": reply["usage"]})
    return [Reply.json(reply), stream]


@pytest.mark.server
async def test_record_both(folder: Path) -> None:
    """Asked twice; the stream gets the call ids of the whole reply, and nothing else changes."""
    async with ScriptedUpstream(*_answers("Hi"), VERSION) as upstream:
        assert await record(folder, responses_request(), upstream.url, "--both") == 0
    whole, streamed, _ = upstream.requests
    assert ("stream" in whole.json, streamed.json["stream"]) == (False, True)
    assert decode((folder / "caller.request.json").read_bytes())["stream"] is True
    stream = (folder / "upstream.stream.sse").read_bytes()
    assert stream.index(b'"id":"a"') < stream.index(b'"id":"b"')
    assert b'"id":"c"' not in stream
    assert stream.count(b'"id":"x"') == 4
    goldens.check(corpus.load_case(folder))


@pytest.mark.server
async def test_record_both_of_two_different_answers(folder: Path, capsys: Capture) -> None:
    """The case is there to be looked at, and the exit status says that it fails."""
    async with ScriptedUpstream(*_answers("Ho"), VERSION) as upstream:
        assert await record(folder, responses_request(), upstream.url, "--both") == 1
    assert "folded output[0]" in capsys.readouterr().out
    assert "upstream.stream.sse" in names(folder)


@pytest.mark.server
async def test_record_both_of_a_server_that_does_not_stream(folder: Path, capsys: Capture) -> None:
    replies = [Reply.json(chat_reply())] * 2
    async with ScriptedUpstream(*replies, VERSION) as upstream:
        assert await record(folder, responses_request(), upstream.url, "--both") == 2
    assert "--both: the answers were upstream.response.json" in capsys.readouterr().err
    assert names(folder) == set()


@pytest.mark.server
@pytest.mark.parametrize("prompt", ["Hello", "What is the weather in Oslo and in Lima?"])
async def test_record_both_of_the_demo(folder: Path, prompt: str) -> None:
    """Reasoning, text and parallel calls of a server that behaves."""
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"type": "function", "name": "get_weather", "parameters": parameters}
    demo = serve_backend(DemoBackend(models=["m"], pause_s=0))
    async with ScriptedUpstream(handler=demo) as upstream:
        request = responses_request(prompt, tools=[tool])
        assert await record(folder, request, upstream.url, "--both") == 0


@pytest.mark.server
async def test_record_with_profile_and_policy(folder: Path) -> None:
    request = responses_request(
        tools=[{"type": "web_search"}], input=[{"role": "developer", "content": "Be kind."}]
    )
    flags = "--profile openai --policy hosted_tools=drop --policy reasoning_as=content"
    facts = await recorded(folder, request, Reply.json(chat_reply()), VERSION, flags=flags)
    assert facts["profile"] == "openai"
    assert facts["policy"] == {"hosted_tools": "drop", "reasoning_as": "content"}
    assert facts["losses"] == ["tools[0]"]
    sent = decode((folder / "upstream.request.json").read_bytes())
    assert sent["messages"][0]["role"] == "developer"


@pytest.mark.server
async def test_record_keeps_no_secrets(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in files nor, but for the key's own header, on the way to the upstream."""
    monkeypatch.setenv("UPSTREAM_KEY", " zebra-zebra ")
    monkeypatch.setenv("HOME", str(tmp_path))
    secrets = ["zebra-zebra", "sk-abcdefghijkl", str(tmp_path)]
    reply = chat_reply(f"{secrets[0]} is in {tmp_path}/.netrc", note="Bearer abcdefgh12345")
    async with ScriptedUpstream(Reply.json(reply, headers={"x": "zebra"}), VERSION) as upstream:
        request = responses_request(f"My key is {secrets[1]}, in {tmp_path}/keys.")
        flags = ["--key-env", "UPSTREAM_KEY"]
        assert await record(folder, request, upstream.url, *flags) == 0
    sent, version = upstream.requests
    assert sent.headers["authorization"] == "Bearer zebra-zebra"
    assert "authorization" not in version.headers
    assert sent.json["messages"][0]["content"] == "My key is REDACTED, in /home/user/keys."
    for name in names(folder):
        text = (folder / name).read_text()
        assert not [s for s in (*secrets, "Bearer abc", "zebra") if s in text], name
    text = decode((folder / "caller.response.json").read_bytes())["output"][0]["content"][0]["text"]
    assert text == "REDACTED is in /home/user/.netrc"
    goldens.check(corpus.load_case(folder))


@pytest.mark.server
async def test_record_replaces_a_case_only_if_told(folder: Path, capsys: Capture) -> None:
    stream = StreamReply.sse(_chunk({"content": "Hi"}, "stop"))
    await recorded(folder, responses_request(stream=True), stream, VERSION)
    async with ScriptedUpstream() as upstream:
        assert await record(folder, responses_request(), upstream.url) == 2
        assert upstream.requests == []
    assert "is there already" in capsys.readouterr().err
    (folder / "README").touch()
    reply = Reply.json(chat_reply())
    async with ScriptedUpstream(reply, VERSION) as upstream:
        with pytest.raises(corpus.BadCase, match="README"):
            await record(folder, responses_request(), upstream.url, "--force")
    (folder / "README").unlink()
    await recorded(folder, responses_request(), reply, VERSION, flags="--force")
    assert "upstream.stream.sse" not in names(folder)


@pytest.mark.server
@pytest.mark.parametrize(
    ("place", "request_", "flags", "words"),
    [
        ("chat-chat/x", responses_request(), "", "is one of chat-responses, chat-completions"),
        ("responses-chat/x", responses_request(), "--key-env NOT_SET", "NOT_SET is not set"),
        ("responses-chat/x", responses_request(), "--policy drop", "NAME=VALUE"),
        ("responses-chat/x", responses_request(), "--policy orphans=x", "--policy: Invalid"),
        ("responses-chat/x", {"model": "m", "input": 5}, "", "input"),
        ("responses-chat/x", [], "", "an array"),
    ],
)
async def test_record_of_what_cannot_be(
    tmp_path: Path, place: str, request_: JSON, flags: str, words: str, capsys: Capture
) -> None:
    async with ScriptedUpstream() as upstream:
        assert await record(tmp_path / place, request_, upstream.url, *flags.split()) == 2
        assert upstream.requests == []
    assert words in capsys.readouterr().err
    assert names(tmp_path / place) == set()


@pytest.mark.server
@pytest.mark.parametrize("script", [[Abort()], [StreamReply([b"data: {}\n\n", Abort()])]])
async def test_record_of_an_upstream_that_breaks_off(
    folder: Path, script: list[Answer], capsys: Capture
) -> None:
    async with ScriptedUpstream(*script) as upstream:
        assert await record(folder, responses_request(), upstream.url) == 2
    assert "broke" in capsys.readouterr().err
    assert names(folder) == set()
