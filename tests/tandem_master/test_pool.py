"""Seats at servers that come, fail and leave while a rollout runs."""

import asyncio

import pytest

from tandem_master.errors import RolloutError
from tandem_master.rollout import pool as pooling
from tandem_master.rollout.pool import ServerPool

SOON = 5.0


def servers(*names: str, incarnation: str = "one") -> dict[str, str]:
    return dict.fromkeys(names, incarnation)


async def seated(pool: ServerPool, *avoid: str) -> str:
    """Return the server at which a request of one sample gets a seat now."""
    async with asyncio.timeout(SOON), pool.seat(1, frozenset(avoid)) as station:
        return station.server


async def test_a_server_that_joins_takes_what_waits_for_a_seat() -> None:
    pool = ServerPool(servers("a"), max_outstanding=1)

    async with pool.seat(1):
        waiting = asyncio.create_task(seated(pool))
        await asyncio.sleep(0)
        await pool.update(servers("a", "b"))

        assert await waiting == "b"


async def test_a_server_that_has_left_is_not_taken() -> None:
    pool = ServerPool(servers("a", "b"))

    await pool.update(servers("b"))

    assert await seated(pool) == "b"


async def test_who_sits_at_a_server_is_told_that_it_has_left() -> None:
    pool = ServerPool(servers("a", "b"))

    async with pool.seat(1) as station:
        await pool.update(servers("b"))

        assert station.gone.is_set()


async def test_an_engine_that_was_started_anew_has_left_and_joined() -> None:
    pool = ServerPool(servers("a"))

    async with pool.seat(1) as before:
        await pool.update(servers("a", incarnation="two"))
        async with pool.seat(1) as after:
            assert before.gone.is_set()
            assert not after.gone.is_set()
            assert after.outstanding == 1


async def test_who_stays_keeps_its_seats() -> None:
    pool = ServerPool(servers("a"))

    async with pool.seat(2):
        await pool.update(servers("a", "b"))

        assert await seated(pool) == "b"


async def test_a_server_that_has_failed_is_left_alone_although_it_is_the_least_busy() -> None:
    pool = ServerPool(servers("a", "b"))
    async with pool.seat(1) as failing:
        assert pool.distrust(failing)

    async with pool.seat(5):
        assert await seated(pool) == "b"


async def test_a_server_that_answers_again_is_trusted_again() -> None:
    pool = ServerPool(servers("a", "b"))
    async with pool.seat(1) as station:
        pool.distrust(station)
        station.answered()

    async with pool.seat(5) as busy:
        assert {busy.server, await seated(pool)} == {"a", "b"}


async def test_a_failed_server_is_tried_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = ServerPool(servers("a", "b"))
    async with pool.seat(1) as station:
        pool.distrust(station)
    monkeypatch.setattr(pooling, "PROBATION_SECONDS", -1.0)

    assert await seated(pool) == "a"


async def test_where_all_have_failed_one_that_was_not_asked_yet_is_taken() -> None:
    pool = ServerPool(servers("a", "b"))
    async with pool.seat(1) as first, pool.seat(1) as second:
        assert pool.distrust(first)
        assert not pool.distrust(second)

    assert await seated(pool, "a") == "b"
    assert await seated(pool, "b") == "a"


async def test_a_request_waits_for_a_server_where_all_have_left() -> None:
    pool = ServerPool(servers("a"))
    await pool.update({})
    waiting = asyncio.create_task(seated(pool))
    await asyncio.sleep(0)

    await pool.update(servers("b"))

    assert await waiting == "b"


async def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling, "EMPTY_SECONDS", 0.01)
    pool = ServerPool(servers("a"))
    await pool.update({})

    with pytest.raises(RolloutError, match=r"all servers have left, and none came within 0\.01 s"):
        await seated(pool)


async def test_answers_are_counted_also_of_those_who_have_left() -> None:
    pool = ServerPool(servers("a"))
    async with pool.seat(1) as station:
        station.answered()

    await pool.update(servers("b"))

    assert pool.num_answers == {"a": 1, "b": 0}
