"""The commands ``check`` and ``translate``, and how an upstream is found when none is named."""

import asyncio
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from proxy import cli
from proxy.discovery import KNOWN, Known, find_local
from proxy.options import OPTIONS
from proxy.settings import Settings, Upstream
from tests.proxy.dialects import (
    chat_reply,
    chat_request,
    chat_stream,
    responses_reply,
    responses_request,
    responses_stream,
)
from tests.upstream import Abort, Answer, Reply, ScriptedUpstream


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ["OPENAI_BASE_URL", "DRAGOMAN_CONFIG", *(o.variable for o in OPTIONS)]:
        monkeypatch.delenv(variable, raising=False)


# --- check ---------------------------------------------------------------------------------


async def check(*arguments: str) -> int:
    """Run the command in a thread, since it has an event loop of its own."""
    return await asyncio.to_thread(cli.main, ["check", *arguments])


@pytest.mark.server
async def test_check_of_an_upstream_that_answers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", "sk-secret")
    replies = [Reply.json({"data": []}), Reply(404), Reply(400)]
    async with ScriptedUpstream(*replies) as upstream:
        status = await check("--upstream", upstream.url, "--upstream-key-env", "UPSTREAM_KEY")
    out, _ = capsys.readouterr()
    assert status == 0
    assert out.endswith("default: answers, and is spoken to in responses\n")
    assert "UPSTREAM_KEY" in out
    assert "sk-secret" not in out
    assert {r.headers["authorization"] for r in upstream.requests} == {"Bearer sk-secret"}


@pytest.mark.server
@pytest.mark.parametrize("fault", [Reply(503), Abort(), None])
async def test_check_of_an_upstream_that_does_not(
    fault: Answer | None, capsys: pytest.CaptureFixture[str]
) -> None:
    async with ScriptedUpstream(*([fault, fault] if fault else [])) as upstream:
        url = upstream.url
        if fault is None:
            await upstream.__aexit__(None, None, None)
        status = await check("--upstream", url)
    assert status == 1
    assert "\ndefault: does not answer: " in capsys.readouterr().out


@pytest.mark.server
async def test_check_of_a_silent_upstream(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: object) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(cli, "_PROBE_LIMIT_S", 0.1)
    async with ScriptedUpstream(handler=never) as upstream:
        assert await check("--upstream", upstream.url) == 1
    assert "does not answer in time" in capsys.readouterr().out


@pytest.mark.server
async def test_check_names_each_upstream_and_starts_no_vllm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "dragoman.toml"
    other = Reply.json({"status": "ok"})  # a server of another kind at the proxy's port
    async with (
        ScriptedUpstream(Reply(500), Reply(500)) as upstream,
        ScriptedUpstream(other) as neighbour,
    ):
        config.write_text(
            f"[server]\nport = {neighbour.port}\n"
            f'[upstreams.down]\nurl = "{upstream.url}"\nkey = "sk-hidden"\n'
            '[upstreams.big.vllm]\nmodel = "m"\nargs = ["--api-key", "sk-hidden"]\n'
            "[upstreams.try]\ndemo = true\n"
        )
        assert await check("--config", str(config)) == 1
    out = capsys.readouterr().out
    assert "\ndown: does not answer: " in out
    assert "\nbig: a vLLM to be spawned" in out
    assert "\ntry: answers, and is spoken to in chat" in out
    assert "sk-hidden" not in out


