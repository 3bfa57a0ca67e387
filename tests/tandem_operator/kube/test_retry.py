"""A request survives what passes by, within bounds, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_operator.kube.client import KubeClient
from tandem_operator.kube.errors import (
    AlreadyExistsError,
    ApiError,
    NotFoundError,
    TooManyRequestsError,
    UnreachableError,
)
from tandem_operator.kube.resources import CONFIG_MAP
from tandem_operator.kube.retry import Backoff, RetryPolicy
from tandem_operator.kube.transport import Sample, retry_after_seconds
from tests.tandem_operator.kube.conftest import QUICK, Server
from tests.tandem_operator.kube.fake_api import FakeApi, Fault
from tests.tandem_operator.kube.manifests import config_map

ONE = config_map("research", "one")


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=429, headers=(("Retry-After", "1"),)),
        Fault(status=503),
        Fault(status=500),
        Fault(status=504),
        Fault(),
    ],
    ids=["429", "503", "500", "504", "cut connection"],
)
async def test_a_write_is_repeated_after_a_passing_failure(fake_server: Server, fake: FakeApi, fault: Fault) -> None:
    fake.faults.append(fault)

    await fake_server.client.create(ONE)

    assert fake.num_requests("POST") == 2


async def test_a_create_whose_answer_was_lost_says_that_it_is_there(fake_server: Server, fake: FakeApi) -> None:
    fake.faults.append(Fault(carried_out=True))

    with pytest.raises(AlreadyExistsError):
        await fake_server.client.create(ONE)

    assert await fake_server.client.find(CONFIG_MAP, "research", "one") is not None


async def test_a_failure_that_stays_is_raised_after_a_bounded_number_of_attempts(
    fake_server: Server, fake: FakeApi
) -> None:
    fake.faults.extend([Fault(status=503)] * 20)

    with pytest.raises(ApiError, match=r"GET /api/v1/namespaces/research/configmaps/one: .*503"):
        await fake_server.client.get(CONFIG_MAP, "research", "one")

    assert fake.num_requests("GET") == QUICK.max_attempts


async def test_a_refusal_is_not_repeated(fake_server: Server, fake: FakeApi) -> None:
    with pytest.raises(NotFoundError):
        await fake_server.client.get(CONFIG_MAP, "research", "one")

    assert fake.num_requests("GET") == 1


async def test_a_server_that_does_not_answer_is_unreachable(fake_server: Server, fake: FakeApi) -> None:
    fake.faults.extend([Fault(hangs=True)] * 2)
    hasty = RetryPolicy(attempt_seconds=0.1, deadline_seconds=5, max_attempts=2, backoff=Backoff(first_seconds=0.01))

    with pytest.raises(UnreachableError, match="no answer in time"):
        await KubeClient(fake_server.connection, retry=hasty).get(CONFIG_MAP, "research", "one")

    assert fake.num_requests("GET") == 2


async def test_a_server_that_asks_for_more_patience_than_there_is_is_not_waited_for(
    fake_server: Server, fake: FakeApi
) -> None:
    fake.faults.append(Fault(status=429, headers=(("Retry-After", "3600"),)))

    with pytest.raises(TooManyRequestsError):
        await fake_server.client.create(ONE)


async def test_an_urgent_client_tries_once(fake_server: Server, fake: FakeApi) -> None:
    fake.faults.append(Fault(status=503))

    with pytest.raises(ApiError):
        await fake_server.client.urgent().create(ONE)

    assert fake.num_requests("POST") == 1


async def test_every_attempt_is_observed(fake_server: Server, fake: FakeApi) -> None:
    samples: list[Sample] = []
    fake.faults.append(Fault(status=503))

    await KubeClient(fake_server.connection, retry=QUICK, observe=samples.append).create(ONE)

    assert [(sample.verb, sample.plural, sample.status) for sample in samples] == [
        ("create", "configmaps", 503),
        ("create", "configmaps", 200),
    ]


@given(num_failures=st.integers(1, 10_000), chance=st.floats(0, 1, exclude_max=True))
def test_a_pause_never_leaves_its_bounds(num_failures: int, chance: float) -> None:
    backoff = Backoff(first_seconds=0.25, longest_seconds=10, jitter=0.5)

    assert 0.125 <= backoff.pause_seconds(num_failures, chance) <= 10


def test_the_server_s_word_is_the_least_pause() -> None:
    refused = TooManyRequestsError(429, "TooManyRequests", "slow down", retry_after_seconds=7)

    assert RetryPolicy().pause_seconds(refused, num_attempts=1, chance=0.5) == 7


@pytest.mark.parametrize(("header", "expected"), [("3", 3.0), (None, None), ("Sun, 22 Nov 2026 08:00:00 GMT", None)])
def test_retry_after_counts_seconds(header: str | None, expected: float | None) -> None:
    assert retry_after_seconds(header) == expected
