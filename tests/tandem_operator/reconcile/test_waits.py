"""What a restart waits for: its turn, and pods that do not go."""

from datetime import timedelta

import pytest

from tests.tandem_operator.reconcile.operators import (
    ALL_AGAIN,
    ENDS_ALL,
    FIRST,
    MASTER,
    SECOND,
    Operator,
    finish_all,
    is_quiet,
    rules_of,
    running,
    settle,
    start_all,
    wait_for,
)


def test_the_wait_before_a_restart_doubles() -> None:
    operator = running(failurePolicy=ALL_AGAIN)
    operator.world.end_container(FIRST, "trainer", 1)
    settle(operator)
    first = operator.decide().wake_after_seconds
    start_all(wait_for(finish_all(operator), 2))
    operator.world.end_container(FIRST, "trainer", 1)
    finish_all(settle(operator))

    assert first == 2.0
    assert operator.decide().wake_after_seconds == 4.0
    assert operator.world.names == []


def test_the_wait_before_a_restart_is_never_longer_than_five_minutes() -> None:
    operator = running(failurePolicy=ALL_AGAIN | {"maxRestarts": 1000})
    operator.world.body["status"]["restarts"] = 500
    operator.world._touch()
    operator.world.end_container(FIRST, "trainer", 1)

    finish_all(settle(operator))

    assert operator.decide().wake_after_seconds == 300.0


def test_an_operator_that_starts_anew_waits_for_the_rest_only() -> None:
    operator = running(failurePolicy=ALL_AGAIN | {"maxRestarts": 1000})
    operator.world.body["status"]["restarts"] = 500
    operator.world._touch()
    operator.world.end_container(FIRST, "trainer", 1)
    finish_all(settle(operator))
    operator.world.now += timedelta(seconds=200)

    later = settle(Operator(operator.world))

    assert later.decide().wake_after_seconds == 100.0


def test_a_pod_that_hangs_is_told_and_neither_forced_nor_asked_again() -> None:
    operator = running(failurePolicy=ALL_AGAIN)
    operator.world.hang(FIRST)
    operator.world.end_container(SECOND, "trainer", 1)
    finish_all(settle(operator))
    assert operator.decide().wake_after_seconds == 2.0
    finish_all(wait_for(operator, 3))
    assert operator.decide().wake_after_seconds == 87.0

    wait_for(operator, 87)

    told = (
        f"{FIRST} was to be gone at 2026-01-01T12:00:30Z and is not; "
        "look at its node, and if that is gone for good, delete the Node object"
    )
    cause = f"{SECOND}: container trainer ended with exit code 1 (Error)"
    assert operator.world.condition("Progressing") == ("False", "Restarting", f"{cause}; it waits: {told}")
    assert operator.world.condition("PodsScheduled") == ("False", "StuckTerminating", told)
    assert operator.world.removed.count(FIRST) == 1
    assert ("StuckTerminating", told) in operator.world.events
    assert is_quiet(operator.decide(), operator)


def test_a_restart_goes_on_as_soon_as_the_pod_that_hung_is_gone() -> None:
    operator = running(failurePolicy=ALL_AGAIN)
    operator.world.hang(FIRST)
    operator.world.end_container(SECOND, "trainer", 1)
    wait_for(finish_all(settle(operator)), 200)
    operator.world.hanging.clear()

    start_all(finish_all(operator))

    assert operator.world.names == ["hybrid-0", "hybrid-1", "master"]
    assert operator.world.status.restarts == 1


def test_a_pod_that_hangs_fails_the_job_where_a_rule_says_so() -> None:
    operator = running(failurePolicy=rules_of(({"reason": "StuckTerminating"}, "FailJob"), ENDS_ALL))
    operator.world.hang(FIRST)
    operator.world.end_container(SECOND, "trainer", 1)

    wait_for(finish_all(settle(operator)), 200)

    told = f"{FIRST}: was to end and has not; is its node gone?"
    assert operator.world.condition("Failed") == ("True", "FailurePolicy", told)


@pytest.mark.parametrize("action", ["ReplacePod", "RestartGang", "Ignore"])
def test_a_pod_that_hangs_is_not_answered_again_and_again(action: str) -> None:
    operator = running(failurePolicy=rules_of(({"reason": "StuckTerminating"}, action), ENDS_ALL))
    operator.world.hang(FIRST)
    operator.world.end_container(SECOND, "trainer", 1)

    wait_for(finish_all(settle(operator)), 2000)

    assert operator.world.status.restarts == 1


def test_what_ends_in_a_pod_that_was_asked_to_go_is_no_failure() -> None:
    operator = running(failurePolicy=ALL_AGAIN)
    operator.world.end_container(SECOND, "trainer", 1)
    settle(operator)
    operator.world.end_container(FIRST, "trainer", 143)
    operator.world.end_container(MASTER, "master", 1)

    settle(operator)

    assert operator.world.status.restarts == 1
