"""What to do about an upstream's refusal, where its own words leave that open."""

import re
from typing import Final

import msgspec

from backends.base import Backend
from backends.limits import without_limit
from backends.spawned import SpawnedVllm
from translators.errors import ErrorInfo

_NO_TOOL_PARSER: Final = re.compile(r"requires --enable-auto-tool-choice")


def with_hint(error: ErrorInfo, backend: Backend) -> ErrorInfo:
    """The error with the remedy for it, if one is known.

    A vLLM without a tool parser refuses tools in words that only its operator understands.
    """
    if error.status != 400 or not _NO_TOOL_PARSER.search(error.message):
        return error
    if isinstance(without_limit(backend), SpawnedVllm):
        remedy = (
            'set enable_auto_tool_choice = true and tool_call_parser = "NAME" in'
            f" [upstreams.{backend.name}.vllm]"
        )
    else:
        remedy = "restart it with --enable-auto-tool-choice and --tool-call-parser NAME"
    message = (
        f"The upstream '{backend.name}' cannot call tools as it was started; {remedy}."
        f" It says: {error.message}"
    )
    return msgspec.structs.replace(error, message=message, param="tools")
