"""vLLM's command line and environment, with the user's arguments over ours."""

import importlib.util
import os
import re
import secrets
import shlex
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

MODULE: Final = "vllm.entrypoints.openai.api_server"
LOOPBACK: Final = "127.0.0.1"
KEY_VARIABLE: Final = "VLLM_API_KEY"
"""Honoured by the server unless ``--api-key`` is given; a command line is visible to others."""

_ENVIRONMENT: Final = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
_ANY_HOST: Final = {"0.0.0.0": LOOPBACK, "": LOOPBACK, "::": "::1"}
_SECRET_OPTIONS: Final = frozenset({"--api-key", "--hf-token"})
_REFUSED: Final = {
    "--model": "the model has a setting of its own",
    "--uds": "it is reached by host and port",
    "--ssl-certfile": "it is reached without TLS, on the same machine",
    "--ssl-keyfile": "it is reached without TLS, on the same machine",
    "--headless": "it would not serve HTTP",
    "--grpc": "it would not serve HTTP",
}


_STORE_TRUE: Final = frozenset(
    {
        "--aggregate-engine-logging",
        "--data-parallel-multi-port-external-lb",
        "--disable-log-stats",
    }
)
"""Flags of vLLM 0.32 without a ``--no-`` form."""

_JSON_LISTS: Final = frozenset({"--allowed-origins", "--allowed-methods", "--allowed-headers"})
_COMMA_LISTS: Final = frozenset({"--disable-access-log-for-endpoints"})
_REPEATED: Final = frozenset({"--middleware"})

Flag = str | int | float | bool | list[Any] | dict[str, Any]
"""A flag's value as TOML has it."""


class NoLauncher(Exception):
    """There is nothing to start vLLM with; the message says what was looked for."""


class Launch(msgspec.Struct, frozen=True):
    """One way to start vLLM, and to reach it then."""

    command: tuple[str, ...]
    env: dict[str, str]
    origin: str
    """``http://host:port``, without the API's path."""
    api_key: str
    port_is_ours: bool
    """Whether another port may be tried; not if the user gave one."""


def check_arguments(args: Sequence[str]) -> None:
    """Refuse arguments under which the server could not be reached.

    Raises:
        ValueError: There is such an argument; the message says why it cannot be.
    """
    for option, reason in _REFUSED.items():
        if _given(args, option) is not None:
            raise ValueError(f"vLLM argument {option} cannot be used here: {reason}")


def flag_arguments(flags: Mapping[str, Flag]) -> list[str]:
    """A table of flags as vLLM's command line takes them, in the table's order.

    ``true`` is ``--name``, ``false`` is ``--no-name`` or, for flags that lack this form, nothing.
    A table is JSON text. A list becomes several values of one flag, except for the few flags that
    want it as JSON text, joined by commas, or one by one.

    Raises:
        ValueError: A name is no flag's, or a list is empty.
    """
    arguments: list[str] = []
    for name, value in flags.items():
        option = f"--{name.replace('_', '-')}"
        if not re.fullmatch(r"--[a-z][a-z0-9.-]*", option):
            raise ValueError(f"'{name}' is no name of a vLLM flag; write tensor_parallel_size")
        match value:
            case True:
                arguments.append(option)
            case False:
                if option not in _STORE_TRUE and option not in _REFUSED:
                    arguments.append(f"--no-{option[2:]}")
            case list() if option in _JSON_LISTS:
                arguments += [option, _text(value)]
            case list() if option in _COMMA_LISTS:
                arguments += [option, ",".join(map(_text, value))]
            case list() if option in _REPEATED:
                for one in value:
                    arguments += [option, _text(one)]
            case []:
                raise ValueError(f"vLLM flag {name} has an empty list; leave it out instead")
            case list():
                arguments += [option, *map(_text, value)]
            case _:
                text = _text(value)
                # What begins with a dash would be taken for another option.
                arguments += [f"{option}={text}"] if text.startswith("-") else [option, text]
    return arguments


