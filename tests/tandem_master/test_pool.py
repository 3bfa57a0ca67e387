"""Seats at servers that come, fail and leave while a rollout runs."""

import pytest

from tandem_master.rollout import pool as pooling
from tandem_master.rollout.pool import ServerPool, Station


def servers(*names: str, incarnation: str = "one") -> dict[str, str]:
    return dict.fromkeys(names, incarnation)


def pool_of(*names: str, seats: int = 256) -> ServerPool:
    """Return a pool of servers whose engines have not been started anew."""
    return ServerPool(servers(*names), max_outstanding=seats)


def seated(pool: ServerPool, num_samples: int = 1, *avoid: str, prefer: str | None = None) -> Station:
    """Return the server at which a request gets its seats now."""
    station = pool.take(num_samples, frozenset(avoid), prefer)
    assert station is not None
    return station


async def test_the_least_busy_server_is_taken() -> None:
    pool = pool_of("a", "b")

    assert [seated(pool, number).server for number in (3, 1, 1)] == ["a", "b", "b"]


async def test_a_server_that_is_preferred_is_taken_before_a_less_busy_one_where_it_has_the_seats() -> None:
    pool = pool_of("a", "b", seats=4)

    first = seated(pool, 3)

    assert [first.server, seated(pool, prefer="a").server, seated(pool, prefer="a").server] == ["a", "a", "b"]


async def test_a_full_server_has_no_seats_until_some_are_given_back() -> None:
    pool = pool_of("a", seats=4)
    station = seated(pool, 3)

    assert pool.take(2) is None
    pool.give_back(station, 3)

    assert pool.changed.is_set()
    assert seated(pool, 2) is station


async def test_a_request_wider_than_a_server_is_taken_when_it_is_idle() -> None:
    pool = pool_of("a", seats=4)

    assert seated(pool, 9).server == "a"
    assert pool.take(1) is None


async def test_a_server_that_joins_has_seats_for_what_waits() -> None:
    pool = pool_of("a", seats=1)
    seated(pool)
    pool.changed.clear()

    pool.update(servers("a", "b"))

    assert pool.changed.is_set()
    assert seated(pool).server == "b"


async def test_a_server_that_has_left_is_not_taken() -> None:
    pool = pool_of("a", "b")

    pool.update(servers("b"))

    assert seated(pool).server == "b"


async def test_who_asks_a_server_is_told_that_it_has_left() -> None:
    pool = pool_of("a", "b")
    told: list[str] = []
    seated(pool).losing["me"] = lambda: told.append("me")

    pool.update(servers("b"))

    assert told == ["me"]


async def test_an_engine_that_was_started_anew_has_left_and_joined() -> None:
    pool = pool_of("a")
    before = seated(pool)

    pool.update(servers("a", incarnation="two"))
    after = seated(pool)

    assert after is not before
    assert (after.server, after.outstanding) == ("a", 1)


async def test_who_stays_keeps_its_seats() -> None:
    pool = pool_of("a")
    seated(pool, 2)

    pool.update(servers("a", "b"))

    assert seated(pool).server == "b"


async def test_a_server_that_has_failed_is_left_alone_although_it_is_the_least_busy() -> None:
    pool = pool_of("a", "b")
    failing = seated(pool)
    assert pool.distrust(failing)
    pool.give_back(failing, 1)

    assert [seated(pool, 5).server, seated(pool).server] == ["b", "b"]


async def test_a_server_that_answers_again_is_trusted_again() -> None:
    pool = pool_of("a", "b")
    station = seated(pool)
    pool.distrust(station)
    station.answered()
    pool.give_back(station, 1)

    assert {seated(pool, 5).server, seated(pool).server} == {"a", "b"}


async def test_a_failed_server_is_tried_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_of("a", "b")
    station = seated(pool)
    pool.distrust(station)
    pool.give_back(station, 1)
    monkeypatch.setattr(pooling, "PROBATION_SECONDS", -1.0)

    assert seated(pool) is station


async def test_where_all_have_failed_one_that_was_not_asked_yet_is_taken() -> None:
    pool = pool_of("a", "b")

    assert pool.distrust(seated(pool))
    assert not pool.distrust(seated(pool))

    assert [seated(pool, 1, "a").server, seated(pool, 1, "b").server] == ["b", "a"]


async def test_answers_are_counted_also_of_those_who_have_left() -> None:
    pool = pool_of("a")
    seated(pool).answered()

    pool.update(servers("b"))

    assert pool.num_answers == {"a": 1, "b": 0}
