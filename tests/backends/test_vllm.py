"""A managed vLLM, played by ``fake_vllm.py``: commands, readiness, reasons, and its end."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from backends import vllm_command, vllm_life
from backends.base import UpstreamRequest
from backends.errors import BackendError, BackendExited, BackendUnavailable
from backends.process import State
from backends.vllm import VllmBackend
from backends.vllm_command import check_arguments, free_port, plan_launch, printable
from backends.vllm_log import LogReader, Phase
from tests.backends.managed_vllm import FAKE, Inner, install_fake, is_, post, started
from tests.backends.processes import Family, a_family, linux_only, until

KEY = "k3y"


@pytest.fixture
def family() -> Iterator[Family]:
    with a_family() as family:
        yield family


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """Environment in which ``-m vllm.entrypoints.openai.api_server`` is the fake server."""
    return install_fake(tmp_path)


class TestLife:
    async def test_from_start_to_stop(self, family: Family, installed: dict[str, str]) -> None:
        with structlog.testing.capture_logs() as logs:
            async with started(family, installed, args=["--max-model-len", "64"]) as backend:
                served = backend.served_model
                assert served is None
                with pytest.raises(BackendUnavailable) as early:
                    await backend.send(UpstreamRequest("GET", "/models"))
                assert early.value.retry_after_s is not None
                assert "local: vLLM is still starting (importing, 0 s so far)" in str(early.value)

                await until(is_(State.READY, backend))
                await backend.probe()
                seen = await post(backend)
                assert seen["path"] == "/v1/chat/completions"
                assert seen["argv"][:3] == ["--model", "org/model", "--host"]
                assert seen["argv"][-2:] == ["--max-model-len", "64"]
                assert backend.served_model == "org/model"
                assert backend.progress.phase is Phase.SERVING
                assert backend.progress.last_line.startswith("Starting vLLM server on")
            assert (backend.state, backend.reason) == (State.EXITED, "it was stopped")
            with pytest.raises(BackendExited):
                await backend.probe()
            await backend.aclose()
        phases = [log["phase"] for log in logs if log["event"] == "vllm_progress"]
        assert phases[0] == Phase.ENGINE
        assert phases[-1] == Phase.SERVING

    async def test_the_key_is_in_no_command_line_and_no_log(
        self, family: Family, installed: dict[str, str]
    ) -> None:
        keys: list[str] = []

        def connect(base_url: str, api_key: str) -> Inner:
            keys.append(api_key)
            return Inner(base_url, api_key)

        with structlog.testing.capture_logs() as logs:
            backend = VllmBackend(
                name="local",
                model="m",
                connect=connect,
                python=sys.executable,
                env={**family.env, **installed},
                poll_s=0.02,
            )
            await backend.start()
            await until(is_(State.READY, backend))
            argv = (await post(backend))["argv"]
            await backend.aclose()
        assert len(keys[0]) > 30
        assert keys[0] not in repr((argv, logs))

    async def test_the_users_arguments_win(self, family: Family, installed: dict[str, str]) -> None:
        port = str(free_port())
        args = ["--port", port, "--served_model_name=a", "--host=0.0.0.0"]
        async with started(family, installed, args=args) as backend:
            await until(is_(State.READY, backend))
            assert (await post(backend))["argv"] == ["--model", "org/model", *args]

    async def test_closing_while_it_starts(self, family: Family, installed: dict[str, str]) -> None:
        async with started(family, {**installed, "FAKE_HANG": "1"}) as backend:
            await until(lambda: backend.progress.last_line == "version 0.0.0")
        assert backend.state is State.EXITED

    async def test_closing_without_a_start(self) -> None:
        backend = VllmBackend(name="local", model="m", connect=Inner)
        with pytest.raises(BackendUnavailable, match="not started"):
            await backend.probe()
        await backend.aclose()

    @linux_only
    async def test_nothing_is_left_of_a_stubborn_tree(
        self, family: Family, installed: dict[str, str]
    ) -> None:
        env = {**installed, "FAKE_IGNORE_TERM": "1", "FAKE_STRAY": "1"}
        async with started(family, env, grace_s=0.3) as backend:
            await until(is_(State.READY, backend))
            assert len(family.members()) == 3  # the guardian, the server, the stray

    @linux_only
    def test_nothing_is_left_if_we_are_killed(
        self, family: Family, installed: dict[str, str]
    ) -> None:
        code = """