def _text(value: Flag) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def find_launcher(python: str | None) -> tuple[str, ...]:
    """The beginning of the command line, up to where the model's name follows.

    A given interpreter is not asked whether it has vLLM: that it has not shows at the start. A
    program called ``vllm`` is taken for vLLM's script. Without one, ours if it has the module, else
    the ``vllm`` script on ``PATH``.

    Raises:
        NoLauncher: There is none.
    """
    if python is not None:
        found = shutil.which(Path(python).expanduser())
        if found is None:
            raise NoLauncher(f"the interpreter {python} was not found or cannot be run")
        if Path(found).name == "vllm":
            return (str(found), "serve")
        return (str(found), "-m", MODULE, "--model")
    spec = importlib.util.find_spec("vllm")
    if spec is not None and spec.origin is not None:  # else it is just a folder named vllm
        return (sys.executable, "-m", MODULE, "--model")
    script = shutil.which("vllm")
    if script is None:
        raise NoLauncher(
            f"vLLM is not installed: the interpreter {sys.executable} has no module vllm, and"
            " there is no vllm script on PATH; install it or name the interpreter that has it"
        )
    return (script, "serve")


def plan_launch(
    launcher: Sequence[str],
    *,
    model: str,
    args: Sequence[str],
    env: Mapping[str, str],
    port: int,
) -> Launch:
    """Put the command line together.

    ``env`` is added to the process's own environment and wins over our additions. The key is
    random unless the user gives one in ``--api-key`` or ``env``.
    """
    ours: list[str] = []
    host = _given(args, "--host")
    if host is None:
        host = LOOPBACK  # vLLM's default is every interface
        ours += ["--host", host]
    users_port = _given(args, "--port")
    if users_port is None:
        ours += ["--port", str(port)]
    environment = {**os.environ, **_ENVIRONMENT}
    if MODULE in launcher:
        # What an activated environment would do: kernels are compiled by tools beside python.
        folder = str(Path(launcher[0]).parent)
        environment["PATH"] = os.pathsep.join([folder, environment.get("PATH", os.defpath)])
    key = _given(args, "--api-key")
    if key is None:
        environment[KEY_VARIABLE] = secrets.token_urlsafe(32)
    environment |= env
    address = _ANY_HOST.get(host, host)
    address = f"[{address}]" if ":" in address else address
    return Launch(
        command=(*launcher, model, *ours, *args),
        env=environment,
        origin=f"http://{address}:{users_port or port}",
        api_key=environment[KEY_VARIABLE] if key is None else key,
        port_is_ours=users_port is None,
    )


def free_port() -> int:
    """A loopback port that is free now; somebody may take it before it is used."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def printable_flags(flags: Mapping[str, Flag]) -> dict[str, Flag]:
    """A table of flags for display, without secrets."""
    hidden = {name for name in flags if f"--{name.replace('_', '-')}" in _SECRET_OPTIONS}
    return {name: "***" if name in hidden else value for name, value in flags.items()}


def printable(command: Sequence[str]) -> str:
    """The command line for logs, without secrets."""
    shown = []
    hiding = False
    for word in command:
        option, equals, _ = word.partition("=")
        if not option.startswith("--"):
            shown.append("***" if hiding else word)
            continue
        secret = _normal(option) in _SECRET_OPTIONS
        hiding = secret and not equals  # --api-key takes several values
        shown.append(f"{option}=***" if secret and equals else word)
    return shlex.join(shown)


def _given(args: Sequence[str], option: str) -> str | None:
    """The value of an option in the user's arguments, the last one as in argparse.

    Empty for an option without value, None if it is not there.
    """
    found: str | None = None
    for at, word in enumerate(args):
        name, equals, value = word.partition("=")
        if _normal(name) == option:
            follows = args[at + 1] if at + 1 < len(args) else ""
            found = value if equals else ("" if follows.startswith("--") else follows)
    return found


def _normal(option: str) -> str:
    """An option in its usual form; vLLM takes underscores for dashes."""
    return option.replace("_", "-") if option.startswith("--") else option
