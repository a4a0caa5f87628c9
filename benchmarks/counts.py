"""Python instructions that the translators execute: a cost that does not depend on the machine.

Run ``python -m benchmarks.counts`` to see the counts, ``--write`` to put them into ``counts.json``,
with which ``tests/test_counts.py`` compares them. They depend on the version of Python alone, and
leave out what happens inside msgspec.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

from benchmarks.requests import request_body
from benchmarks.upstream import stream_frames, whole_body
from translators.context import counting_ids
from translators.translation import Translation
from translators.wire import decode_object, encode

PATH: Final = Path(__file__).parent / "counts.json"
TOLERANCE: Final = 1.1
PAIRS: Final = (("responses", "chat"), ("chat", "responses"))
VERSION: Final = f"{sys.version_info[0]}.{sys.version_info[1]}"


def count(work: Callable[[], object]) -> int:
    """The Python instructions that a call executes."""
    total = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal total
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        total += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return total


def measure() -> dict[str, int]:
    """Instructions per whole request with its reply, and per chunk of a stream, singly."""
    found = {}
    for caller, upstream in PAIRS:
        name = f"{caller} over {upstream}"
        found[f"{name}, request"] = count_whole(caller, upstream)
        few, many = (count_stream(caller, upstream, deltas) for deltas in (100, 200))
        found[f"{name}, chunk"] = round((many - few) / 100)
    return found


def count_whole(caller: str, upstream: str) -> int:
    """Instructions of the 4 KB request and its reply, from bytes to bytes."""
    request, reply = request_body(caller, "whole"), whole_body(upstream, "whole")

    def work() -> None:
        translation = _between(caller, upstream)
        encode(translation.request(decode_object(request)))
        encode(translation.write(translation.read(reply)))

    work()  # some things are made at their first use
    return count(work)


def count_stream(caller: str, upstream: str, deltas: int) -> int:
    """Instructions of a stream whose frames come singly."""
    frames = stream_frames(upstream, "m", deltas)
    translation = _between(caller, upstream)
    translation.request(decode_object(request_body(caller, "stream-1")))

    def work() -> None:
        translator = translation.stream()
        for frame in frames:
            translator.feed(frame)

    work()
    return count(work)


def _between(caller: str, upstream: str) -> Translation:
    return Translation.between(caller, upstream, new_id=counting_ids(), now=lambda: 0.0)


def main() -> None:
    """Print the counts beside the committed ones."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.counts")
    parser.add_argument("--write", action="store_true", help="replace counts.json")
    found = measure()
    before = json.loads(PATH.read_text()) if PATH.exists() else {}
    for name, instructions in found.items():
        print(f"{name}: {instructions} (committed: {before.get(VERSION, {}).get(name)})")
    if parser.parse_args().write:
        PATH.write_text(json.dumps({**before, VERSION: found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
