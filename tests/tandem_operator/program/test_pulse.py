"""When the operator counts as alive, and when as ready."""

from dataclasses import dataclass

import pytest

from tandem_operator.program.pulse import Pulse, PulseLimits, Role, Vitals

LIMITS = PulseLimits(beat_seconds=30, progress_seconds=300, watch_seconds=200)


@dataclass(slots=True)
class Clock:
    """A time that a test sets."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


def beating(vitals: Vitals) -> Pulse:
    """Return a pulse that beat right now."""
    pulse = Pulse(LIMITS, Clock())
    pulse.beat(vitals)
    return pulse


def test_a_heartbeat_that_stays_away_means_a_frozen_loop() -> None:
    clock = Clock()
    pulse = Pulse(LIMITS, clock)
    pulse.beat(Vitals(Role.STANDBY))

    clock.seconds = 31

    assert pulse.alive().words == "the event loop has stood still for 31 s"
    assert not pulse.alive().good


@pytest.mark.parametrize(
    ("vitals", "alive"),
    [
        (Vitals(Role.LEADER, True, progress_age_seconds=299), True),
        (Vitals(Role.LEADER, True, progress_age_seconds=301), False),
        (Vitals(Role.STANDBY, True, progress_age_seconds=301), True),
        (Vitals(Role.LEADER, True, watch_age_seconds=199), True),
        (Vitals(Role.LEADER, True, watch_age_seconds=201), False),
        (Vitals(Role.STOPPING, True, watch_age_seconds=201), True),
    ],
)
def test_only_a_leader_must_get_somewhere(vitals: Vitals, alive: bool) -> None:
    assert beating(vitals).alive().good is alive


@pytest.mark.parametrize(
    ("vitals", "ready", "words"),
    [
        (Vitals(Role.STARTING), False, "starting"),
        (Vitals(Role.STANDBY), True, "standby"),
        (Vitals(Role.LEADER, synced=False), False, "leader: jobs and pods are still being listed"),
        (Vitals(Role.LEADER, synced=True), True, "leader"),
        (Vitals(Role.STOPPING, synced=True), False, "stopping"),
    ],
)
def test_a_replica_is_ready_when_it_does_its_part(vitals: Vitals, ready: bool, words: str) -> None:
    verdict = beating(vitals).ready()

    assert (verdict.good, verdict.words) == (ready, words)
