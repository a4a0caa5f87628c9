"""Tallies among real processes, which may be killed at any moment."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.turns import Limit
from proxy.workers.tally import OWNER, Tallies, open_memory

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is one worker only")

MOST = 2000
PROCESSES = 4

TAKE_ALL = """
import sys
from backends.turns import Limit
from proxy.workers.tally import Tallies
tally = Tallies(int(sys.argv[1]), 4, int(sys.argv[2])).count(Limit(2000))
print("ready", flush=True)
sys.stdin.readline()
taken = 0
while tally.take():
    taken += 1
print(taken)
"""

TAKE_AND_GIVE = """
import sys
from backends.turns import Limit
from proxy.workers.tally import Tallies
tally = Tallies(int(sys.argv[1]), 4, int(sys.argv[2])).count(Limit(2000))
print("ready", flush=True)
while True:
    if tally.take():
        tally.give()
"""


@pytest.fixture
def file() -> Iterator[int]:
    with open_memory() as file:
        yield file.fileno()


def process(code: str, file: int, place: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, str(file), str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[file],
        text=True,
        cwd=Path(__file__).parents[2],
    )


def is_ready(started: "subprocess.Popen[str]") -> bool:
    assert started.stdout is not None
    return started.stdout.readline() == "ready\n"


def test_processes_that_race_take_no_place_twice(file: int) -> None:
    tally = Tallies(file, PROCESSES, OWNER).count(Limit(MOST))
    started = [process(TAKE_ALL, file, place) for place in range(1, PROCESSES)]
    assert all(map(is_ready, started))
    for one in started:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    had = [int(one.communicate(timeout=30)[0]) for one in started]
    assert sum(had) == tally.taken == MOST
    assert not tally.take(in_turn=True)


def test_who_is_killed_leaves_no_lock_and_a_count_that_is_known(file: int) -> None:
    """At whatever instruction: most of the time it is between taking the lock and giving it."""
    tallies = Tallies(file, PROCESSES, OWNER)
    tally = tallies.count(Limit(MOST))
    for round_ in range(4):
        started = [process(TAKE_AND_GIVE, file, place) for place in range(1, PROCESSES)]
        assert all(map(is_ready, started))
        dice = random.Random(round_)
        for one in started:
            time.sleep(dice.uniform(0, 0.01))
            one.kill()
            one.communicate()
        assert tally.taken <= len(started)
        for place in range(1, PROCESSES):
            tallies.clear(place)
        assert tally.taken == 0
    assert all(tally.take() for _ in range(MOST))
    assert not tally.take()
    tally.give()
    assert tally.take()


def test_while_others_wait_a_free_place_is_not_taken_but_in_turn(file: int) -> None:
    tallies = Tallies(file, PROCESSES, OWNER)
    first, second = tallies.count(Limit(1)), tallies.count(Limit(1))
    worker = Tallies(file, PROCESSES, 1)
    assert worker.count(Limit(1)).take()
    assert (first.taken, second.taken) == (1, 0)
    second.waiting = 1
    other = worker.count(Limit(1))
    assert (other.waiting, other.take()) == (1, False)
    assert second.take(in_turn=True)
