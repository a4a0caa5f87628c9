"""Coroutines that run where no task does."""

import asyncio

import pytest

from proxy.eager import run_eagerly


async def test_what_need_not_wait_has_ended() -> None:
    done = []

    async def work() -> None:
        done.append(asyncio.current_task())

    loop = asyncio.get_running_loop()
    called = loop.create_future()
    loop.call_soon(lambda: called.set_result(run_eagerly(work())))
    assert await called is None
    assert done == [None]


async def test_rest_runs_when_it_is_awaited() -> None:
    first, second = asyncio.Event(), asyncio.Event()
    seen = []

    async def work() -> None:
        seen.append("began")
        await first.wait()
        seen.append("went on")
        await second.wait()
        seen.append("ended")

    rest = run_eagerly(work())
    assert rest is not None
    assert seen == ["began"]
    awaiting = asyncio.ensure_future(rest)
    first.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert seen == ["began", "went on"]
    second.set()
    await awaiting
    assert seen == ["began", "went on", "ended"]


async def test_what_was_waited_for_may_be_there_already() -> None:
    event = asyncio.Event()

    async def work() -> None:
        await event.wait()

    rest = run_eagerly(work())
    event.set()
    assert rest is not None
    async with asyncio.timeout(5):
        await rest


@pytest.mark.parametrize("waits", [False, True])
async def test_faults_are_raised(waits: bool) -> None:
    async def work() -> None:
        if waits:
            await asyncio.sleep(0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        rest = run_eagerly(work())
        assert waits
        assert rest is not None
        await rest


async def test_cancellation_reaches_what_waits() -> None:
    seen = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0)
            seen.append("cleaned up")
            raise

    async def outer() -> None:
        rest = run_eagerly(work())
        assert rest is not None
        await rest

    task = asyncio.create_task(outer())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled", "cleaned up"]
