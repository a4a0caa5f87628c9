"""Several workers on one port, as processes."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import structlog

from proxy import cli
from proxy.loading import load
from proxy.serve import listen
from proxy.settings import Settings, Upstream
from proxy.workers import owner as owner_module
from proxy.workers.owner import listen_many
from tests.backends.managed_vllm import install_fake
from tests.backends.processes import Family, a_family, linux_only, until
from tests.proxy.caller import Answer, Call, ask
from tests.proxy.captured import read_records
from tests.proxy.dialects import CHAT, DONE, chat_chunk, chat_reply, chat_request
from tests.proxy.test_serve import PROMPT_S, Server, serving
from tests.upstream import ReceivedRequest, Reply, ScriptedUpstream, StreamReply

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
            if "proxy.workers.worker" in words:
                found[int(words[words.index("proxy.workers.worker") + 1])] = int(pid)
    return found


def open_files() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def lines_until(server: Server, event: str) -> None:
    while (await server.line())["event"] != event:
        pass


def workers_of(server: Server) -> set[int]:
    return {line["worker"] for line in server.lines if line["event"] == "request"}


async def both_work(server: Server) -> None:
    """Ask until both workers have answered."""
    async with asyncio.timeout(30):
        while workers_of(server) != {0, 1}:
            assert (await ask(server.port, CHAT, chat_request())).status == 200
            await lines_until(server, "request")


async def test_workers_share_a_port_and_end_together() -> None:
    """Connections come to both; one signal ends them and their owner."""
    async with ScriptedUpstream(handler=lambda _: Reply.json(chat_reply())) as upstream:
        flags = ("--upstream", upstream.url, "--upstream-speaks", "chat", "--workers", "2")
        async with serving(*flags) as server:
            assert server.lines[0]["workers"] == 2
            await both_work(server)
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
            await until(lambda: pids_of_workers(server).keys() == {0, 1}, within_s=30)


@linux_only
async def test_worker_that_cannot_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For want of processes or files, perhaps; the other workers go on."""
    settings = Settings(upstreams={"default": Upstream(url="http://127.0.0.1:1/v1")})
    workers = owner_module.Workers(settings)
    files: list[int] = []

    async def refuse(*_: object, stdin: int, **__: object) -> None:
        files.append(open_files())
        if len(files) == 3:
            workers._end([])
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    monkeypatch.setattr(owner_module, "_FIRST_PAUSE_S", 0.01)
    with socket.socket() as listener, structlog.testing.capture_logs() as logs:
        await workers._keep(0, listener)
    workers._file.close()
    assert [log["event"] for log in logs] == ["worker ended"] * 2
    assert "Resource temporarily unavailable" in logs[0]["status"]
    assert len(set(files)) == 1


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


async def test_who_comes_at_the_end_is_refused() -> None:
    """At once, while open streams may still end; nobody would answer later."""
    may_end = asyncio.Event()
    async with ScriptedUpstream(StreamReply([chat_chunk("Hi"), may_end, DONE])) as upstream:
        flags = ("--upstream", upstream.url, "--upstream-speaks", "chat", "--workers", "2")
        body = chat_request(stream=True)
        async with serving(*flags) as server, Call(server.port, CHAT, body) as call:
            await call.chunk()
            ending = asyncio.create_task(server.end(signal.SIGTERM))
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                while True:
                    await asyncio.wait_for(ask(server.port, "/health", method="GET"), 5)
                    await asyncio.sleep(0.02)
            may_end.set()
            assert b"".join([chunk async for chunk in call.chunks()]) == DONE
            assert (await ending)[0] == 0


class Busy:
    """An upstream's handler that keeps requests until it is told; how many it has."""

    def __init__(self) -> None:
        self.open = 0
        self.most = 0
        self.go = asyncio.Event()

    async def __call__(self, request: ReceivedRequest) -> Reply:
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await self.go.wait()
        finally:  # the peer may go first
            self.open -= 1
        return Reply.json(chat_reply())


