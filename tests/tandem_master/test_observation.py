"""Who looks on while a job runs."""

import socket

import httpx
import pytest

from tandem_master.metrics import MasterMetrics
from tandem_master.observation import Observation, Scrape, observed
from tandem_master.tracing import JobName
from tests.tandem_master.switches import switch_record

JOB = JobName("team", "reverse-digits")
ADDRESS = "127.0.0.1"
TOKEN = "the-jobs-token"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])


async def test_what_is_recorded_can_be_scraped() -> None:
    port = free_port()

    async with (
        observed(JOB, Scrape(ADDRESS, port, TOKEN), {}) as observation,
        httpx.AsyncClient(trust_env=False) as web,
    ):
        observation.record(switch_record(epoch=5))
        answer = await web.get(f"http://{ADDRESS}:{port}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})

    assert "tandem_job_epoch 5.0" in answer.text.splitlines()


async def test_without_a_port_nobody_is_served_and_records_are_taken_all_the_same() -> None:
    async with observed(JOB, Scrape(ADDRESS, None, TOKEN), {}) as observation:
        observation.record(switch_record(epoch=5))

    assert b"tandem_job_epoch 5.0" in observation.metrics.rendered()
    assert observation.tracer is None


async def test_a_port_that_is_taken_does_not_end_the_job(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind((ADDRESS, 0))
        taken.listen()

        async with observed(JOB, Scrape(ADDRESS, taken.getsockname()[1], TOKEN), {}) as observation:
            observation.record(switch_record())

    assert "the job runs without metrics" in caplog.text


def test_an_observation_without_a_collector_only_counts() -> None:
    observation = Observation(MasterMetrics())

    observation.record(switch_record(epoch=2))

    assert b"tandem_job_epoch 2.0" in observation.metrics.rendered()
