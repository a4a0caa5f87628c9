"""Questions that may never be answered."""

import asyncio
import threading

import pytest

from backends.aside import Aside


async def test_answers_are_fresh() -> None:
    answers = iter((1, 2))
    aside = Aside(lambda: next(answers))
    assert [await aside.answer(10) for _ in range(2)] == [1, 2]


async def test_late_answer_is_the_next_one_s() -> None:
    """Meanwhile nothing else is asked, so that threads do not pile up."""
    gate = threading.Event()
    asked = []

    def ask() -> str:
        asked.append(1)
        gate.wait()
        return "late"

    aside = Aside(ask)
    assert [await aside.answer(0.001) for _ in range(3)] == [None] * 3
    assert asked == [1]
    gate.set()
    assert await aside.answer(10) == "late"


async def test_errors_are_raised_where_the_answer_is_waited_for() -> None:
    def ask() -> None:
        raise ZeroDivisionError

    aside = Aside(ask)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await aside.answer(10)


def test_answer_after_the_end_of_the_event_loop() -> None:
    gate = threading.Event()
    threads = set(threading.enumerate())
    assert asyncio.run(Aside(gate.wait).answer(0.001)) is None
    [thread] = set(threading.enumerate()) - threads
    gate.set()
    thread.join(10)
    assert not thread.is_alive()
