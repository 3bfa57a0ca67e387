"""Failures of containers: counted, answered and told."""

from collections.abc import Callable

import pytest

from tests.tandem_operator.reconcile.operators import (
    FIRST,
    MASTER,
    SECOND,
    Operator,
    finish_all,
    rules_of,
    running,
    settle,
    start_all,
    wait_for,
)
from tests.tandem_operator.reconcile.world import World


@pytest.mark.parametrize("container", ["trainer", "rollout"])
def test_without_a_rule_the_end_of_an_engine_is_counted_and_left_to_the_kubelet(container: str) -> None:
    operator = running()
    before = operator.world.uids()
    operator.world.end_container(FIRST, container, 137)

    settle(wait_for(operator, 60))

    assert operator.world.uids() == before
    assert (operator.world.status.restarts, operator.world.status.attempt) == (1, 0)


@pytest.mark.parametrize(
    "hurt",
    [
        pytest.param(lambda world: world.end_container(MASTER, "master", 137), id="the master ends"),
        pytest.param(lambda world: world.pods.pop(FIRST), id="a hybrid pod is lost"),
    ],
)
def test_without_a_rule_what_takes_state_along_restarts_the_gang(hurt: Callable[[World], object]) -> None:
    operator = running()
    hurt(operator.world)

    settle(operator)
    start_all(wait_for(finish_all(operator), 2))

    assert operator.world.made[1] == [FIRST, SECOND, MASTER]
    assert (operator.world.status.restarts, operator.world.status.attempt) == (1, 1)


def test_a_restart_is_told_with_its_cause() -> None:
    operator = running()
    operator.world.end_container(FIRST, "rollout", 137, "OOMKilled")

    settle(operator)

    cause = f"{FIRST}: container rollout ended with exit code 137 (OOMKilled)"
    assert operator.world.condition("Progressing") == ("False", "Restarting", cause)
    assert operator.world.events[2:] == [("Restarting", cause)]
    assert operator.world.status.phase == "Restarting"


def test_failures_seen_together_count_once() -> None:
    operator = running()
    operator.world.end_container(FIRST, "trainer", 1)
    operator.world.end_container(SECOND, "trainer", 1)
    operator.world.end_container(MASTER, "master", 1)

    settle(operator)

    assert operator.world.status.restarts == 1


def test_a_failure_is_counted_once_however_often_it_is_looked_at_and_by_whom() -> None:
    operator = running(failurePolicy=rules_of(({"container": "trainer"}, "RestartContainer")))
    operator.world.end_container(FIRST, "trainer", 1)
    settle(operator)
    operator.look()

    settle(wait_for(Operator(operator.world), 60))

    assert operator.world.status.restarts == 1
    assert operator.world.status.attempt == 0
    assert operator.world.removed == []


def test_each_ending_of_a_container_counts_for_itself() -> None:
    operator = running(failurePolicy=rules_of(({"container": "trainer"}, "RestartContainer")) | {"maxRestarts": 2})
    operator.world.end_container(FIRST, "trainer", 1)
    settle(operator)
    operator.world.end_container(FIRST, "trainer", 1)
    settle(operator)
    assert operator.world.status.restarts == 2
    operator.world.end_container(FIRST, "trainer", 1)

    settle(operator)

    assert operator.world.condition("Failed")[1] == "MaxRestartsExceeded"


def test_only_what_can_be_seen_still_is_remembered() -> None:
    operator = running(failurePolicy=rules_of(({"container": "trainer"}, "RestartContainer")))
    operator.world.end_container(FIRST, "trainer", 1)
    settle(operator)
    operator.world.end_container(FIRST, "trainer", 1)

    wait_for(operator, 60)

    assert len(operator.world.status.handled_failures) == 1


def test_a_second_failure_while_a_restart_waits_is_told_too() -> None:
    operator = running(failurePolicy=rules_of(({"container": "trainer"}, "RestartContainer")))
    operator.world.end_container(FIRST, "trainer", 1)
    settle(operator)
    operator.world.end_container(SECOND, "trainer", 2)

    settle(operator)

    assert operator.world.reasons()[2:] == ["Restarting", "Restarting"]
    assert operator.world.status.restarts == 2


