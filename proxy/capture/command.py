"""``dragoman captures``: list rollouts, show their calls, sum them up, make fixtures of them."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from proxy.capture.export import export
from proxy.capture.reader import Rollout, find_rollout, find_rollouts
from proxy.capture.summary import CallFacts, Spread, Summary, facts_of, sum_up
from translators.profiles import PROFILES
from translators.wire import JSON, encode


def add_captures_flags(parser: argparse.ArgumentParser) -> None:
    """Add the commands ``list``, ``show``, ``sum`` and ``export``."""
    commands = parser.add_subparsers(dest="captures", required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="one line for each rollout")
    showing = commands.add_parser("show", help="one line for each call of a rollout")
    summing = commands.add_parser("sum", help="tokens, latencies, endings and errors of all calls")
    for command in (listing, showing, summing):
        command.add_argument("folder", metavar="DIR", help="the folder of [capture] dir")
        command.add_argument("--json", action="store_true", help="print JSON")
    showing.add_argument("rollouts", nargs=1, metavar="ROLLOUT")
    summing.add_argument("rollouts", nargs="*", metavar="ROLLOUT", help="only these (all)")
    exporting = commands.add_parser(
        "export",
        help="make a golden case of each call, without its secrets",
        description="Make cases under FIXTURES/<caller>-<upstream>/. Calls that were recorded "
        "with [capture] upstream = true become whole cases; of others, the request alone is one.",
    )
    exporting.add_argument("folder", metavar="DIR", help="the folder of [capture] dir")
    exporting.add_argument("fixtures", metavar="FIXTURES", help="where the pairs' folders are")
    exporting.add_argument("rollouts", nargs="*", metavar="ROLLOUT", help="only these (all)")
    exporting.add_argument("--call", metavar="ID", help="only the call with this model_call_id")
    exporting.add_argument("--profile", choices=tuple(PROFILES), default="vllm")
    exporting.add_argument("--force", action="store_true", help="replace cases that are there")


def captures(options: argparse.Namespace) -> int:
    """Run a command; returns its exit status: 1 if there is nothing, or an exported case fails.

    Raises:
        OSError: The folder or a rollout is not there.
        RecordError: A case is there already.
    """
    folder = Path(options.folder)
    if wanted := getattr(options, "rollouts", None):
        found = [find_rollout(folder, rollout) for rollout in wanted]
    else:
        found = find_rollouts(folder)
    if not found:
        sys.stderr.write(f"no captures in {folder}\n")
        return 1
    match options.captures:
        case "list":
            _list(found, as_json=options.json)
        case "show":
            _show(found[0], as_json=options.json)
        case "sum":
            _sum(found, as_json=options.json)
        case _:
            return export(
                found, Path(options.fixtures), options.profile, options.call, force=options.force
            )
    return 0


class _Listed(msgspec.Struct):
    """A rollout's line."""

    rollout: str
    calls: int
    tokens_in: int | None
    tokens_out: int | None
    errors: int
    is_incomplete: bool
    damaged_lines: int


def _list(rollouts: Iterable[Rollout], *, as_json: bool) -> None:
    lines = []
    rows = []
    for rollout in rollouts:
        total = sum_up([facts_of(call) for call in rollout.calls()])
        line = _Listed(
            rollout=rollout.name,
            calls=total.calls,
            tokens_in=total.tokens_in,
            tokens_out=total.tokens_out,
            errors=sum(total.errors.values()),
            is_incomplete=rollout.is_incomplete,
            damaged_lines=rollout.damaged,
        )
        lines.append(line)
        counts = (line.calls, line.tokens_in, line.tokens_out, line.errors)
        rows.append([line.rollout, *map(_text, counts), ", ".join(_warnings(rollout))])
    if as_json:
        _print_json(lines)
    else:
        _print_table(["rollout", "calls", "tokens in", "tokens out", "errors", ""], rows)


def _show(rollout: Rollout, *, as_json: bool) -> None:
    calls = [facts_of(call) for call in rollout.calls()]
    if as_json:
        _print_json(calls)
        return
    head = [
        "call",
        "dialect",
        "model",
        "status",
        "tokens in",
        "tokens out",
        "ms",
        "first ms",
        "end",
    ]
    _print_table(head, [_row(call) for call in calls])
    for warning in _warnings(rollout):
        _print(warning)


def _row(call: CallFacts) -> list[str]:
    ends = [*call.finish_reasons, *call.tool_calls]
    if call.error_category is not None:
        ends.append(f"({call.error_category})")
    told = (call.model_call_id, call.dialect, call.model, call.status_code)
    counts = (call.tokens_in, call.tokens_out, call.latency_ms, call.latency_ttft_ms)
    return [*map(_text, told), *map(_text, counts), " ".join(ends)]


def _sum(rollouts: Sequence[Rollout], *, as_json: bool) -> None:
    total = sum_up([facts_of(call) for rollout in rollouts for call in rollout.calls()])
    counts = {
        "rollouts": len(rollouts),
        "incomplete_rollouts": sum(rollout.is_incomplete for rollout in rollouts),
        "damaged_lines": sum(rollout.damaged for rollout in rollouts),
    }
    if as_json:
        _print_json(counts | msgspec.to_builtins(total))
        return
    rows = [[name.replace("_", " "), str(count)] for name, count in counts.items()]
    _print_table([], [*rows, *_sum_rows(total)])


def _sum_rows(total: Summary) -> list[list[str]]:
    return [
        ["calls", str(total.calls)],
        ["models", _words(total.models)],
        ["tokens in", f"{_text(total.tokens_in)} (cached {_text(total.tokens_cached)})"],
        ["tokens out", f"{_text(total.tokens_out)} (reasoning {_text(total.tokens_reasoning)})"],
        ["tool calls", _words(total.tool_calls)],
        ["ends", _words(total.finish_reasons)],
        ["errors", _words(total.errors)],
        ["ms", _spread(total.latency_ms)],
        ["ms to the first token", _spread(total.latency_ttft_ms)],
    ]


def _warnings(rollout: Rollout) -> list[str]:
    """What a reader of the rollout's calls should know, once they have been read."""
    warnings = ["incomplete"] if rollout.is_incomplete else []
    if rollout.damaged:
        warnings.append(f"damaged lines: {rollout.damaged}")
    return warnings


def _words(counts: dict[str, int]) -> str:
    return ", ".join(f"{word} {count}" for word, count in counts.items()) or "none"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return f"mean {spread.mean}, p50 {spread.p50}, p90 {spread.p90}, max {spread.max}"


def _text(value: JSON) -> str:
    return "-" if value is None else str(value)


def _print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns; an empty head is none."""
    lines = [line for line in (head, *rows) if line]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        _print("  ".join(cells).rstrip())


def _print_json(value: JSON) -> None:
    _print(msgspec.json.format(encode(value)).decode())


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
