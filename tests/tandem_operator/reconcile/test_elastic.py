"""Rollout-only pods, which come and go while the job runs; and changes that touch no pod."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tandem_operator.plan.job import Plan
from tandem_operator.plan.pods import MASTER_IMAGE
from tandem_operator.reconcile.lifecycle import decide
from tandem_operator.reconcile.observed import Wanted
from tests.tandem_operator.reconcile.operators import PLACE, Operator, finish_all, running, settle, start_all, wait_for

ONE: Mapping[str, Any] = {"elastic": {"replicas": 1, "gpusPerPod": 1}}


def test_scaling_up_adds_pods_and_touches_no_other() -> None:
    operator = running()
    before = operator.world.uids()
    operator.world.edit("rollout.elastic.replicas", 2)

    start_all(settle(operator))

    after = operator.world.uids()
    assert operator.world.names == ["hybrid-0", "hybrid-1", "master", "rollout-0", "rollout-1"]
    assert {name: after[name] for name in before} == before
    assert operator.world.status.elastic is not None
    assert operator.world.status.elastic.ready == 2
    assert operator.world.status.elastic.selector == "tandem.dev/job=math-8b,tandem.dev/role=rollout"
    assert ("PodsCreated", "attempt 0: math-8b-rollout-0, math-8b-rollout-1") in operator.world.events


def test_scaling_down_removes_the_last_pods_and_touches_no_other() -> None:
    operator = running(rollout={"elastic": {"replicas": 2, "gpusPerPod": 1}})
    operator.world.edit("rollout.elastic.replicas", 1)

    settle(operator)

    assert operator.world.going == ["rollout-1"]
    assert operator.world.status.restarts == 0


def test_a_pod_that_is_wanted_again_while_it_goes_is_made_again_once_it_is_gone() -> None:
    operator = running(rollout=ONE)
    operator.world.edit("rollout.elastic.replicas", 0)
    settle(operator)
    operator.world.edit("rollout.elastic.replicas", 1)
    settle(operator)
    assert operator.world.going == ["rollout-0"]

    finish_all(operator)

    assert operator.world.names == ["hybrid-0", "hybrid-1", "master", "rollout-0"]
    assert operator.world.going == []
    assert operator.world.status.restarts == 0


def test_a_lost_elastic_pod_is_made_again_and_restarts_nothing() -> None:
    operator = running(rollout=ONE)
    before = operator.world.uids()
    operator.world.delete_pod("math-8b-rollout-0")

    start_all(finish_all(settle(operator)))

    after = operator.world.uids()
    assert {name for name in after if after[name] != before[name]} == {"math-8b-rollout-0"}
    assert operator.world.status.restarts == 0
    assert operator.world.condition("Progressing")[0] == "True"


def test_a_container_of_an_elastic_pod_is_the_kubelets_to_start_again() -> None:
    operator = running(rollout=ONE)
    operator.world.end_container("math-8b-rollout-0", "rollout", 1)

    settle(operator)

    assert operator.world.going == []
    assert operator.world.status.restarts == 0


def test_an_elastic_pod_that_failed_as_a_whole_is_replaced_alone() -> None:
    operator = running(rollout=ONE)
    operator.world.fail_pod("math-8b-rollout-0", "Evicted", "low on memory")

    settle(operator)
    going = operator.world.going
    start_all(wait_for(finish_all(operator), 2))

    assert going == ["rollout-0"]
    assert operator.world.names == ["hybrid-0", "hybrid-1", "master", "rollout-0"]
    assert (operator.world.status.restarts, operator.world.status.attempt) == (1, 0)


def test_an_elastic_pod_that_is_not_wanted_any_more_fails_without_notice() -> None:
    operator = running(rollout=ONE)
    operator.world.fail_pod("math-8b-rollout-0", "Evicted")
    operator.world.edit("rollout.elastic.replicas", 0)

    settle(operator)

    assert operator.world.status.restarts == 0


def test_fields_that_may_change_while_the_job_runs_touch_no_pod() -> None:
    operator = running()
    before = operator.world.uids()
    operator.world.edit("activeDeadlineSeconds", 86_400)
    operator.world.edit("ttlSecondsAfterFinished", 60)
    operator.world.edit("failurePolicy.maxRestarts", 3)
    operator.world.edit("scheduling.priorityClassName", "high")

    settle(operator)

    assert operator.world.uids() == before
    assert operator.world.going == []
    assert operator.world.status.observed_generation == 5


def test_another_version_of_the_planner_touches_no_pod() -> None:
    operator = running()
    observed = operator.observe()
    newer = replace(PLACE, master_image=f"{MASTER_IMAGE}.9", etcd_endpoints=("another:2379",))
    wanted = Operator(operator.world).record.plan(observed.job, 0, newer)

    decision = decide(observed, wanted)

    assert _plan(wanted).master.spec.containers[0].image == f"{MASTER_IMAGE}.9"
    assert decision.remove == ()
    assert decision.create == ()
    assert decision.master is None


def _plan(wanted: Wanted) -> Plan:
    assert wanted.plan is not None
    return wanted.plan
