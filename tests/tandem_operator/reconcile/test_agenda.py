"""The agenda: which jobs are to be looked at, and when."""

import asyncio

import pytest

from tandem_operator.reconcile.agenda import Agenda


async def test_a_key_that_was_woken_twice_is_taken_once() -> None:
    agenda: Agenda[str] = Agenda()

    agenda.wake("a")
    agenda.wake("a")

    assert await agenda.take() == "a"
    assert len(agenda) == 0


async def test_keys_are_taken_in_the_order_in_which_they_were_woken() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.wake("b")
    agenda.wake("a")
    agenda.wake("b")

    assert [await agenda.take(), await agenda.take()] == ["b", "a"]


async def test_a_key_that_is_woken_while_it_is_worked_on_comes_again_afterwards() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.wake("a")
    await agenda.take()

    agenda.wake("a")
    agenda.wake("a")
    while_busy = len(agenda)
    agenda.done("a")

    assert while_busy == 0
    assert await agenda.take() == "a"
    agenda.done("a")
    assert len(agenda) == 0


async def test_two_workers_never_hold_the_same_key() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.wake("a")
    await agenda.take()
    agenda.wake("a")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await agenda.take()


async def test_a_key_with_a_time_is_taken_when_it_has_come() -> None:
    agenda: Agenda[str] = Agenda()

    agenda.wake_after("a", 0.001)

    assert len(agenda) == 0
    assert await agenda.take() == "a"


async def test_a_new_time_replaces_the_one_before() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.wake_after("a", 3600.0)
    agenda.wake_after("a", 0.001)

    assert await agenda.take() == "a"


async def test_a_time_that_was_taken_back_does_not_come() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.wake_after("a", 0.001)
    agenda.wake_after("b", 0.001)
    agenda.forget_timer("a")

    assert await agenda.take() == "b"
    assert len(agenda) == 0


async def test_a_time_that_comes_while_the_key_is_worked_on_brings_it_again() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.wake("a")
    await agenda.take()
    agenda.wake_after("a", 0.0)
    agenda.wake_after("b", 0.001)
    assert await agenda.take() == "b"

    agenda.done("a")

    assert await agenda.take() == "a"


async def test_nothing_comes_after_the_end() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.wake_after("a", 0.0)

    agenda.close()
    await asyncio.sleep(0.005)

    assert len(agenda) == 0
