"""The proxy as a process of its own, in front of a scripted upstream, and a client's program.

    run = drive([python, PROGRAMS / "openai_agents.py"], "responses")
    assert run.output["answer"] == "It rains."

Nothing of our environment that could lead a client elsewhere (keys, base URLs, HTTP proxies)
reaches it, and what a client would ask of the network beside the proxy finds no way out.
"""

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from backends.demo import DemoBackend
from tests.upstream import ReceivedRequest, ScriptedUpstream, serve_backend

JSON: TypeAlias = Any

MODEL = "served-model"
"""The one model of the demo upstream; it refuses any other with 404."""

PROGRAMS = Path(__file__).parent / "programs"

_ROOT = Path(__file__).parents[2]
_START_LIMIT_S = 30
_STOP_LIMIT_S = 10
_PROGRAM_LIMIT_S = 60
_TAIL_CHARS = 4000

_KEPT = ("HOME", "LANG", "PATH", "TMPDIR")
_QUIET = {
    "HTTPS_PROXY": "http://127.0.0.1:9",  # nobody listens there
    "HTTP_PROXY": "http://127.0.0.1:9",
    "LANGSMITH_TRACING": "false",
    "NO_COLOR": "1",
    "NO_PROXY": "127.0.0.1",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "OPENAI_API_KEY": "unused",  # most clients insist on one
    "PYTHONDONTWRITEBYTECODE": "1",
}


class Run(msgspec.Struct, frozen=True):
    """What a program printed, and what reached the upstream meanwhile."""

    output: JSON
    requests: Sequence[ReceivedRequest]

    def chats(self) -> list[JSON]:
        """The chat requests, in their order."""
        return [r.json for r in self.requests if r.path == "/v1/chat/completions"]


def drive(program: Sequence[str | Path], *arguments: str, direct: bool = False) -> Run:
    """Run a program that prints one JSON document, in front of the demo model.

    It is called with a base URL, the model's name and ``arguments``.

    Args:
        program: The command that runs it.
        arguments: What it should do.
        direct: Give it the upstream's URL instead of the proxy's.

    Raises:
        AssertionError: The program or the proxy failed.
    """
    return asyncio.run(_drive(program, arguments, direct=direct))


async def _drive(program: Sequence[str | Path], arguments: Sequence[str], *, direct: bool) -> Run:
    demo = serve_backend(DemoBackend(models=[MODEL], pause_s=0))
    async with ScriptedUpstream(handler=demo) as upstream, contextlib.AsyncExitStack() as stack:
        url = upstream.url if direct else await stack.enter_async_context(proxying(upstream.url))
        printed = await run_program([*program, url, MODEL, *arguments])
    return Run(msgspec.json.decode(printed), upstream.requests)


@contextlib.asynccontextmanager
async def proxying(upstream: str, *flags: str) -> AsyncIterator[str]:
    """The base URL of a proxy in front of a chat upstream; it is stopped at the context's end.

    Raises:
        AssertionError: It does not start, does not stop, or logged an error. The message has its
            log.
    """
    command = [sys.executable, "-m", "proxy", "serve", "--port", "0", "--log-format", "json"]
    command += ["--upstream", upstream, "--upstream-speaks", "chat", *flags]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=_ROOT,
        env=environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    assert process.stderr is not None
    log: list[str] = []
    serving: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    reading = asyncio.create_task(_read_log(process.stderr, log, serving))
    try:
        yield await asyncio.wait_for(serving, _START_LIMIT_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        stopped = await _ended(process, _STOP_LIMIT_S)
        await reading
    assert stopped, "SIGTERM did not end the proxy:\n" + "".join(log)
    faults = [line for line in log if msgspec.json.decode(line)["level"] == "error"]
    assert not faults, "".join(faults)


async def _read_log(
    stream: asyncio.StreamReader, log: list[str], serving: asyncio.Future[str]
) -> None:
    async for line in stream:
        log.append(line.decode(errors="replace"))
        if b'"dragoman serves"' in line and not serving.done():
            serving.set_result(msgspec.json.decode(line)["url"])
    if not serving.done():
        serving.set_exception(AssertionError("the proxy ended:\n" + "".join(log)))


async def _ended(process: asyncio.subprocess.Process, limit_s: float) -> bool:
    """Whether a process ends by itself; it is ended otherwise."""
    try:
        await asyncio.wait_for(process.wait(), limit_s)
    except TimeoutError:
        process.kill()
        await process.wait()
        return False
    return True


def environment(**more: str) -> dict[str, str]:
    """What a client's process may know of ours, and what keeps it quiet."""
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | _QUIET | more


async def run_program(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    status: int = 0,
) -> str:
    """What a program prints on standard output.

    Raises:
        AssertionError: Its exit status is not ``status``, or it takes too long; the message has
            what it wrote.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=environment() if env is None else env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), _PROGRAM_LIMIT_S)
    except TimeoutError:
        raise AssertionError(f"{command} took over {_PROGRAM_LIMIT_S} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    wrote = "\n".join(text.decode(errors="replace")[-_TAIL_CHARS:] for text in (out, err))
    assert process.returncode == status, f"{command} gave {process.returncode}:\n{wrote}"
    return out.decode()


def node_program(name: str, node: Path, folder: Path) -> Path:
    """A program of ours where Node finds what it imports: beside a link to ``node_modules``."""
    program = folder / name
    shutil.copy(PROGRAMS / name, program)
    (folder / "node_modules").symlink_to(node / "node_modules")
    return program
