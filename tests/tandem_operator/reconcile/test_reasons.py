"""Why pods fail, and what each cause is called."""

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


def test_an_evicted_pod_is_evicted_though_its_containers_ended_too() -> None:
    policy = rules_of(({"reason": "Error"}, "FailJob"), ({"reason": "Evicted"}, "ReplacePod"))
    operator = running(failurePolicy=policy)
    operator.world.fail_pod(FIRST, "Evicted", "the node was low on memory")

    settle(operator)

    assert operator.world.condition("Progressing")[2] == f"{FIRST}: Evicted: the node was low on memory"
    assert operator.world.going == ["hybrid-0"]


def test_a_drained_node_evicts_though_the_pod_is_only_deleted() -> None:
    operator = running(failurePolicy=rules_of(({"reason": "Evicted"}, "ReplacePod")))
    operator.world.disrupt(FIRST, "EvictionByEvictionAPI")

    settle(operator)
    start_all(wait_for(finish_all(operator), 2))

    assert (operator.world.status.restarts, operator.world.status.attempt) == (1, 0)
    assert operator.world.names == ["hybrid-0", "hybrid-1", "master"]


def test_a_pod_on_a_lost_node_is_answered_at_once_and_waited_for() -> None:
    operator = running()
    operator.world.hang(FIRST)
    operator.world.disrupt(FIRST, "DeletionByTaintManager")

    wait_for(finish_all(settle(operator)), 30)

    assert operator.world.condition("Progressing") == ("False", "Restarting", f"{FIRST}: DeletionByTaintManager")
    assert operator.world.names == ["hybrid-0"]


def test_a_deleted_pod_is_lost_before_it_is_gone() -> None:
    operator = running()
    operator.world.delete_pod(SECOND)

    settle(operator)

    assert operator.world.condition("Progressing")[2] == f"{SECOND}: was deleted by someone else"
    assert operator.world.status.restarts == 1


def test_a_pod_that_went_while_no_operator_looked_is_lost() -> None:
    operator = running()
    del operator.world.pods[SECOND]

    settle(Operator(operator.world))

    assert operator.world.status.restarts == 1
    assert operator.world.status.attempt == 1


def test_a_master_that_went_while_no_operator_looked_is_lost() -> None:
    operator = running()
    del operator.world.pods[MASTER]

    settle(Operator(operator.world))

    assert operator.world.condition("Progressing")[2] == f"{MASTER}: was deleted by someone else"
    assert operator.world.status.attempt == 1


def test_a_pod_lost_twice_and_replaced_twice_counts_twice() -> None:
    operator = running(failurePolicy=rules_of(({"reason": "PodLost"}, "ReplacePod")))
    del operator.world.pods[SECOND]
    start_all(wait_for(settle(operator), 2))
    del operator.world.pods[SECOND]

    start_all(wait_for(settle(operator), 4))

    assert (operator.world.status.restarts, operator.world.status.attempt) == (2, 0)
    assert operator.world.names == ["hybrid-0", "hybrid-1", "master"]


def test_a_pod_whose_node_cannot_give_its_devices_restarts_the_gang() -> None:
    operator = settle(Operator(World.with_job()))
    operator.world.fail_pod(FIRST, "UnexpectedAdmissionError", "no such device")

    settle(operator)

    assert operator.world.condition("Progressing")[2] == f"{FIRST}: UnexpectedAdmissionError: no such device"
    assert operator.world.status.restarts == 1


def test_an_image_that_cannot_be_pulled_fails_the_job_where_a_rule_says_so() -> None:
    operator = settle(Operator(World.with_job(failurePolicy=rules_of(({"reason": "ImagePull"}, "FailJob")))))
    operator.world.cannot_start(FIRST, "trainer", "ErrImagePull", "not found")

    settle(operator)

    assert operator.world.condition("Failed") == ("True", "FailurePolicy", f"{FIRST}: ErrImagePull: not found")


def test_containers_that_are_not_of_tandem_fail_nothing() -> None:
    operator = running()
    status = operator.world.pods[FIRST]["status"]["containerStatuses"]
    status.append({"name": "istio-proxy", "restartCount": 0, "state": {}})
    operator.world.end_container(FIRST, "istio-proxy", 1)

    settle(operator)

    assert operator.world.status.restarts == 0
