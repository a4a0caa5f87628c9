"""Why vLLM did not start, read from its log.

``vllm_logs`` holds logs of a real vLLM 0.32, without the code lines of tracebacks. What needs an
accelerator, a cluster or the network cannot be recorded here: those lines are from the sources of
vLLM, PyTorch and Hugging Face's hub, and from issues.
"""

from pathlib import Path

import pytest

from backends.vllm_log import LogReader

LOGS = Path(__file__).with_name("vllm_logs")

RECORDED = {
    "architecture": "this vLLM does not support the model's architecture nope",
    "chat-template": "the chat template /no/such.jinja is missing",
    "head-dim": "vLLM's attention for CPUs cannot do this model's head_dim of 16",
    "kv-cache": "there is no room for the KV cache; lower --max-model-len or raise"
    " --gpu-memory-utilization",
    "max-model-len": "--max-model-len 99999999 is more than the model was made for",
    "memory-utilization": "vLLM refused a setting: Input should be less than or equal to 1,"
    " but it was 2.0",
    "no-ray": "Ray is not installed in vLLM's environment",
    "no-such-folder": "the model was not found: it is neither a local folder with a config.json nor"
    " a repository that can be reached",
    "no-such-repository": "the model was not found: it is neither a local folder with a config.json"
    " nor a repository that can be reached",
    "no-tool-parser": "vLLM refused its arguments: --enable-auto-tool-choice requires"
    " --tool-call-parser",
    "no-weights": "/models/noweights has no weights",
    "port-taken": "the port it was given is in use by another process",
    "quantization": "vLLM refused its settings: Cannot find the config file for awq",
    "tensor-parallel-size": "vLLM refused its settings: Total number of attention heads (4) must be"
    " divisible by tensor parallel size (3)",
    "unknown-flag": "vLLM does not know these arguments: --tensor-paralel-size",
    "unknown-reasoning-parser": "this vLLM has no parser named nosuch; its log lists those that it"
    " has",
    "unknown-tool-parser": "this vLLM has no parser named nosuch; its log lists those that it has",
    "wrong-json": "vLLM refused its arguments: argument --limit-mm-per-prompt: Value {bad cannot be"
    " converted to <function loads at 0x7f48138ad9e0>.",
    "wrong-value": "vLLM refused its arguments: argument --dtype: invalid choice: 'float99' (choose"
    " from 'auto', 'bfloat16', 'float', 'float16', 'float32', 'half')",
}

_NO_ACCELERATOR = "vLLM finds no accelerator that it can use"


def reason(*lines: str) -> str:
    reader = LogReader()
    for line in lines:
        reader.feed(line)
    return reader.explain(1)


def test_every_log_is_read() -> None:
    assert {path.stem for path in LOGS.glob("*.log")} == RECORDED.keys()


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_start(name: str) -> None:
    lines = (LOGS / f"{name}.log").read_text(encoding="utf-8").splitlines()
    assert reason(*lines) == RECORDED[name]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("RuntimeError: Failed to infer device type, please set the environment", _NO_ACCELERATOR),
        ("RuntimeError: Found no NVIDIA driver on your system. Please check", _NO_ACCELERATOR),
        ("RuntimeError: No CUDA GPUs are available", _NO_ACCELERATOR),
        (
            "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory",
            _NO_ACCELERATOR,
        ),
        (
            "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).",
            _NO_ACCELERATOR,
        ),
        (
            "RuntimeError: CUDA error: no kernel image is available for execution on the device",
            "this vLLM was not built for this kind of accelerator",
        ),
        (
            "ValueError: World size (4) is larger than the number of available GPUs (2) in this"
            " node. If this is intentional and you are using:",
            "it was told to use 4 accelerators, and this machine has 2",
        ),
        (
            "ValueError: The number of required GPUs exceeds the total number of available GPUs in"
            " the placement group.",
            "the Ray cluster has fewer GPUs than it was told to use",
        ),
        (
            "Failed to load model - not enough GPU memory. Try lowering --gpu-memory-utilization",
            "the accelerator ran out of memory",
        ),
        (
            "ValueError: Available memory on node 0 (2.0/23.5 GiB) on startup is less than desired"
            " CPU memory utilization (0.9, 21.1 GiB).",
            "too little of the machine's memory is free",
        ),
        (
            "RuntimeError: Insufficient space in /dev/shm for the ring buffer: 160 MiB required",
            "there is too little shared memory",
        ),
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        (
            "ValueError: Cannot auto-fit max_model_len: not enough GPU memory available to serve",
            "there is no room for the KV cache",
        ),
        (
            "OSError: You are trying to access a gated repo.",
            "the model's repository asks for a permission; is HF_TOKEN set?",
        ),
        (
            "RuntimeError: Failed to load the model config. If the model is a custom model not yet"
            " available in the HuggingFace transformers library, consider setting"
            " `trust_remote_code=True` in LLM or using the `--trust-remote-code` flag in the CLI.",
            "the model brings code of its own",
        ),
        (
            "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least"
            " 8.0. Your Tesla T4 GPU has compute capability 7.5.",
            "this accelerator cannot compute in bfloat16; --dtype half may help",
        ),
        (
            "ValueError: VLLM_PORT 'tcp://10.0.0.7:8000' appears to be a URI. This may be caused",
            "Kubernetes set the environment variable VLLM_PORT",
        ),
    ],
)
def test_a_known_line(line: str, expected: str) -> None:
    """Whatever wraps it in other processes."""
    said = reason(
        f"(EngineCore pid=2) ERROR 11-23 02:56:57 [core.py:1510] {line}",
        "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.",
    )
    assert said.startswith(expected)


def test_what_vllm_says_of_its_settings_is_no_cause() -> None:
    assert (
        reason(
            "INFO 11-23 05:58:42 [cpu.py:224] non-default args: {'trust_remote_code': True}",
            "INFO 11-23 05:58:52 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config:"
            " model='m', trust_remote_code=True, dtype=torch.bfloat16, tool_call_parser='hermes'",
        )
        == "vLLM exited with status 1 before it was ready"
    )
