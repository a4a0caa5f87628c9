"""Running tests against mutants, each in a forked process.

A mutant of a function replaces its code in a process that has collected the tests already, and
only the tests that reach its statement run. A mutant of what runs at import needs a process that
has not imported the translators yet, and gets every test.
"""

import gc
import importlib.machinery
import inspect
import os
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from tests.mutants.mutate import Mutant

PACKAGE = Path("translators")
TESTS = ("tests/test_fates.py", "tests/test_golden.py", "tests/translators")
"""Those that are quick; the slow ones are left out."""
_OPTIONS = (
    *("-x", "-q", "-s", "--tb=native", "--assert=plain", "-o", "timeout=0"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
    *("-p", "no:cacheprovider", "-p", "no:logging", "-p", "no:unraisableexception"),
)
_GRACE_S = 2.0
_SLOWER = 3
"""How much longer than usual tests may take, in CPU time, before a mutant counts as killed."""
_ENDLESS_S = 60.0
_FAULT = 99
"""Exit code of a child that could not do its work."""

Functions = dict[tuple[str, str], list[FunctionType]]
"""Functions by their file and qualified name."""


class Verdict(Enum):
    """What the tests say of a mutant."""

    KILLED = 0
    SURVIVED = 1
    COLD = 2
    """It takes effect at import, so replacing a function's code says nothing."""


def judge(mutants: Sequence[Mutant], workers: int) -> Iterator[tuple[int, Verdict]]:
    """The verdict on each mutant, by its position.

    Raises:
        RuntimeError: The tests fail without any mutant.
    """
    hot = [i for i, mutant in enumerate(mutants) if mutant.function is not None]
    cold = [i for i, mutant in enumerate(mutants) if mutant.function is None]
    with tempfile.NamedTemporaryFile("r") as record:
        run = partial(_judge_hot, mutants, hot, workers, Path(record.name))
        if hot and _run(run) != pytest.ExitCode.OK:
            raise RuntimeError(f"these tests fail as they are: {' '.join(TESTS)}")
        for line in record:
            index, value = map(int, line.split())
            if Verdict(value) is Verdict.COLD:
                cold.append(index)
            else:
                yield index, Verdict(value)
    yield from _in_parallel(((i, partial(_judge_cold, mutants[i])) for i in cold), workers)


# --- processes -------------------------------------------------------------------------------


def _run(body: Callable[[], int]) -> int:
    """The exit code of a function in a child."""
    _, status = os.waitpid(_begin(body), 0)
    return os.waitstatus_to_exitcode(status)


def _begin(body: Callable[[], int]) -> int:
    """Begin a child that runs a function silently and ends with its exit code."""
    pid = os.fork()
    if pid:
        return pid
    code = _FAULT
    try:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        os.dup2(null, 2)
        code = body()
    finally:
        os._exit(code)


def _in_parallel(
    jobs: Iterable[tuple[int, Callable[[], int]]], workers: int
) -> Iterator[tuple[int, Verdict]]:
    running: dict[int, int] = {}
    for index, body in jobs:
        running[_begin(body)] = index
        if len(running) >= workers:
            yield _next(running)
    while running:
        yield _next(running)


def _next(running: dict[int, int]) -> tuple[int, Verdict]:
    """The verdict of the child that ends next; one that a signal ended was killed."""
    pid, status = os.wait()
    code = os.waitstatus_to_exitcode(status)
    return running.pop(pid), Verdict.KILLED if code < 0 else Verdict(code)


def _code(verdict: Verdict) -> int:
    return int(verdict.value)


def _limit(seconds: float) -> None:
    """Let the kernel end this process after so much CPU time."""
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)


# --- mutants of what runs at import ----------------------------------------------------------


def _judge_cold(mutant: Mutant) -> int:
    code = mutant.compile()
    plain = importlib.machinery.SourceFileLoader.get_code

    def get_code(loader: importlib.machinery.SourceFileLoader, fullname: str) -> CodeType | None:
        return code if loader.path == code.co_filename else plain(loader, fullname)

    setattr(importlib.machinery.SourceFileLoader, "get_code", get_code)  # noqa: B010
    _limit(_ENDLESS_S)
    passed = pytest.main([*_OPTIONS, *TESTS]) == pytest.ExitCode.OK
    return _code(Verdict.SURVIVED if passed else Verdict.KILLED)