@pytest.mark.server
async def test_check_tells_of_each_silent_replica(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "dragoman.toml"
    async with ScriptedUpstream(handler=lambda _: MODELS) as upstream:
        async with ScriptedUpstream() as gone:
            urls = [gone.url, upstream.url]
        config.write_text(f"[upstreams.many]\nurls = {urls}\nspeaks = 'chat'\n")
        assert await check("--config", str(config)) == 0
    out, log = capsys.readouterr()
    told = (
        "many: answers, and is spoken to in chat; replica 1: The upstream accepts no connections."
    )
    assert out.splitlines()[-1] == told
    assert "replica does not answer" in log
    assert "replica does not answer" not in out


# --- discovery -----------------------------------------------------------------------------

MODELS = Reply.json({"object": "list", "data": [{"id": "m"}]})


def at(upstream: ScriptedUpstream, title: str = "Fake") -> Known:
    return Known(title, upstream.url, "vllm")


@pytest.mark.server
async def test_local_server_is_found() -> None:
    async with ScriptedUpstream(MODELS) as upstream:
        found = await find_local([at(upstream)])
    assert found is not None
    assert found.url == f"http://{upstream.requests[0].headers['host']}/v1"
    assert upstream.requests[0].path == "/v1/models"


@pytest.mark.server
@pytest.mark.parametrize(
    "reply",
    [
        Reply(404),
        Reply(200, body=b"<html>"),
        Reply.json({"data": []}),
        Reply.json({"data": None}),
        Reply.json({"data": 5}),
        Reply.json([]),
        Reply.json(None),
        Abort(),
        Reply(200, {"content-encoding": "br"}, b"x"),
    ],
)
async def test_server_of_something_else_is_passed_over(reply: Answer) -> None:
    """Port 8000 and 8080 are everybody's."""
    async with ScriptedUpstream(reply, reply) as other, ScriptedUpstream(MODELS) as upstream:
        found = await find_local([at(other, "Other"), at(upstream, "Right")])
    assert found is not None
    assert found.title == "Right"


@pytest.mark.server
async def test_first_of_several_wins_and_a_silent_one_delays_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(_: object) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr("proxy.discovery._PATIENCE_S", 0.1)
    async with (
        ScriptedUpstream(handler=never) as silent,
        ScriptedUpstream(MODELS) as one,
        ScriptedUpstream(MODELS) as two,
    ):
        servers = [at(silent, "silent"), at(one, "one"), at(two, "two")]
        async with asyncio.timeout(2):
            found = await find_local(servers)
    assert found is not None
    assert found.title == "one"


@pytest.mark.server
async def test_nothing_is_found() -> None:
    async with ScriptedUpstream() as upstream:
        known = at(upstream)
    assert await find_local([known]) is None


def test_known_servers() -> None:
    assert [(known.title, known.port) for known in KNOWN] == [
        ("vLLM", 8000),
        ("Ollama", 11434),
        ("LM Studio", 1234),
        ("llama.cpp", 8080),
    ]


async def choose(monkeypatch: pytest.MonkeyPatch, found: Known | None) -> tuple[Upstream, str, int]:
    """The upstream of bare settings, the sentence on it, and how many servers were asked."""
    asked: list[Known] = []

    async def find(known: Sequence[Known]) -> Known | None:
        asked.extend(known)
        return found

    monkeypatch.setattr(cli, "find_local", find)
    settings, sentence = await cli._choose_upstream(Settings())
    return settings.upstreams["default"], sentence, len(asked)


async def test_found_server_is_used_with_its_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy does not ask its own port, which is llama.cpp's."""
    upstream, sentence, asked = await choose(monkeypatch, KNOWN[1])
    assert (upstream.url, upstream.profile) == ("http://127.0.0.1:11434/v1", "ollama")
    assert "Ollama" in sentence
    assert asked == len(KNOWN) - 1


async def test_demo_is_the_last_resort_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    upstream, sentence, _ = await choose(monkeypatch, None)
    assert upstream.demo
    assert "demo" in sentence
    assert "--upstream" in sentence


async def test_named_upstream_is_not_searched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "find_local", None)
    given = Settings(upstreams={"main": Upstream(url="http://x/v1")})
    settings, sentence = await cli._choose_upstream(given)
    assert settings is given
    assert "http://x/v1" in sentence


# --- translate -----------------------------------------------------------------------------


def translate(
    capsysbinary: pytest.CaptureFixture[bytes], *arguments: str
) -> tuple[int, bytes, str]:
    status = cli.main(["translate", *arguments])
    out, error = capsysbinary.readouterr()
    return status, out, error.decode()


def give(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: bytes, from_file: bool
) -> list[str]:
    """Put the input into a file, whose name is returned, or into standard input."""
    if from_file:
        path = tmp_path / "in"
        path.write_bytes(data)
        return [str(path)]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    return []


from_either = pytest.mark.parametrize("from_file", [True, False])


@from_either
def test_translate_request(
    from_file: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    """The result is on standard output, what was lost on standard error."""
    body = msgspec.json.encode(responses_request("Hi", truncation="auto"))
    given = give(monkeypatch, tmp_path, body, from_file)
    status, out, error = translate(capsysbinary, "--from", "responses", "--to", "chat", *given)
    assert status == 0
    assert msgspec.json.decode(out) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
    }
    assert error == "lost: truncation: the context is never cut\n"


