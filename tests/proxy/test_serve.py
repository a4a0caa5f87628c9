"""The server as a process: its words, its signals, its end."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from proxy.serve import PortTaken, listen
from tests.proxy.caller import BrokenOff, Call, ask
from tests.proxy.captured import read_records
from tests.proxy.dialects import CHAT, RESPONSES, chat_chunk, chat_request, responses_request
from tests.upstream import ScriptedUpstream, StreamReply
from translators.wire import JSON

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(sys.platform == "win32", reason="signals are those of POSIX"),
]


PROMPT_S = 4.0
"""Less than the five seconds that open requests have by default, on a busy machine too."""


class Server:
    """A ``dragoman serve`` that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.port = 0
        self.lines: list[JSON] = []

    async def line(self) -> JSON:
        """The next line of its log."""
        assert self.process.stderr is not None
        async with asyncio.timeout(20):
            text = await self.process.stderr.readline()
        assert text, f"it ended; before, it said {self.lines}"
        try:
            self.lines.append(msgspec.json.decode(text))
        except msgspec.DecodeError:
            self.lines.append(text.decode())
        return self.lines[-1]

    async def end(self, *signals: signal.Signals) -> tuple[int, float]:
        """Send signals, 0.2 s apart; the exit status and the seconds since the last one."""
        for number, sig in enumerate(signals):
            if number:
                await asyncio.sleep(0.2)
            self.process.send_signal(sig)
        sent = time.monotonic()
        async with asyncio.timeout(15):
            status = await self.process.wait()
        return status, time.monotonic() - sent


