"""Seats at servers that come, fail and leave while a rollout runs."""

import pytest

from tandem_master.rollout import pool as pooling
from tandem_master.rollout.capacity import Capacity, Need, need_of
from tandem_master.rollout.pool import Seats, ServerPool
from tandem_master.rollout.segments import Ask
from tests.tandem_master.texts import trajectory


def servers(*names: str, incarnation: str = "one") -> dict[str, str]:
    return dict.fromkeys(names, incarnation)


def ask(num_samples: int = 1, *, prefix_tokens: int = 2, max_tokens: int = 4) -> Ask:
    """Return a request of so many samples."""
    samples = tuple(trajectory(f"1-p-{number}") for number in range(num_samples))
    return Ask(samples, (7,) * prefix_tokens, max_tokens, seed=1)


def pool_of(*names: str, seats: int = 256, cache: Capacity | None = None) -> ServerPool:
    """Return a pool of servers whose engines have not been started anew, all with the same cache."""
    return ServerPool(servers(*names), dict.fromkeys(names, cache), max_outstanding=seats)


def seated(
    pool: ServerPool, request: Ask | None = None, *avoid: str, sent_to: str | None = None, near: str | None = None
) -> Seats:
    """Return the seats that a request gets now."""
    seats = pool.take(request or ask(), frozenset(avoid), sent_to=sent_to, near=near)
    assert seats is not None
    return seats


def where(pool: ServerPool, request: Ask | None = None, *avoid: str, near: str | None = None) -> str:
    """Return the server at which a request gets its seats now."""
    return seated(pool, request, *avoid, near=near).station.server


async def test_the_server_with_the_fewest_samples_is_taken_where_none_says_what_its_cache_holds() -> None:
    pool = pool_of("a", "b")

    assert [where(pool, ask(number)) for number in (3, 1, 1)] == ["a", "b", "b"]


async def test_the_server_with_the_most_room_in_its_cache_is_taken() -> None:
    caches = {"a": Capacity(100), "b": Capacity(60)}
    pool = ServerPool(servers("a", "b"), caches)

    places = [where(pool, ask(prefix_tokens=tokens, max_tokens=10)) for tokens in (20, 20, 20, 0)]

    assert places == ["a", "a", "b", "a"]


async def test_nothing_is_taken_that_may_not_have_room_before_it_ends() -> None:
    pool = pool_of("a", cache=Capacity(100))
    first = seated(pool, ask(2, prefix_tokens=10, max_tokens=30))
    assert pool.take(ask(prefix_tokens=10, max_tokens=11)) is None

    pool.give_back(first, 1)

    assert where(pool, ask(prefix_tokens=10, max_tokens=50)) == "a"


async def test_samples_of_a_request_take_whole_blocks_and_share_those_of_their_prefix() -> None:
    cache = Capacity(1000, block_tokens=16, shares_prefix=True)
    pool = pool_of("a", cache=cache)

    station = seated(pool, ask(3, prefix_tokens=40, max_tokens=10)).station

    assert station.reserved_tokens == 32 + 3 * 32
    assert need_of(ask(prefix_tokens=40, max_tokens=10), Capacity(1000, block_tokens=16)) == Need(0, 64)


async def test_what_is_given_back_leaves_nothing_behind() -> None:
    pool = pool_of("a", cache=Capacity(1000, block_tokens=16, shares_prefix=True))
    seats = seated(pool, ask(3, prefix_tokens=40))

    pool.give_back(seats, 2)
    pool.give_back(seats, 1)
    pool.give_back(seats, 0)

    assert (seats.station.outstanding, seats.station.reserved_tokens) == (0, 0)


async def test_a_server_that_has_the_request_is_taken_before_a_less_busy_one_where_it_has_the_seats() -> None:
    pool = pool_of("a", "b", seats=4)
    seated(pool, ask(3))

    assert [seated(pool, sent_to="a").station.server for _ in range(2)] == ["a", "b"]


async def test_a_server_that_holds_the_prefix_is_taken_where_it_is_not_much_fuller() -> None:
    pool = pool_of("a", "b", cache=Capacity(100))
    seated(pool, ask(prefix_tokens=0, max_tokens=10), "b")

    assert where(pool, ask(prefix_tokens=0, max_tokens=10), near="a") == "a"
    assert where(pool, ask(prefix_tokens=0, max_tokens=10), near="a") == "b"