@from_either
@pytest.mark.parametrize(("source", "target"), [("chat", "responses"), ("responses", "chat")])
def test_translate_reply(
    source: str,
    target: str,
    from_file: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    reply = chat_reply("Hi there") if source == "chat" else responses_reply("Hi there")
    given = give(monkeypatch, tmp_path, msgspec.json.encode(reply), from_file)
    flags = ["--from", source, "--to", target, "--kind", "reply"]
    status, out, error = translate(capsysbinary, *flags, *given)
    assert (status, error) == (0, "")
    document = msgspec.json.decode(out)
    text = (
        document["output"][0]["content"][0]["text"]
        if target == "responses"
        else document["choices"][0]["message"]["content"]
    )
    assert text == "Hi there"
    again = give(monkeypatch, tmp_path, msgspec.json.encode(reply), from_file)
    assert translate(capsysbinary, *flags, *again)[1] == out


@from_either
@pytest.mark.parametrize(("source", "target"), [("chat", "responses"), ("responses", "chat")])
def test_translate_stream(
    source: str,
    target: str,
    from_file: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    frames = chat_stream(["Hi "]) if source == "chat" else responses_stream(["Hi "])
    given = give(monkeypatch, tmp_path, b"".join(frames), from_file)
    flags = ["--from", source, "--to", target, "--kind", "stream"]
    status, out, error = translate(capsysbinary, *flags, *given)
    assert (status, error) == (0, "")
    assert b'"Hi "' in out
    assert out.endswith(b"data: [DONE]\n\n")


def test_translate_reply_repeats_the_request(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    request, reply = tmp_path / "request.json", tmp_path / "reply.json"
    request.write_bytes(msgspec.json.encode(responses_request(temperature=0.25)))
    reply.write_bytes(msgspec.json.encode(chat_reply()))
    flags = ["--from", "chat", "--to", "responses", "--kind", "reply", "--request", str(request)]
    status, out, _ = translate(capsysbinary, *flags, str(reply))
    assert status == 0
    assert msgspec.json.decode(out)["temperature"] == 0.25


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"{", "JSON"), (b"[]", "an array"), (b'{"model":"m","input":5}', "input")],
)
def test_translate_of_what_is_no_request(
    data: bytes, words: str, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = tmp_path / "in"
    path.write_bytes(data)
    status, out, error = translate(capsysbinary, "--from", "responses", "--to", "chat", str(path))
    assert (status, out) == (2, b"")
    assert error.startswith("dragoman: ")
    assert words in error


def test_translate_of_a_file_that_is_not_there(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    flags = ["--from", "responses", "--to", "chat", str(tmp_path / "absent.json")]
    status, out, error = translate(capsysbinary, *flags)
    assert (status, out) == (2, b"")
    assert "absent.json" in error


def test_translate_to_and_from_what_only_upstreams_speak(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = tmp_path / "in"
    path.write_bytes(msgspec.json.encode(chat_request("Hi")))
    status, out, _ = translate(capsysbinary, "--from", "chat", "--to", "completions", str(path))
    assert (status, msgspec.json.decode(out)) == (0, {"model": "m", "prompt": "Hi"})
    flags = ("--from", "completions", "--to", "chat")
    status, out, error = translate(capsysbinary, *flags, str(path))
    assert (status, out) == (2, b"")
    assert "No caller speaks completions" in error
    path.write_bytes(b'{"choices": [{"text": "Hi"}]}')
    status, out, _ = translate(capsysbinary, *flags, "--kind", "reply", str(path))
    assert status == 0
    assert msgspec.json.decode(out)["choices"][0]["message"]["content"] == "Hi"


def test_translate_to_the_same_dialect(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = tmp_path / "in"
    path.write_bytes(msgspec.json.encode(chat_request("Hi", temperature=1)))
    status, out, _ = translate(capsysbinary, "--from", "chat", "--to", "chat", str(path))
    assert status == 0
    assert msgspec.json.decode(out) == chat_request("Hi", temperature=1)


def test_translate_of_a_stream_that_breaks_off(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """The frames say so, and so does the exit status."""
    path = tmp_path / "in"
    path.write_bytes(b"".join(chat_stream(["Hi"])[:2]))
    flags = ["--from", "chat", "--to", "responses", "--kind", "stream"]
    status, out, error = translate(capsysbinary, *flags, str(path))
    assert b"response.failed" in out
    assert status == 1
    assert "broke off" in error
