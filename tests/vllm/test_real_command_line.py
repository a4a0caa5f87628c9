"""What vLLM's own parser makes of the command lines that a table of flags gives."""

import json
import os
import subprocess
from typing import Any

import pytest

from backends.vllm_command import flag_arguments
from tests.extras import vllm_env
from tests.extras.need import need

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

for flags, words in json.load(sys.stdin):
    arguments = vars(make_arg_parser(FlexibleArgumentParser()).parse_args(words))
    print("parsed", json.dumps({name: arguments[name] for name in flags}))
"""

TABLES: list[dict[str, Any]] = [
    {
        "max_model_len": 32768,
        "enable_auto_tool_choice": True,
        "tool_call_parser": "hermes",
        "enable_prefix_caching": False,
        "disable_log_stats": False,
        "gpu_memory_utilization": 0.85,
        "seed": -1,
        "served_model_name": ["a", "b"],
        "allowed_origins": ["https://a.test"],
        "default_chat_template_kwargs": {"enable_thinking": False},
        "hf_overrides": {"head_dim": 64, "rope_parameters": {"rope_type": "yarn"}},
    },
    {
        "tensor_parallel_size": 8,
        "pipeline_parallel_size": 2,
        "distributed_executor_backend": "ray",
        "data_parallel_size": 2,
        "data_parallel_backend": "ray",
        "data_parallel_address": "10.0.0.1",
    },
    {
        "data_parallel_size": 4,
        "data_parallel_size_local": 2,
        "data_parallel_rpc_port": 13345,
        "data_parallel_hybrid_lb": True,
        "enable_expert_parallel": True,
        "api_server_count": 2,
        "nnodes": 2,
        "node_rank": 0,
        "master_addr": "10.0.0.1",
        "master_port": 29501,
    },
]


def test_flags_arrive_as_they_were_written() -> None:
    """All tables in one process, since its imports take longest."""
    asked = [[list(table), ["m", *flag_arguments(table)]] for table in TABLES]
    done = subprocess.run(
        [need(vllm_env.ensure), "-c", PARSE],
        input=json.dumps(asked),
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("parsed ")]
    assert [json.loads(line.removeprefix("parsed ")) for line in lines] == TABLES, done.stderr
