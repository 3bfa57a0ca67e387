"""Writes go at a bounded rate, a few at once."""

import asyncio

import pytest

from tandem_operator.kube.errors import TooManyRequestsError
from tandem_operator.kube.limits import TokenBucket, WriteLimit, WriteRate


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_goes_at_once_and_the_rest_at_the_rate() -> None:
    bucket = TokenBucket(per_second=10, burst=3, clock=Clock())

    waits = [bucket.reserve() for _ in range(6)]

    assert waits == pytest.approx([0, 0, 0, 0.1, 0.2, 0.3])


def test_a_quiet_time_fills_the_bucket_no_further_than_the_burst() -> None:
    clock = Clock()
    bucket = TokenBucket(per_second=10, burst=2, clock=clock)
    [bucket.reserve() for _ in range(2)]

    clock.now += 3600
    waits = [bucket.reserve() for _ in range(3)]

    assert waits == pytest.approx([0, 0, 0.1])


async def test_no_more_than_a_few_writes_are_under_way_at_once() -> None:
    limit = WriteLimit(WriteRate(per_second=1e6, burst=100, at_once=2))
    under_way: set[int] = set()
    most: list[int] = []

    async def write(ordinal: int) -> None:
        async with limit.turn():
            under_way.add(ordinal)
            most.append(len(under_way))
            await asyncio.sleep(0)
            under_way.remove(ordinal)

    async with asyncio.TaskGroup() as writes:
        [writes.create_task(write(ordinal)) for ordinal in range(20)]

    assert len(most) == 20
    assert max(most) == 2


async def test_a_write_that_gets_no_turn_is_refused_with_the_reason() -> None:
    limit = WriteLimit(WriteRate(at_once=1, queue_seconds=0.01))

    async with limit.turn():
        with pytest.raises(TooManyRequestsError, match=r"no turn within 0.01 s; raise the operator's rate"):
            await limit.turn().__aenter__()

    assert limit.num_waiting == 0