def limited(upstream: ScriptedUpstream, folder: Path, limit: int, queue: int) -> tuple[str, ...]:
    """Flags for two workers with a limit for both."""
    config = folder / "dragoman.toml"
    config.write_text(
        f'[upstreams.default]\nurl = "{upstream.url}"\nspeaks = "chat"\n'
        f"max_concurrent = {limit}\nqueue_limit = {queue}\n"
    )
    return ("--config", str(config), "--workers", "2")


async def test_limit_holds_over_all_workers_and_may_be_used_by_any(tmp_path: Path) -> None:
    """Whichever worker has a request, its place is one of all; until one worker had them all."""
    busy = Busy()
    async with (
        ScriptedUpstream(handler=busy) as upstream,
        serving(*limited(upstream, tmp_path, 3, 10_000)) as server,
    ):
        had_all = had_both = False
        async with asyncio.timeout(40):
            while not (had_all and had_both):
                before = len(server.lines)
                calls = [
                    asyncio.create_task(ask(server.port, CHAT, chat_request())) for _ in range(3)
                ]
                await until(lambda: busy.open == 3)
                more = asyncio.create_task(ask(server.port, CHAT, chat_request()))
                busy.go.set()
                assert {(await call).status for call in (*calls, more)} == {200}
                busy.go.clear()
                for _ in range(4):
                    await lines_until(server, "request")
                numbers = [line["worker"] for line in server.lines[before:]]
                had_all |= len(set(numbers)) == 1
                had_both |= len(set(numbers)) == 2
        assert busy.most == 3


async def test_places_of_workers_that_are_killed_come_back(tmp_path: Path) -> None:
    """As many as they had, not one more."""
    busy = Busy()
    async with (
        ScriptedUpstream(handler=busy) as upstream,
        serving(*limited(upstream, tmp_path, 6, 0)) as server,
    ):
        busy.go.set()
        await both_work(server)
        busy.go.clear()
        calls = [asyncio.create_task(ask(server.port, CHAT, chat_request())) for _ in range(6)]
        await until(lambda: busy.open == 6)
        assert (await ask(server.port, CHAT, chat_request())).status == 503
        for pid in pids_of_workers(server).values():
            os.kill(pid, signal.SIGKILL)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, BaseException) for answer in answers)
        await until(lambda: busy.open == 0)
        again = [asyncio.create_task(ask(server.port, CHAT, chat_request())) for _ in range(6)]
        await until(lambda: busy.open == 6, within_s=30)  # they wait for the new workers
        refused = await ask(server.port, CHAT, chat_request())
        assert (refused.status, refused.error["code"]) == (503, "queue_full")
        busy.go.set()
        assert [(await call).status for call in again] == [200] * 6


async def test_captures_of_one_rollout_from_both_workers_are_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "x" * 50_000
    async with ScriptedUpstream(handler=lambda _: Reply.json(chat_reply(text))) as upstream:
        flags = ("--upstream", upstream.url, "--upstream-speaks", "chat", "--workers", "2")
        async with serving(*flags, "--capture-dir", str(tmp_path)) as server:
            sent = 0
            async with asyncio.timeout(30):
                while workers_of(server) != {0, 1}:
                    rollout = {"x-dragoman-rollout": "a"}
                    answers = await asyncio.gather(
                        *(ask(server.port, CHAT, chat_request(text), rollout) for _ in range(20))
                    )
                    assert {answer.status for answer in answers} == {200}
                    for _ in range(20):
                        await lines_until(server, "request")
                    sent += 20
            assert (await server.end(signal.SIGTERM))[0] == 0
    records = read_records(tmp_path, "a")
    assert len({record["model_call_id"] for record in records}) == len(records) == sent
    assert cli.main(["captures", "sum", str(tmp_path), "--json"]) == 0
    summed = msgspec.json.decode(capsys.readouterr().out)
    assert (summed["calls"], summed["tokens_in"]) == (sent, 3 * sent)