async def test_a_full_server_has_no_seats_until_some_are_given_back() -> None:
    pool = pool_of("a", seats=4)
    first = seated(pool, ask(3))

    assert pool.take(ask(2)) is None
    pool.changed.clear()
    pool.give_back(first, 3)

    assert pool.changed.is_set()
    assert where(pool, ask(2)) == "a"


@pytest.mark.parametrize("request_", [ask(9), ask(prefix_tokens=500)], ids=["samples", "tokens"])
async def test_a_request_wider_than_a_server_is_taken_when_it_is_idle(request_: Ask) -> None:
    pool = pool_of("a", seats=4, cache=Capacity(100))

    assert where(pool, request_) == "a"
    assert pool.take(ask()) is None


async def test_a_server_that_joins_has_seats_for_what_waits() -> None:
    pool = pool_of("a", seats=1)
    seated(pool)
    pool.changed.clear()

    pool.update(servers("a", "b"), {})

    assert pool.changed.is_set()
    assert where(pool) == "b"


async def test_a_server_that_has_left_is_not_taken() -> None:
    pool = pool_of("a", "b")

    pool.let_go(servers("b"))

    assert where(pool) == "b"


async def test_who_asks_a_server_is_told_that_it_has_left() -> None:
    pool = pool_of("a", "b")
    told: list[str] = []
    seated(pool).station.losing["me"] = lambda: told.append("me")

    pool.let_go(servers("b"))

    assert told == ["me"]


async def test_an_engine_that_was_started_anew_has_left_and_joined() -> None:
    pool = pool_of("a")
    before = seated(pool).station
    anew = servers("a", incarnation="two")

    assert pool.strangers(anew) == ("a",)
    pool.update(anew, {})
    after = seated(pool).station

    assert after is not before
    assert (after.server, after.outstanding) == ("a", 1)


async def test_who_stays_keeps_its_seats() -> None:
    pool = pool_of("a")
    seated(pool, ask(2))

    pool.update(servers("a", "b"), {})

    assert where(pool) == "b"


async def test_a_server_that_has_failed_is_left_alone_although_it_is_the_least_busy() -> None:
    pool = pool_of("a", "b")
    failing = seated(pool)
    assert pool.distrust(failing.station)
    pool.give_back(failing, 1)

    assert [where(pool, ask(5)), where(pool)] == ["b", "b"]


async def test_a_server_that_answers_again_is_trusted_again() -> None:
    pool = pool_of("a", "b")
    seats = seated(pool)
    pool.distrust(seats.station)
    seats.station.answered()
    pool.give_back(seats, 1)

    assert {where(pool, ask(5)), where(pool)} == {"a", "b"}


async def test_a_failed_server_is_tried_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_of("a", "b")
    seats = seated(pool)
    pool.distrust(seats.station)
    pool.give_back(seats, 1)
    monkeypatch.setattr(pooling, "PROBATION_SECONDS", -1.0)

    assert where(pool) == "a"


async def test_where_all_have_failed_one_that_was_not_asked_yet_is_taken() -> None:
    pool = pool_of("a", "b")

    assert pool.distrust(seated(pool).station)
    assert not pool.distrust(seated(pool).station)

    assert [where(pool, ask(), "a"), where(pool, ask(), "b")] == ["b", "a"]


async def test_answers_are_counted_also_of_those_who_have_left() -> None:
    pool = pool_of("a")
    seated(pool).station.answered()

    pool.update(servers("b"), {})

    assert pool.num_answers == {"a": 1, "b": 0}


async def test_seats_are_as_many_however_often_they_were_taken_and_given_back() -> None:
    pool = pool_of("a", "b", cache=Capacity(100))

    for _ in range(5_000):
        pool.give_back(seated(pool, ask(prefix_tokens=20, max_tokens=20)), 1)

    assert sorted(where(pool, ask(prefix_tokens=30, max_tokens=20)) for _ in range(4)) == ["a", "a", "b", "b"]
    assert pool.take(ask(), frozenset()) is None
