"""The probes' server, over HTTP."""

import asyncio
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from tandem_operator.program.errors import MachineError
from tandem_operator.program.health import ProbeServer
from tandem_operator.program.metrics import Metrics
from tandem_operator.program.pulse import Pulse, PulseLimits, Role, Vitals
from tandem_operator.program.run import beat
from tandem_operator.program.settings import Address

FREE = Address("127.0.0.1", 0)
SHORT = PulseLimits(beat_seconds=1.5)


@pytest.fixture
def pulse() -> Pulse:
    return Pulse(SHORT)


@pytest.fixture
def probes(pulse: Pulse) -> Iterator[ProbeServer]:
    """A server whose own thread answers while the test may do anything with its loop."""
    with ProbeServer(FREE, pulse, Metrics("0.1.0").text) as server:
        yield server


def ask(server: ProbeServer, path: str) -> httpx.Response:
    """Return the answer of one request."""
    return httpx.get(f"http://{server.address.host}:{server.address.port}{path}", timeout=5)


def test_a_living_loop_is_alive(pulse: Pulse, probes: ProbeServer) -> None:
    pulse.beat(Vitals(Role.STANDBY))

    answer = ask(probes, "/livez")

    assert (answer.status_code, answer.text) == (200, "standby\n")


async def test_a_loop_that_blocks_is_told_while_it_blocks(pulse: Pulse, probes: ProbeServer) -> None:
    async with asyncio.TaskGroup() as tasks:
        beating = tasks.create_task(beat(pulse, Metrics(), lambda: Vitals(Role.LEADER, synced=True)))
        await asyncio.sleep(0)
        before = ask(probes, "/livez")

        time.sleep(2)  # noqa: ASYNC251 - this is the freeze
        frozen = ask(probes, "/livez")  # blocks this loop too: only another thread can answer

        await asyncio.sleep(0.1)
        beating.cancel()
    assert before.status_code == 200
    assert frozen.status_code == 503
    assert frozen.text.startswith("the event loop has stood still for")


async def test_a_loop_that_turns_again_is_alive_again(pulse: Pulse, probes: ProbeServer) -> None:
    pulse.beat(Vitals())
    time.sleep(2)  # noqa: ASYNC251 - this is the freeze
    assert ask(probes, "/livez").status_code == 503

    pulse.beat(Vitals())

    assert ask(probes, "/livez").status_code == 200


@pytest.mark.parametrize(
    ("vitals", "status", "words"),
    [
        (Vitals(Role.STANDBY), 200, "standby\n"),
        (Vitals(Role.LEADER), 503, "leader: jobs and pods are still being listed\n"),
        (Vitals(Role.LEADER, synced=True), 200, "leader\n"),
    ],
)
def test_readiness_says_which_part_it_plays(
    vitals: Vitals, status: int, words: str, pulse: Pulse, probes: ProbeServer
) -> None:
    pulse.beat(vitals)

    answer = ask(probes, "/readyz")

    assert (answer.status_code, answer.text) == (status, words)


def test_metrics_are_served_as_prometheus_reads_them(probes: ProbeServer) -> None:
    answer = ask(probes, "/metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "tandem_operator_build_info" in answer.text


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(
            MachineError, match=f"^--metrics-address: 127.0.0.1:{port}: address already in use; give ano"
        ):
            ProbeServer(Address("127.0.0.1", port), Pulse(), Metrics().text)


def test_the_thread_ends_with_its_context(pulse: Pulse) -> None:
    with ProbeServer(FREE, pulse, Metrics().text) as server:
        assert ask(server, "/livez").status_code == 200

    with pytest.raises(httpx.ConnectError):
        ask(server, "/livez")