def test_replace_pod_makes_that_pod_again_and_touches_no_other() -> None:
    operator = running(failurePolicy=rules_of(({"container": "trainer"}, "ReplacePod")))
    before = operator.world.uids()
    operator.world.end_container(FIRST, "trainer", 1)

    settle(operator)
    going = operator.world.going
    start_all(wait_for(finish_all(operator), 2))

    after = operator.world.uids()
    assert going == ["hybrid-0"]
    assert {name for name in after if after[name] != before[name]} == {FIRST}
    assert (operator.world.status.restarts, operator.world.status.attempt) == (1, 0)


def test_other_failures_of_a_pod_that_is_being_replaced_count_no_more() -> None:
    operator = running(failurePolicy=rules_of(({"container": "trainer"}, "ReplacePod")))
    operator.world.end_container(FIRST, "trainer", 1)
    operator.hear()
    operator.look()
    operator.world.end_container(FIRST, "rollout", 1)

    settle(operator)

    assert operator.world.status.restarts == 1
    assert operator.world.status.attempt == 0


def test_a_pod_that_replaced_another_can_be_lost_like_any_pod() -> None:
    operator = running(failurePolicy=rules_of(({"container": "trainer"}, "ReplacePod")))
    operator.world.end_container(FIRST, "trainer", 1)
    start_all(wait_for(finish_all(settle(operator)), 2))
    del operator.world.pods[FIRST]

    settle(operator)

    assert operator.world.status.restarts == 2
    assert operator.world.status.attempt == 1


def test_ignored_failures_change_nothing() -> None:
    operator = running(failurePolicy=rules_of(({"reason": "Error"}, "Ignore")))
    operator.world.end_container(FIRST, "trainer", 1)

    settle(operator)

    assert operator.world.status.restarts == 0
    assert operator.world.going == []


def test_the_master_is_not_started_again_in_its_pod() -> None:
    operator = running(failurePolicy=rules_of(({"container": "master"}, "RestartContainer")))
    operator.world.end_container(MASTER, "master", 137)

    settle(operator)

    assert operator.world.status.attempt == 1


def test_an_engine_that_ended_is_the_cause_even_where_its_master_is_seen_to_end_first() -> None:
    operator = running(failurePolicy=rules_of(({"container": "trainer", "reason": "OOMKilled"}, "FailJob")))
    operator.world.end_container(MASTER, "master", 1)
    wait_for(operator, 2)
    assert operator.world.status.restarts == 0
    operator.world.end_container(FIRST, "trainer", 1, "OOMKilled")

    settle(operator)

    cause = f"{FIRST}: container trainer ended with exit code 1 (OOMKilled)"
    assert operator.world.condition("Failed") == ("True", "FailurePolicy", cause)


def test_a_master_that_gave_up_by_itself_is_answered_when_nobody_else_has_ended_for_a_while() -> None:
    operator = running()
    operator.world.end_container(MASTER, "master", 1)
    settle(operator)
    assert operator.decide().wake_after_seconds == 5.0

    wait_for(operator, 5)

    assert (operator.world.status.restarts, operator.world.status.attempt) == (1, 1)
    assert operator.world.condition("Progressing")[2].startswith(f"{MASTER}: container master ended with exit code 1")


def test_more_pods_than_can_be_remembered_are_answered_with_one_restart_of_all() -> None:
    hybrid = {"replicas": 40, "gpusPerPod": 1, "gpu": {"sharing": "None"}}
    operator = running(hybrid=hybrid, failurePolicy=rules_of(({"container": "trainer"}, "ReplacePod")))
    world = operator.world
    world.end_everywhere("trainer", 1)

    settle(operator)
    start_all(wait_for(finish_all(operator), 2))

    assert (world.status.restarts, world.status.attempt) == (1, 1)
    assert world.status.handled_failures == ()
    assert "more than 32 single restarts at a time" in dict(world.events)["Restarting"]
