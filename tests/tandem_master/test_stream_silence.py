"""Answers that are silent for too long are given up; those that are heard go on, however long they take."""

import asyncio

import pytest

from tandem_master.rollout.silence import Silence
from tests.tandem_master.virtual_time import run_virtually

SECONDS = 600.0


async def heard_every(silence: Silence, seconds: float, times: int) -> float:
    """Hear an answer so often; return when it was over."""
    async with silence.limited() as heard:
        for _ in range(times):
            await asyncio.sleep(seconds)
            heard()
    return asyncio.get_running_loop().time()


def test_an_answer_that_goes_on_being_heard_takes_as_long_as_it_takes() -> None:
    assert run_virtually(heard_every(Silence(SECONDS), SECONDS - 1.0, 100)) == 100 * (SECONDS - 1.0)


def test_an_answer_that_is_silent_for_too_long_is_given_up() -> None:
    async def silent() -> float:
        with pytest.raises(TimeoutError):
            await heard_every(Silence(SECONDS), 10 * SECONDS, 1)
        return asyncio.get_running_loop().time()

    assert SECONDS <= run_virtually(silent()) <= 1.1 * SECONDS


def test_only_the_silent_one_of_many_is_given_up() -> None:
    async def both() -> tuple[float | BaseException, float | BaseException]:
        silence = Silence(SECONDS)
        work = (heard_every(silence, 10 * SECONDS, 1), heard_every(silence, 100.0, 50))
        return await asyncio.gather(*work, return_exceptions=True)

    silent, heard = run_virtually(both())

    assert isinstance(silent, TimeoutError)
    assert heard == 5000.0


def test_one_that_begins_after_a_pause_is_looked_after_too() -> None:
    async def later() -> None:
        silence = Silence(SECONDS)
        await heard_every(silence, 1.0, 1)
        await asyncio.sleep(10 * SECONDS)
        with pytest.raises(TimeoutError):
            await heard_every(silence, 10 * SECONDS, 1)

    run_virtually(later())
