"""Several workers on one port, as processes."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

import msgspec
import pytest

from proxy.loading import load
from proxy.serve import listen
from proxy.settings import VLLM, Settings, Upstream, key_of, secret_of
from proxy.tables import SettingsError
from proxy.workers import listen_many, share
from tests.backends.processes import until
from tests.proxy.caller import Call, ask
from tests.proxy.dialects import CHAT, DONE, chat_chunk, chat_reply, chat_request
from tests.proxy.test_serve import PROMPT_S, Server, serving
from tests.upstream import Reply, ScriptedUpstream, StreamReply

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(sys.platform == "win32", reason="there is one worker only"),
]


def pids_of_workers(server: Server) -> dict[int, int]:
    """Process ids by worker; Linux tells them."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    found = {}
    for pid in children.read_text().split():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            if "proxy.worker" in words:
                found[int(words[words.index("proxy.worker") + 2])] = int(pid)
    return found


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def lines_until(server: Server, event: str) -> None:
    while (await server.line())["event"] != event:
        pass


def workers_of(server: Server) -> set[int]:
    return {line["worker"] for line in server.lines if line["event"] == "request"}


async def test_workers_share_a_port_and_end_together() -> None:
    """Connections come to both; one signal ends them and their owner."""
    async with ScriptedUpstream(handler=lambda _: Reply.json(chat_reply())) as upstream:
        flags = ("--upstream", upstream.url, "--upstream-speaks", "chat", "--workers", "2")
        async with serving(*flags) as server:
            assert server.lines[0]["workers"] == 2
            async with asyncio.timeout(20):
                while workers_of(server) != {0, 1}:
                    assert (await ask(server.port, CHAT, chat_request())).status == 200
                    await lines_until(server, "request")
            pids = pids_of_workers(server)
            status, seconds = await server.end(signal.SIGTERM)
    assert (status, seconds < PROMPT_S) == (0, True)
    assert len(pids) == 2
    assert not any(map(lives, pids.values()))


async def test_worker_that_dies_is_replaced_and_no_request_is_lost() -> None:
    async with ScriptedUpstream(handler=lambda _: Reply.json(chat_reply())) as upstream:
        flags = ("--upstream", upstream.url, "--upstream-speaks", "chat", "--workers", "2")
        async with serving(*flags) as server:
            pids = pids_of_workers(server)
            os.kill(pids[0], signal.SIGKILL)
            await lines_until(server, "worker ended")
            assert server.lines[-1]["worker"] == 0
            answers = await asyncio.gather(
                *(ask(server.port, CHAT, chat_request()) for _ in range(20))
            )
            assert {answer.status for answer in answers} == {200}
            await until(lambda: pids_of_workers(server).keys() == {0, 1})


async def test_workers_end_with_their_owner() -> None:
    async with serving("--upstream", "http://127.0.0.1:1/v1", "--workers", "2") as server:
        pids = pids_of_workers(server)
        server.process.kill()
        await until(lambda: not any(map(lives, pids.values())))


async def test_open_stream_may_end_although_the_owner_is_gone() -> None:
    may_end = asyncio.Event()
    async with ScriptedUpstream(StreamReply([chat_chunk("Hi"), may_end, DONE])) as upstream:
        flags = ("--upstream", upstream.url, "--upstream-speaks", "chat", "--workers", "2")
        body = chat_request(stream=True)
        async with serving(*flags) as server, Call(server.port, CHAT, body) as call:
            await call.chunk()
            pids = pids_of_workers(server)
            server.process.kill()
            await until(lambda: sum(map(lives, pids.values())) == 1)  # the one that is idle ends
            may_end.set()
            assert b"".join([chunk async for chunk in call.chunks()]) == DONE
            await until(lambda: not any(map(lives, pids.values())))


async def test_open_stream_may_end_and_a_second_signal_does_not_wait() -> None:
    async with ScriptedUpstream(StreamReply([chat_chunk("Hi"), asyncio.Event()])) as upstream:
        flags = ("--upstream", upstream.url, "--upstream-speaks", "chat", "--workers", "2")
        body = chat_request(stream=True)
        async with serving(*flags) as server, Call(server.port, CHAT, body) as call:
            await call.chunk()
            status, seconds = await server.end(signal.SIGINT, signal.SIGINT)
    assert (status, seconds < PROMPT_S) == (0, True)


def test_vllm_is_the_owners_and_workers_reach_it_by_url() -> None:
    spawned = Upstream(vllm=VLLM("m", args=["--seed", "0"]), profile="vllm")
    settings = Settings(upstreams={"a": spawned, "b": Upstream(url="http://b/v1")})
    owned, shared = share(settings)
    assert list(owned) == ["a"]
    assert owned["a"].vllm is not None
    port = owned["a"].vllm.args[-1]
    assert owned["a"].vllm.args == ["--seed", "0", "--port", port]
    reached = shared.upstreams["a"]
    assert (reached.vllm, reached.url) == (None, f"http://127.0.0.1:{port}/v1")
    assert key_of(reached) == owned["a"].vllm.env["VLLM_API_KEY"]
    assert shared.upstreams["b"] == settings.upstreams["b"]
    assert secret_of(shared.server)


@pytest.mark.parametrize("vllm", [VLLM("m", args=["--port=1"]), VLLM("m", flags={"api_key": "k"})])
def test_port_and_key_of_a_shared_vllm_are_not_the_operators(vllm: VLLM) -> None:
    with pytest.raises(SettingsError, match="vllm: with several workers"):
        share(Settings(upstreams={"a": Upstream(vllm=vllm)}))


def test_address_is_not_shared_with_strangers() -> None:
    """Sockets that share a port would otherwise split its connections without a word."""
    sockets = listen_many(listen("127.0.0.1", 0), 2)
    port = sockets[0].getsockname()[1]
    assert sockets[1].getsockname()[1] == port
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind(("127.0.0.1", port))
    for listener in sockets:
        listener.close()


def test_settings_reach_workers_whole(tmp_path: Path) -> None:
    """As JSON on a pipe: those of the document say something of each kind."""
    document = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    block = document.partition("```toml\n")[2].partition("```")[0]
    path = tmp_path / "dragoman.toml"
    path.write_text(block)
    settings = load(path, {}, {"SEAL": "s", "LOCAL_KEY": "k"})
    assert msgspec.json.decode(msgspec.json.encode(settings), type=Settings) == settings