async def test_wrong_setting_is_told_once(tmp_path: Path) -> None:
    """By the owner, before it starts any worker."""
    place = tmp_path / "file"
    place.touch()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "serve", "--port", "0", "--workers", "2"),
        *("--upstream", "http://127.0.0.1:1/v1", "--capture-dir", str(place)),
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    _, error = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 2
    assert error.decode().startswith("dragoman: capture.dir: ")
    assert error.count(b"\n") == 1


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Family]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with a_family() as family:
        yield family


def spawning(family: Family, folder: Path, settings: str = "") -> tuple[str, ...]:
    """Flags for two workers with a vLLM, played by a script; ``settings`` are its table's."""
    env = {"FAMILY_MARK": family.env["FAMILY_MARK"], **install_fake(folder)}
    pairs = ", ".join(f'{name} = "{value}"' for name, value in env.items())
    config = folder / "dragoman.toml"
    config.write_text(
        '[server]\nrelay = ["/v1/x", "/v1/die"]\n[upstreams.local.vllm]\nmodel = "m"\n'
        f'python = "{sys.executable}"\nenv = {{ {pairs} }}\nrestart_backoff_s = 0.1\n{settings}'
    )
    return ("--config", str(config), "--workers", "2")


async def in_state(port: int, state: str) -> Answer:
    """What ``/ready`` says once vLLM is in a state."""
    async with asyncio.timeout(20):
        while True:
            answer = await ask(port, "/ready", method="GET")
            if answer.json["vllm"]["local"]["state"] == state:
                return answer
            await asyncio.sleep(0.02)


@linux_only
async def test_vllm_is_one_and_all_workers_know_its_state(
    family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed by one worker's request, it is restarted, and both workers' requests wait for it."""
    async with serving(*spawning(family, tmp_path)) as server:
        ready = await in_state(server.port, "ready")
        vllm = {"state": "ready", "message": "", "model": "m", "version": "0.0.0"}
        assert (ready.status, ready.json["vllm"]["local"]) == (200, vllm)
        port = f"{server.port}"
        config = str(tmp_path / "dragoman.toml")
        status = await asyncio.to_thread(cli.main, ["check", "--config", config, "--port", port])
        assert (status, capsys.readouterr().out.splitlines()[-1]) == (
            0,
            "local: ready in the running proxy: vLLM 0.0.0 with m",
        )
        first = (await ask(server.port, "/v1/x", {})).json["pid"]
        async with asyncio.timeout(30):
            while workers_of(server) != {0, 1}:
                died = await ask(server.port, "/v1/die", {})
                assert died.status == 503
                assert "vLLM exited with status 9" in died.error["message"]
                calls = (ask(server.port, "/v1/x", {}) for _ in range(6))
                seen = await asyncio.gather(*calls)
                (second,) = {answer.json["pid"] for answer in seen}
                assert second != first
                for _ in range(7):
                    await lines_until(server, "request")
        assert (await server.end(signal.SIGTERM))[0] == 0
        assert family.gone()


@linux_only
async def test_vllm_that_starts_is_told_of_and_ends_with_the_owner(
    family: Family, tmp_path: Path
) -> None:
    async with serving(*spawning(family, tmp_path), FAKE_HANG="1") as server:
        told = await ask(server.port, CHAT, chat_request())
        assert (told.status, told.headers["retry-after"]) == (503, "5")
        assert told.error["message"].startswith("local: vLLM is still starting (importing, ")
        pids = pids_of_workers(server)
        server.process.kill()
        await until(lambda: family.gone() and not any(map(lives, pids.values())))


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
    """As MessagePack: those of the document say something of each kind."""
    document = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    block = document.partition("```toml\n")[2].partition("```")[0]
    path = tmp_path / "dragoman.toml"
    path.write_text(block)
    settings = load(path, {}, {"SEAL": "s", "LOCAL_KEY": "k"})
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(settings), type=Settings) == settings
