"""Flags and ``DRAGOMAN_*`` variables: one table for both."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.presets import PRESETS
from proxy.settings import CHOICES, DEFAULT, NAMES_UPSTREAM
from proxy.tables import SettingsError
from translators.profiles import HostedTools, ReasoningAs
from translators.wire import JSON


@dataclass(frozen=True)
class Option:
    """A setting with a flag (``--upstream-speaks``) and a variable (``DRAGOMAN_UPSTREAM_SPEAKS``).

    ``path`` is its dotted path in the settings.
    """

    name: str
    path: str
    help: str
    parse: Callable[[str], Any] = str
    choices: Sequence[str] | None = None
    metavar: str | None = None

    @property
    def flag(self) -> str:
        """Its flag."""
        return f"--{self.name}"

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"DRAGOMAN_{self.name.replace('-', '_').upper()}"


_UPSTREAM = f"upstreams.{DEFAULT}"

OPTIONS = (
    Option("host", "server.host", "address to listen on (127.0.0.1)"),
    Option("port", "server.port", "port to listen on (8080)", int),
    Option("workers", "server.workers", "processes that share the port (1)", int),
    Option(
        "upstream",
        f"{_UPSTREAM}.url",
        "API root of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1",
        metavar="URL",
    ),
    Option(
        "preset",
        f"{_UPSTREAM}.preset",
        "a known provider or server as the upstream: its URL, key variable and profile",
        choices=tuple(PRESETS),
        metavar="NAME",
    ),
    Option(
        "upstream-speaks",
        f"{_UPSTREAM}.speaks",
        "what the upstream speaks (auto asks it once)",
        choices=CHOICES["speaks"],
    ),
    Option(
        "upstream-key-env",
        f"{_UPSTREAM}.key_env",
        "environment variable with the upstream's key; without one the caller's key passes",
        metavar="NAME",
    ),
    Option(
        "profile",
        f"{_UPSTREAM}.profile",
        "how the upstream wants to be spoken to (vllm)",
        choices=CHOICES["profile"],
    ),
    Option(
        "vllm",
        f"{_UPSTREAM}.vllm.model",
        "spawn a vLLM that serves this model; its flags follow after --",
        metavar="MODEL",
    ),
    Option(
        "vllm-python",
        f"{_UPSTREAM}.vllm.python",
        "interpreter that has vLLM",
        metavar="PATH",
    ),
    Option(
        "reasoning-as",
        "policy.reasoning_as",
        "where raw reasoning goes in Responses replies (summary)",
        choices=tuple(ReasoningAs),
    ),
    Option(
        "hosted-tools",
        "policy.hosted_tools",
        "refuse tools that the upstream would have to run, or drop them (refuse)",
        choices=tuple(HostedTools),
    ),
    Option(
        "capture-dir",
        "capture.dir",
        "record the calls of rollouts into this folder",
        metavar="DIR",
    ),
    Option("log-level", "log.level", "least severe log lines (info)", choices=CHOICES["log.level"]),
    Option(
        "log-format",
        "log.format",
        "look of the log (auto: JSON unless on a terminal)",
        choices=CHOICES["log.format"],
    ),
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add all flags to a parser."""
    parser.add_argument("--config", metavar="FILE", help="settings file (TOML)")
    for option in OPTIONS:
        parser.add_argument(
            option.flag,
            type=option.parse,
            choices=option.choices,
            metavar=option.metavar,
            help=f"{option.help} [{option.variable}]",
        )


def overrides(arguments: argparse.Namespace, environment: Mapping[str, str]) -> dict[str, JSON]:
    """Settings by dotted path, flags before variables.

    A flag that names the upstream makes a variable that names another one void.

    Raises:
        SettingsError: A variable has a wrong value.
    """
    flags = {o.path: getattr(arguments, o.name.replace("-", "_")) for o in OPTIONS}
    found = {path: value for path, value in flags.items() if value is not None}
    rivals = {f"{_UPSTREAM}.{name}" for name in NAMES_UPSTREAM}
    for option in OPTIONS:
        text = environment.get(option.variable)
        if text is None or option.path in found:
            continue
        if option.path in rivals and rivals & found.keys():
            continue
        found[option.path] = _read(option, text)
    return found


def _read(option: Option, text: str) -> Any:
    if option.choices is not None and text not in option.choices:
        words = ", ".join(option.choices)
        raise SettingsError(f"{option.variable}: '{text}' is none of {words}")
    try:
        return option.parse(text)
    except ValueError as error:
        raise SettingsError(f"{option.variable}: '{text}' is not a number") from error
