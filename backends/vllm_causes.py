"""What vLLM's last words mean: lines of its log, and the reason in one sentence for each.

Read from vLLM 0.32, its sources and its issues, PyTorch's and Hugging Face's among them.
"""

import re
from typing import Final

_NO_MODEL: Final = (
    "the model was not found: it is neither a local folder with a config.json nor a repository"
    " that can be reached"
)

_NO_ACCELERATOR: Final = (
    "vLLM finds no accelerator that it can use: look at the driver, at CUDA, and whether the"
    " container may see the device"
)

LOST_PORT: Final = "the port it was given is in use by another process"

# The first row that fits any line is the reason, so that causes stand before consequences.
CAUSES: Final = tuple(
    (re.compile(pattern), reason)
    for pattern, reason in (
        (r"^guardian: cannot start (.+): No such file", r"the program \1 was not found"),
        (r"^guardian: cannot start (.+): (.+)", r"the program \1 cannot be run: \2"),
        (
            r"^(.+?): (?:Error while finding module specification for|No module named) '?vllm\b",
            r"the interpreter \1 has no module vllm; install it there or name another one",
        ),
        (
            r"PackageNotFoundError: .*\bvllm\b",
            "the vllm script does not work in its environment; name that environment's"
            " interpreter instead",
        ),
        (r"error: unrecognized arguments: (.+)", r"vLLM does not know these arguments: \1"),
        (r"^\S+: error: (argument .+)", r"vLLM refused its arguments: \1"),
        (r"^TypeError: Error: (--\S+ requires --\S+)", r"vLLM refused its arguments: \1"),
        (
            r"invalid tool call parser: (\S+)|Reasoning parser '(\S+)' not found",
            r"this vLLM has no parser named \1\2; its log lists those that it has",
        ),
        (
            r"\[Errno (?:48|98)\]|[Aa]ddress already in use",
            LOST_PORT,
        ),
        (
            r"Found no NVIDIA driver|No (?:CUDA|HIP) GPUs are available"
            r"|Torch not compiled with CUDA|NVIDIA driver on your system is too old"
            r"|Failed to infer device type|CUDA driver version is insufficient",
            _NO_ACCELERATOR,
        ),
        (
            r"no kernel image is available",
            "this vLLM was not built for this kind of accelerator",
        ),
        (
            r"World size \((\d+)\) is larger than the number of available GPUs \((\d+)\)",
            r"it was told to use \1 accelerators, and this machine has \2",
        ),
        (
            r"The number of required (\w+) exceeds the total",
            r"the Ray cluster has fewer \1 than it was told to use",
        ),
        (
            r"Failed to import Ray",
            "Ray is not installed in vLLM's environment",
        ),
        (
            r"VLLM_PORT '.*' appears to be a URI",
            "Kubernetes set the environment variable VLLM_PORT for a service named vllm; give the"
            " service another name",
        ),
        (
            r"(?:CUDA|HIP|XPU) out of memory|OutOfMemoryError|CUDA error: out of memory"
            r"|not enough GPU memory\. Try lowering",
            "the accelerator ran out of memory; a smaller model, --max-model-len or"
            " --gpu-memory-utilization may help",
        ),
        (
            r"ValueError: Free memory on device",
            "too little of the accelerator's memory is free; is another process using it?",
        ),
        (
            r"Available memory on node \S+ .* is less than",
            "too little of the machine's memory is free; lower --gpu-memory-utilization, which"
            " also rules it on a CPU",
        ),
        (
            r"Insufficient space in (/dev/shm\S*)|insufficient shared memory \(shm\)",
            "there is too little shared memory; give the container more, with --shm-size or"
            " --ipc=host",
        ),
        (r"No space left on device", "the disk is full"),
        (
            r"can't allocate memory|Cannot allocate memory|^MemoryError",
            "the machine ran out of memory",
        ),
        (
            r"No available memory for the cache blocks|larger than the available KV cache memory"
            r"|Cannot auto-fit max_model_len",
            "there is no room for the KV cache; lower --max-model-len or raise"
            " --gpu-memory-utilization",
        ),
        (
            r"max_model_len \((\d+)\) is greater than the derived",
            r"--max-model-len \1 is more than the model was made for",
        ),
        (
            r"GatedRepoError|Access to model .* is restricted|gated repo"
            r"|401 Client Error.*huggingface",
            "the model's repository asks for a permission; is HF_TOKEN set?",
        ),
        (
            r"Repo id must be in the form|not a valid model identifier|Invalid repository ID"
            r"|RepositoryNotFoundError|Repository Not Found|LocalEntryNotFoundError"
            r"|outgoing traffic has been disabled|couldn't connect to .*huggingface",
            _NO_MODEL,
        ),
        (
            r"Model architectures? (\[.*?\]|\S+)"
            r" (?:(?:are|is) not supported|was supported in|failed to be inspected)",
            r"this vLLM does not support the model's architecture \1",
        ),
        (
            r"model type [`'](\S+)[`'] but Transformers does not recognize",
            r"this vLLM does not support the model's architecture \1",
        ),
        (
            r"Cannot find any model weights with `(.+)`",
            r"\1 has no weights",
        ),
        (
            r"(?:setting|argument|option) `trust_remote_code=True`"
            r"|contains custom code which must be executed",
            "the model brings code of its own; if it can be trusted, --trust-remote-code runs it",
        ),
        (
            r"Bfloat16 is only supported on GPUs",
            "this accelerator cannot compute in bfloat16; --dtype half may help",
        ),
        (
            r"supplied chat template .* \((.+?)\) .*doesn't exist",
            r"the chat template \1 is missing",
        ),
        (r"^PermissionError: (?:\[Errno \d+\] )?(.+)", r"it lacks a permission: \1"),
        (
            r"Unsupported CPU attention configuration: head_dim=(\d+)",
            r"vLLM's attention for CPUs cannot do this model's head_dim of \1",
        ),
        (r"lib(?:cuda|cudart|nvidia-ml)\.so\S*: cannot open", _NO_ACCELERATOR),
        # Settings that vLLM's own checks refuse, after the well-known ones above.
        (r"^ *Value error, (.+?)\.?(?: \[type=.*)?$", r"vLLM refused its settings: \1"),
        (
            r"^ +(Input should .+?) \[type=\w+, input_value=(.+), input_type=\w+\]",
            r"vLLM refused a setting: \1, but it was \2",
        ),
    )
)