# --- mutants of functions --------------------------------------------------------------------


def _judge_hot(mutants: Sequence[Mutant], chosen: Sequence[int], workers: int, record: Path) -> int:
    plugin = _Hot(mutants, chosen, workers, record)
    sys.settrace(plugin.reach.trace)
    return int(pytest.main([*_OPTIONS, *TESTS], plugins=[plugin]))


class _Reach:
    """Which tests reach which lines; before any test, lines are reached at import."""

    AT_IMPORT = -1

    def __init__(self) -> None:
        self.test = self.AT_IMPORT
        self._tests: dict[tuple[str, int], set[int]] = defaultdict(set)
        self._package = str(PACKAGE.resolve()) + os.sep

    def trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(self._package):
            return None
        self._tests[frame.f_code.co_filename, frame.f_lineno].add(self.test)
        return self.trace

    def of(self, mutant: Mutant) -> list[int]:
        path = str(mutant.module.path.resolve())
        return sorted(set().union(*(self._tests.get((path, n), ()) for n in mutant.lines)))


class _Hot:
    """A pytest plugin that runs the collected tests again and again."""

    def __init__(
        self, mutants: Sequence[Mutant], chosen: Sequence[int], workers: int, record: Path
    ) -> None:
        self.reach = _Reach()
        self._mutants = mutants
        self._chosen = chosen
        self._workers = workers
        self._record = record
        self._seconds: list[float] = []

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        for index, item in enumerate(session.items):
            self.reach.test = index
            begin = time.process_time()
            if not _passes(item):
                raise session.Failed(item.nodeid)
            self._seconds.append(time.process_time() - begin)
        sys.settrace(None)
        functions = _functions()
        gc.freeze()
        with self._record.open("w", buffering=1) as record:
            jobs = (
                (i, partial(self._judge, self._mutants[i], session.items, functions))
                for i in self._chosen
            )
            for index, verdict in _in_parallel(jobs, self._workers):
                record.write(f"{index} {verdict.value}\n")
        return True

    def _judge(self, mutant: Mutant, items: Sequence[pytest.Item], functions: Functions) -> int:
        tests = self.reach.of(mutant)
        if _Reach.AT_IMPORT in tests or not _patch(mutant, functions):
            return _code(Verdict.COLD)
        _limit(_GRACE_S + _SLOWER * sum(self._seconds[i] for i in tests))
        is_alive = all(_passes(items[i]) for i in tests)
        return _code(Verdict.SURVIVED if is_alive else Verdict.KILLED)


def _passes(item: pytest.Item) -> bool:
    reports = runtestprotocol(item, nextitem=None, log=False)
    return not any(report.failed for report in reports)


def _functions() -> Functions:
    """The functions that exist."""
    found: Functions = defaultdict(list)
    for value in gc.get_objects():
        if isinstance(value, FunctionType):
            found[value.__code__.co_filename, value.__code__.co_qualname].append(value)
    return found


def _patch(mutant: Mutant, functions: Functions) -> bool:
    """Give the mutant's function its new code; false if that is impossible."""
    assert mutant.function is not None
    module = mutant.compile()
    code = _find(module, mutant.function)
    targets = functions.get((module.co_filename, mutant.function), [])
    if code is None or not targets:
        return False
    for function in targets:
        if function.__code__.co_freevars != code.co_freevars:
            return False
        function.__code__ = code
    for value in vars(inspect.getmodule(targets[0])).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()
    return True


def _find(code: CodeType, qualname: str) -> CodeType | None:
    for value in code.co_consts:
        if isinstance(value, CodeType):
            if value.co_qualname == qualname:
                return value
            if qualname.startswith(f"{value.co_qualname}."):
                return _find(value, qualname)
    return None