@contextlib.asynccontextmanager
async def serving(*arguments: str, **variables: str) -> AsyncIterator[Server]:
    """A server on a free port, once it listens."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DRAGOMAN", "OPENAI"))}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "serve", "--port", "0", "--log-format", "json"),
        *arguments,
        env={**environment, **variables},
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    server = Server(process)
    try:
        hello = await server.line()
        assert hello["event"] == "dragoman serves", hello
        server.port = int(hello["url"].rpartition(":")[2].removesuffix("/v1"))
        await _until_it_answers(server.port)
        yield server
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _until_it_answers(port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                assert (await ask(port, "/health", method="GET")).status == 200
                return
            except ConnectionError:
                await asyncio.sleep(0.02)


async def test_it_says_where_it_listens_and_ends_on_sigterm() -> None:
    """The upstream is OPENAI_BASE_URL; its key from the environment is not shown."""
    async with ScriptedUpstream(StreamReply([chat_chunk("Hi", finish="stop")])) as upstream:
        variables = {"OPENAI_BASE_URL": upstream.url, "KEY": "sk-secret"}
        flags = ("--upstream-speaks", "chat", "--upstream-key-env", "KEY")
        async with serving(*flags, **variables) as server:
            assert upstream.url in server.lines[0]["upstream"]
            body = responses_request("my secret prompt", stream=True)
            answer = await ask(server.port, RESPONSES, body)
            assert answer.events[-1]["type"] == "response.completed"
            line = await server.line()
            assert (line["event"], line["outcome"], line["level"]) == ("request", "ok", "info")
            status, seconds = await server.end(signal.SIGTERM)
    assert (status, seconds < PROMPT_S) == (0, True)
    assert upstream.requests[0].headers["authorization"] == "Bearer sk-secret"
    assert "secret" not in str(server.lines).replace("my-secret", "")


@pytest.mark.parametrize(
    ("drain_s", "signals"), [(0, [signal.SIGTERM]), (30, [signal.SIGINT, signal.SIGINT])]
)
async def test_captures_are_written_before_the_end(
    drain_s: int, signals: list[signal.Signals], tmp_path: Path
) -> None:
    """Those of streams that are cut off too, whether the server is patient or not."""
    never = asyncio.Event()
    reply = StreamReply([chat_chunk("Hi"), never])
    async with ScriptedUpstream(reply, StreamReply([chat_chunk("Ho", finish="stop")])) as upstream:
        config = tmp_path / "dragoman.toml"
        config.write_text(
            f"[server]\ndrain_s = {drain_s}\n"
            f'[upstreams.default]\nurl = "{upstream.url}"\nspeaks = "chat"\n'
        )
        flags = ("--config", str(config), "--capture-dir", str(tmp_path))
        async with (
            serving(*flags) as server,
            Call(server.port, f"/ng-rollout/a{RESPONSES}", responses_request(stream=True)) as call,
        ):
            await call.chunk()
            body = chat_request(stream=True)
            assert (await ask(server.port, CHAT, body, {"x-dragoman-rollout": "a"})).is_whole
            status, _ = await server.end(*signals)
    assert status == 0
    done, cut = read_records(tmp_path, "a")
    assert (done["dialect"], done["error_category"]) == ("chat", None)
    assert (cut["dialect"], cut["error_category"]) == ("responses", "stream_truncated")
    assert cut["response"]["output"][0]["content"][0]["text"] == "Hi"


async def test_open_stream_may_end_within_the_drain_limit() -> None:
    """After the first signal nothing new is taken, but what is under way goes on."""
    may_end = asyncio.Event()
    reply = StreamReply([chat_chunk("Hi"), may_end, chat_chunk(finish="stop")])
    async with ScriptedUpstream(reply) as upstream:
        flags = ("--upstream", upstream.url, "--upstream-speaks", "chat")
        async with (
            serving(*flags) as server,
            Call(server.port, RESPONSES, responses_request(stream=True)) as call,
        ):
            await call.chunk()
            ending = asyncio.create_task(server.end(signal.SIGINT))
            with pytest.raises(ConnectionError):
                while True:
                    await ask(server.port, "/health", method="GET")
                    await asyncio.sleep(0.02)
            may_end.set()
            rest = b"".join([chunk async for chunk in call.chunks()])
            status, seconds = await ending
    assert b"response.completed" in rest
    assert (status, seconds < PROMPT_S) == (0, True)


async def test_stream_that_outlasts_the_drain_limit_is_cut(tmp_path: Path) -> None:
    async with ScriptedUpstream(StreamReply([chat_chunk("Hi"), asyncio.Event()])) as upstream:
        config = tmp_path / "dragoman.toml"
        config.write_text(
            f'[server]\ndrain_s = 1\n[upstreams.default]\nurl = "{upstream.url}"\nspeaks = "chat"\n'
        )
        async with (
            serving("--config", str(config)) as server,
            Call(server.port, CHAT, chat_request(stream=True)) as call,
        ):
            await call.chunk()
            ending = asyncio.create_task(server.end(signal.SIGTERM))
            with pytest.raises(BrokenOff):
                await call.chunk()
            status, seconds = await ending
            with contextlib.suppress(AssertionError):
                while True:
                    await server.line()
    assert status == 0
    assert 0.9 < seconds < PROMPT_S
    assert await upstream.requests[0].closed()
    outcomes = [line["outcome"] for line in server.lines if "outcome" in line]
    assert outcomes == ["cancelled"]
    assert "Traceback" not in str(server.lines)


async def test_second_signal_does_not_wait() -> None:
    """Whichever of both it is."""
    async with ScriptedUpstream(StreamReply([chat_chunk("Hi"), asyncio.Event()])) as upstream:
        flags = ("--upstream", upstream.url, "--upstream-speaks", "chat")
        async with (
            serving(*flags) as server,
            Call(server.port, RESPONSES, responses_request(stream=True)) as call,
        ):
            await call.chunk()
            status, seconds = await server.end(signal.SIGINT, signal.SIGTERM)
    assert (status, seconds < PROMPT_S) == (0, True)


async def test_port_in_use() -> None:
    """Told at once, with what to do, and without a traceback."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "proxy", "serve", "--port", str(port)),
            stderr=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        _, error = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 2
    text = error.decode()
    assert text.count("\n") == 1
    assert text.startswith(f"dragoman: cannot listen on 127.0.0.1:{port}: ")
    assert "in use" in text
    assert "--port" in text


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_listener(host: str) -> None:
    if host == "::1" and not has_ipv6_loopback():
        with pytest.raises(PortTaken, match="::1"):
            listen(host, 0)
        return
    listener = listen(host, 0)
    assert listener.getsockname()[1]
    listener.close()


def has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_address_that_is_not_ours(host: str) -> None:
    with pytest.raises(PortTaken, match=host):
        listen(host, 0)