import asyncio, sys
from backends.process import State
from backends.vllm import VllmBackend
from tests.backends.managed_vllm import Inner

async def main():
    backend = VllmBackend(name="x", model="m", connect=Inner, python=sys.executable, grace_s=0.3,
                          poll_s=0.02)
    await backend.start()
    while backend.state is not State.READY:
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""
        misbehaviour = {"FAKE_STRAY": "1", "FAKE_IGNORE_TERM": "1"}
        with subprocess.Popen(
            [sys.executable, "-c", code],
            env={**family.env, **installed, **misbehaviour},
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(vllm_life.__file__).parents[1],
        ) as driver:
            assert driver.stdout is not None
            assert any(line == "ready\n" for line in driver.stdout)
            assert len(family.members()) == 4
            os.kill(driver.pid, signal.SIGKILL)
        asyncio.run(until(family.gone))

    async def test_silence_is_told_every_ten_seconds(
        self, family: Family, installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(vllm_life, "_TICK_S", 0.01)
        now_s = 0.0
        with structlog.testing.capture_logs() as logs:
            env = {**installed, "FAKE_HANG": "1"}
            async with started(family, env, clock=lambda: now_s) as backend:
                await until(lambda: backend.progress.last_line == "version 0.0.0")

                def told() -> list[float]:
                    return [log["elapsed_s"] for log in logs if log["event"] == "vllm_progress"]

                for then_s, expected in [(9, []), (10, [10]), (19, [10]), (21, [10, 21])]:
                    now_s = then_s
                    await asyncio.sleep(0.03)
                    await until(lambda expected=expected: told() == expected)  # type: ignore[misc]

    async def test_by_the_script(
        self, family: Family, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Where our interpreter has no vLLM but ``PATH`` has its script."""
        script = tmp_path / "vllm"
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        async with started(family, {}, python=None) as backend:
            await until(is_(State.READY, backend))
            assert (await post(backend))["argv"][:3] == ["serve", "org/model", "--host"]

    def test_on_the_event_loop_of_the_server(
        self, family: Family, installed: dict[str, str]
    ) -> None:
        """The proxy runs on uvloop, whose pipes and signals are its own."""

        async def main() -> None:
            async with started(family, installed) as backend:
                await until(is_(State.READY, backend))
                assert (await post(backend))["path"] == "/v1/chat/completions"
            assert backend.state is State.EXITED

        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())


class TestPort:
    async def test_a_lost_port_is_replaced(self, family: Family, installed: dict[str, str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            ports = [taken.getsockname()[1], free_port()]
            async with started(family, installed, choose_port=lambda: ports.pop(0)) as backend:
                await until(is_(State.READY, backend))
                assert ports == []

    async def test_not_for_ever(self, family: Family, installed: dict[str, str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            async with started(family, installed, choose_port=lambda: port) as backend:
                await until(is_(State.FAILED, backend))
                with pytest.raises(BackendExited, match="in use by another process"):
                    await backend.probe()

    async def test_the_users_port_is_kept(self, family: Family, installed: dict[str, str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            args = ["--port", str(taken.getsockname()[1])]
            async with started(family, installed, args=args) as backend:
                await until(is_(State.FAILED, backend))
                assert backend._life._attempts_left == vllm_life.PORT_ATTEMPTS - 1


class TestReasons:
    async def test_an_early_exit_has_reason_and_last_lines(
        self, family: Family, installed: dict[str, str]
    ) -> None:
        env = {**installed, "FAKE_SAY": "something odd", "FAKE_EXIT": "4"}
        async with started(family, env) as backend:
            await until(is_(State.FAILED, backend))
            with pytest.raises(BackendExited) as exited:
                await backend.send(UpstreamRequest("GET", "/models"))
        assert exited.value.status == 503
        assert str(exited.value).startswith(
            "local: vLLM exited with status 4 before it was ready; its last lines were:\n"
        )
        assert str(exited.value).endswith("\nsomething odd")

    async def test_an_exit_after_readiness_is_noticed_by_the_next_request(
        self, family: Family, installed: dict[str, str]
    ) -> None:
        words = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"
        async with started(family, {**installed, "FAKE_LAST_WORDS": words}) as backend:
            await until(is_(State.READY, backend))
            with pytest.raises(BackendExited, match="the accelerator ran out of memory"):
                await post(backend, "/die")

    async def test_a_missing_interpreter(self, family: Family) -> None:
        async with started(family, {}, python="/nonexistent/bin/python") as backend:
            await until(is_(State.FAILED, backend))
            with pytest.raises(BackendExited, match="the interpreter /nonexistent/bin/python was"):
                await backend.probe()

    async def test_an_interpreter_without_vllm(self, family: Family) -> None:
        async with started(family, {"PYTHONPATH": ""}) as backend:
            await until(is_(State.FAILED, backend))
            assert backend.reason == (
                f"the interpreter {sys.executable} has no module vllm;"
                " install it there or name another one"
            )

    async def test_no_vllm_at_all(
        self, family: Family, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        async with started(family, {}, python=None) as backend:
            await until(is_(State.FAILED, backend))
            assert backend.reason.startswith("vLLM is not installed: the interpreter")

    async def test_a_stall(self, family: Family, installed: dict[str, str]) -> None:
        now_s = 0.0
        env = {**installed, "FAKE_HANG": "1"}
        async with started(family, env, clock=lambda: now_s) as backend:
            await until(lambda: backend.progress.last_line == "version 0.0.0")
            now_s = 601.0
            await until(is_(State.FAILED, backend))
            assert backend.reason.startswith("it stalled")
            assert backend.progress.elapsed_s == 601.0

    async def test_a_fault_of_ours_is_no_endless_start(self, family: Family) -> None:
        def connect(base_url: str, api_key: str) -> Inner:
            raise ZeroDivisionError

        backend = VllmBackend(name="local", model="m", connect=connect, python=sys.executable)
        await backend.start()
        await until(is_(State.FAILED, backend))
        with pytest.raises(BackendError, match="ZeroDivisionError"):
            await backend.probe()
        await backend.aclose()
        life = backend._life._task
        assert life is not None
        assert isinstance(life.exception(), ZeroDivisionError)


class TestCommand:
    def test_ours_has_loopback_port_and_a_random_key(self) -> None:
        launch = plan_launch(
            ["/venv/bin/python", "-m", vllm_command.MODULE, "--model"],
            model="m",
            args=[],
            env={},
            port=8123,
        )
        assert launch.command[3:] == ("--model", "m", "--host", "127.0.0.1", "--port", "8123")
        assert launch.origin == "http://127.0.0.1:8123"
        assert launch.port_is_ours
        assert launch.env["VLLM_API_KEY"] == launch.api_key != ""
        assert (launch.env["VLLM_NO_USAGE_STATS"], launch.env["DO_NOT_TRACK"]) == ("1", "1")
        assert launch.env["PATH"].startswith("/venv/bin" + os.pathsep)

    @pytest.mark.parametrize(
        ("args", "origin"),
        [
            (["--port=9", "--host", "0.0.0.0"], "http://127.0.0.1:9"),
            (["--port", "8", "--port", "9", "--host", "::"], "http://[::1]:9"),
            (["--host=10.0.0.1"], "http://10.0.0.1:8123"),
        ],
    )
    def test_the_users_address_is_where_we_go(self, args: list[str], origin: str) -> None:
        launch = plan_launch(["vllm", "serve"], model="m", args=args, env={}, port=8123)
        assert launch.origin == origin
        assert launch.command[-len(args) :] == tuple(args)

    def test_the_users_key_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("VLLM_API_KEY", raising=False)
        args = ["--api-key", KEY, "other", "--seed", "1"]
        launch = plan_launch(["vllm", "serve"], model="m", args=args, env={}, port=1)
        assert launch.api_key == KEY
        assert "VLLM_API_KEY" not in launch.env
        assert printable(launch.command).endswith("--api-key '***' '***' --seed 1")

        launch = plan_launch(["vllm"], model="m", args=[], env={"VLLM_API_KEY": KEY}, port=1)
        assert launch.api_key == launch.env["VLLM_API_KEY"] == KEY

    def test_secrets_are_not_printed(self) -> None:
        assert printable(["v", "--hf_token=x", "--api-key=y", "z"]) == (
            "v '--hf_token=***' '--api-key=***' z"
        )

    def test_arguments_under_which_it_cannot_be_reached_are_refused(self) -> None:
        with pytest.raises(ValueError, match="--uds cannot be used here"):
            check_arguments(["--uds", "/x"])
        with pytest.raises(ValueError, match="--model"):
            VllmBackend(name="local", model="m", connect=Inner, args=["--model=x"])

    def test_flags_are_written_as_vllm_reads_them(self) -> None:
        """The whole table, in its order."""
        flags: dict[str, vllm_command.Flag] = {
            "tensor_parallel_size": 4,
            "gpu-memory-utilization": 0.85,
            "enable_auto_tool_choice": True,
            "enable_prefix_caching": False,
            "disable_log_stats": False,
            "headless": False,
            "tool_call_parser": "hermes",
            "limit_mm_per_prompt": {"image": 4, "video": {"count": 1}},
            "served_model_name": ["a", "b"],
            "cudagraph_capture_sizes": [1, 2, 4],
            "lora_modules": [{"name": "x", "path": "/x"}, "y=/y"],
            "allowed_origins": ["https://a.test"],
            "middleware": ["a.b", "c.d"],
            "disable_access_log_for_endpoints": ["/health", "/metrics"],
            "max_model_len": "auto",
            "seed": -1,
            "compilation_config.mode": 3,
        }
        assert vllm_command.flag_arguments(flags) == [
            *("--tensor-parallel-size", "4"),
            *("--gpu-memory-utilization", "0.85"),
            "--enable-auto-tool-choice",
            "--no-enable-prefix-caching",
            *("--tool-call-parser", "hermes"),
            *("--limit-mm-per-prompt", '{"image":4,"video":{"count":1}}'),
            *("--served-model-name", "a", "b"),
            *("--cudagraph-capture-sizes", "1", "2", "4"),
            *("--lora-modules", '{"name":"x","path":"/x"}', "y=/y"),
            *("--allowed-origins", '["https://a.test"]'),
            *("--middleware", "a.b", "--middleware", "c.d"),
            *("--disable-access-log-for-endpoints", "/health,/metrics"),
            *("--max-model-len", "auto"),
            "--seed=-1",
            *("--compilation-config.mode", "3"),
        ]

    @pytest.mark.parametrize(
        ("flags", "words"),
        [
            ({"tensor parallel": 1}, "'tensor parallel' is no name of a vLLM flag"),
            ({"served_model_name": []}, "vLLM flag served_model_name has an empty list"),
            ({"headless": True}, "--headless cannot be used here"),
            ({"model": "x"}, "--model cannot be used here"),
        ],
    )
    def test_wrong_flags_are_refused(self, flags: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            VllmBackend(name="local", model="m", connect=Inner, flags=flags)

    async def test_arguments_come_after_flags(
        self, family: Family, installed: dict[str, str], tmp_path: Path
    ) -> None:
        """Where both are given, argparse takes the later one."""
        options = {"flags": {"seed": 1, "served_model_name": ["a"]}, "args": ["--seed", "2"]}
        log_file = tmp_path / "logs" / "vllm.log"
        for _ in range(2):
            async with started(family, installed, log_file=log_file, **options) as backend:
                await until(is_(State.READY, backend))
                argv = (await post(backend))["argv"]
                assert argv[6:] == ["--seed", "1", "--served-model-name", "a", "--seed", "2"]
                assert backend.served_model == "a"
        lines = log_file.read_text().splitlines()
        assert [line.endswith("] version 0.0.0") for line in lines].count(True) == 2
        assert "GPU KV cache size: 1,024 tokens" in log_file.read_text()

    async def test_a_log_file_that_cannot_be_written_is_no_obstacle(
        self, family: Family, installed: dict[str, str], tmp_path: Path
    ) -> None:
        with structlog.testing.capture_logs() as logs:
            async with started(family, installed, log_file=tmp_path) as backend:
                await until(is_(State.READY, backend))
        assert [log["reason"] for log in logs if log["event"] == "vllm_log_file"] == [
            "Is a directory"
        ]

    def test_secret_flags_are_not_shown(self) -> None:
        flags: dict[str, vllm_command.Flag] = {"api_key": [KEY], "hf-token": KEY, "seed": 1}
        assert vllm_command.printable_flags(flags) == {
            "api_key": "***",
            "hf-token": "***",
            "seed": 1,
        }

    def test_our_interpreter_comes_before_the_script(
        self, installed: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        script = tmp_path / "vllm"
        script.touch(mode=0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert vllm_command.find_launcher(None) == (str(script), "serve")
        monkeypatch.syspath_prepend(installed["PYTHONPATH"])
        assert vllm_command.find_launcher(None)[:2] == (sys.executable, "-m")


class TestLog:
    def test_the_phases_of_a_real_start(self) -> None:
        api, core, worker = "(APIServer pid=1)", "(EngineCore pid=2)", "(Worker pid=3)"
        at = "INFO 11-23 02:56:57"
        log = [
            "Triton is installed, but doesn't include CPU backend. Disabling Triton.",
            f"{api} WARNING 11-23 02:56:43 [system_utils.py:255] Found ulimit of 20000 and failed"
            " to automatically increase. This can cause fd limit errors like `OSError: [Errno 24]",
            f"{api} WARNING 11-23 02:56:57 [vllm.py:1703] Enforce eager set, disabling"
            " torch.compile, CUDAGraphs, and JIT kernel warmup.",
            f"{core} {at} [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: x",
            f"{worker} {at} [cpu_model_runner.py:68] Starting to load model m...",
            f"{core} {at} [kv_cache_utils.py:2327] CPU KV cache size: 2,097,152 tokens, Maximum",
            f"{api} {at} [entry.py:140] Starting vLLM server on http://127.0.0.1:18123",
            f"{api} {at} [launcher.py:195] Route: /health, Methods: GET",
            "INFO:     Application startup complete.",
        ]
        reader = LogReader()
        phases = [reader.phase for line in log if reader.feed(line) or not reader.last_line]
        assert phases == [Phase.ENGINE, Phase.WEIGHTS, Phase.KV_CACHE, Phase.SERVING]
        assert reader.last_line == "INFO:     Application startup complete."
        assert reader.explain(1) == "vLLM exited with status 1 before it was ready"

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (
                "guardian: cannot start /x/python: No such file or directory",
                "the program /x/python was not found",
            ),
            (
                "guardian: cannot start /x/python: Permission denied",
                "the program /x/python cannot be run: Permission denied",
            ),
            (
                "/my venv/python: Error while finding module specification for"
                " 'vllm.entrypoints.openai.api_server' (ModuleNotFoundError: No module named"
                " 'vllm')",
                "the interpreter /my venv/python has no module vllm",
            ),
            (
                "importlib.metadata.PackageNotFoundError: No package metadata was found for vllm",
                "the vllm script does not work in its environment",
            ),
            (
                "api_server.py: error: unrecognized arguments: --bogus-flag",
                "vLLM does not know these arguments: --bogus-flag",
            ),
            (
                "api_server.py: error: argument --dtype: invalid choice: 'x'",
                "vLLM refused its arguments: argument --dtype: invalid choice: 'x'",
            ),
            ("OSError: [Errno 98] Address already in use", "the port it was given is in use"),
            (
                "(EngineCore pid=2) ERROR 11-23 02:56:57 [core.py:1510] torch.OutOfMemoryError:"
                " CUDA out of memory. Tried to allocate 2.00 GiB.",
                "the accelerator ran out of memory",
            ),
            (
                "ValueError: Free memory on device cuda:0 (3.1/79.2 GiB) on startup is less than"
                " desired GPU memory utilization (0.9, 71.3 GiB).",
                "too little of the accelerator's memory is free",
            ),
            (
                "RuntimeError: [enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't"
                " allocate memory: you tried to allocate 17 bytes.",
                "the machine ran out of memory",
            ),
            (
                "ValueError: To serve at least one request with the model's max seq len (40960),"
                " (1.2 GiB KV cache is needed, which is larger than the available KV cache memory",
                "there is no room for the KV cache",
            ),
            (
                "Value error, User-specified max_model_len (99999) is greater than the derived"
                " max_model_len (max_position_embeddings=2048 or model_max_length=None",
                "--max-model-len 99999 is more than the model was made for",
            ),
            (
                "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name'"
                " or 'namespace/repo_name': '/nonexistent/x'. Use `repo_type` argument if needed.",
                "the model was not found",
            ),
            (
                "Value error, Invalid repository ID or local directory specified: 'x'.",
                "the model was not found",
            ),
            (
                "huggingface_hub.errors.GatedRepoError: 401 Client Error.",
                "the model's repository asks for a permission",
            ),
            (
                "Value error, Model architectures ['FooForCausalLM'] are not supported for now.",
                "this vLLM does not support the model's architecture ['FooForCausalLM']",
            ),
            (
                "ValueError: The checkpoint you are trying to load has model type `foo` but"
                " Transformers does not recognize this architecture.",
                "this vLLM does not support the model's architecture foo",
            ),
            (
                "(APIServer pid=1) INFO 11-23 02:56:57 [core_client.py:817] [shutdown] MPClient:"
                " engine core exited unexpectedly; starting cleanup",
                "vLLM's engine process died without a word",
            ),
            (
                "PermissionError: [Errno 13] Permission denied: '/srv/vllm'",
                "it lacks a permission: Permission denied: '/srv/vllm'",
            ),
        ],
    )
    def test_known_causes(self, line: str, reason: str) -> None:
        reader = LogReader()
        reader.feed(line)
        reader.feed("(APIServer pid=1) RuntimeError: Engine core initialization failed.")
        assert reader.explain(1).startswith(reason)

    def test_the_root_cause_is_the_last_exception_that_is_no_wrapper(self) -> None:
        reader = LogReader()
        for line in [
            "ImportError: optional thing",
            "(EngineCore pid=2) ERROR 11-23 02:56:57 [core.py:1510] EngineCore failed to start.",
            "(EngineCore pid=2) ERROR 11-23 02:56:57 [core.py:1510] ValueError: head size 16",
            *["  File x"] * 80,
            "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause",
        ]:
            reader.feed(line)
        assert reader.explain(1) == "vLLM failed: ValueError: head size 16"

    def test_a_silent_kill_is_explained(self) -> None:
        assert LogReader().explain(137) == (
            "vLLM was ended by SIGKILL before it was ready,"
            " often the kernel's answer to a lack of memory"
        )

    def test_a_failed_request_long_ago_is_no_cause(self) -> None:
        reader = LogReader()
        reader.feed("ValueError: survived")
        reader.started()
        assert reader.explain(1) == "vLLM exited with status 1"
        reader.feed("ValueError: bad request")
        assert reader.explain(1) == "vLLM failed: ValueError: bad request"
        for _ in range(300):
            reader.feed("POST /v1/chat/completions 200 OK")
        assert reader.explain(1) == "vLLM exited with status 1"
