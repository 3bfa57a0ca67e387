"""A job in a queue of Kueue, and a job that is placed as a gang."""

from typing import Any

from tests.tandem_operator.reconcile.kueue_world import Kueue
from tests.tandem_operator.reconcile.operators import (
    Operator,
    finish_all,
    settle,
    start_all,
    wait_for,
)
from tests.tandem_operator.reconcile.world import World

QUEUED: dict[str, Any] = {"scheduling": {"queueName": "research"}}
GANG: dict[str, Any] = {"scheduling": {"gang": "Native"}}
NATIVE = "scheduling.k8s.io/v1alpha2"


def queue_of(operator: Operator) -> Kueue:
    assert operator.world.kueue is not None
    return operator.world.kueue


def queued(**spec: Any) -> Operator:
    """Return an operator whose job stands in a queue."""
    world = World.with_job(**(QUEUED | spec))
    world.kueue = Kueue()
    return settle(Operator(world))


def admitted(**spec: Any) -> Operator:
    """Return an operator whose job was admitted by its queue and samples."""
    operator = queued(**spec)
    queue_of(operator).admit(operator.world.now)
    start_all(settle(operator))
    operator.world.speak(switch=True, iteration=1)
    return settle(operator)


def test_a_job_with_a_queue_asks_for_its_place_and_makes_no_pod() -> None:
    operator = queued()

    workload = queue_of(operator).workload
    assert workload is not None
    assert [(item["name"], item["count"]) for item in workload["spec"]["podSets"]] == [("master", 1), ("hybrid", 2)]
    assert workload["spec"]["queueName"] == "research"
    assert operator.world.pods == {}
    assert operator.world.status.phase == "Queued"
    assert operator.world.condition("Admitted") == ("False", "Queued", "waits in queue research for its turn")
    assert operator.world.condition("PodsScheduled") == ("False", "NoPods", "no pod is wanted")


def test_what_the_claims_of_the_pods_name_is_there_before_the_queue_is_asked() -> None:
    operator = queued(hybrid={"replicas": 2, "gpusPerPod": 1})

    assert operator.world.writes[:3] == [
        "apply ('ResourceClaimTemplate', 'math-8b-hybrid-gpus')",
        "status",
        "apply ('Workload', 'rljob-math-8b')",
    ]


def test_the_words_of_the_queue_are_the_words_of_the_condition_and_of_one_event() -> None:
    operator = queued()
    queue_of(operator).refuse("insufficient unused quota for cpu in flavor spot, 2 more needed", operator.world.now)

    settle(operator)

    assert operator.world.condition("Admitted")[2] == (
        "waits in queue research for its turn: insufficient unused quota for cpu in flavor spot, 2 more needed"
    )
    assert operator.world.reasons() == ["Queued"]


def test_an_admitted_job_gets_its_pods_and_tells_the_queue_once_they_are_ready() -> None:
    operator = queued()
    queue_of(operator).admit(operator.world.now)
    settle(operator)
    before = queue_of(operator).reason_of("PodsReady", "False")

    start_all(operator)

    assert before == "WaitForStart"
    assert queue_of(operator).reason_of("PodsReady", "True") == "Started"
    assert operator.world.condition("Admitted")[:2] == ("True", "Admitted")
    assert operator.world.reasons()[:3] == ["Queued", "Admitted", "PodsCreated"]


def test_pods_that_were_ready_and_are_not_are_told_as_a_recovery() -> None:
    operator = admitted()
    operator.world.delete_pod("math-8b-hybrid-0")

    finish_all(settle(operator))
    lost = queue_of(operator).reason_of("PodsReady", "False")
    start_all(finish_all(wait_for(operator, 10)))

    assert lost == "WaitForRecovery"
    assert queue_of(operator).reason_of("PodsReady", "True") == "Recovered"


def test_an_evicted_job_ends_its_pods_the_master_first_and_then_gives_its_quota_back() -> None:
    operator = admitted()
    queue_of(operator).evict(operator.world.now)

    settle(operator)
    first = operator.world.going
    settle(finish_all(operator))
    reserved = queue_of(operator).says("QuotaReserved")
    finish_all(operator)

    assert (first, reserved) == (["master"], True)
    assert operator.world.pods == {}
    assert not queue_of(operator).says("QuotaReserved")
    assert not queue_of(operator).says("Admitted")
    assert queue_of(operator).reason_of("Requeued", "True") == "Preempted"
    reason, message = operator.world.condition("Admitted")[1:]
    assert (reason, message) == ("Evicted", "queue research: Preempted: another job is more urgent")
    assert (operator.world.status.phase, operator.world.status.restarts) == ("Queued", 0)


def test_a_job_that_somebody_deactivated_is_not_queued_again_by_the_operator() -> None:
    operator = admitted()
    queue_of(operator).evict(operator.world.now, "Deactivated")

    finish_all(finish_all(settle(operator)))

    assert queue_of(operator).reason_of("Requeued", "False") == "Deactivated"


def test_an_evicted_job_goes_on_when_it_is_admitted_again() -> None:
    operator = admitted()
    queue_of(operator).evict(operator.world.now)
    finish_all(finish_all(settle(operator)))

    queue_of(operator).admit(operator.world.now)
    start_all(settle(operator))

    assert operator.world.names == ["hybrid-0", "hybrid-1", "master"]
    assert operator.world.attempts() == {1}
    assert operator.world.condition("Admitted")[0] == "True"


def test_a_suspended_job_leaves_its_queue_once_its_pods_are_gone_and_comes_back_at_the_end_of_it() -> None:
    operator = admitted()
    operator.world.edit("suspend", True)

    settle(operator)
    while_pods_end = queue_of(operator).workload
    finish_all(finish_all(operator))
    while_suspended = queue_of(operator).workload
    operator.world.edit("suspend", False)
    settle(operator)

    assert while_pods_end is not None
    assert while_suspended is None
    assert queue_of(operator).workload is not None
    assert operator.world.pods == {}


def test_a_job_that_completes_frees_its_quota_and_its_workload_stays_as_a_record() -> None:
    operator = admitted()
    operator.world.complete()

    finish_all(settle(operator))

    assert queue_of(operator).reason_of("Finished", "True") == "Succeeded"
    assert operator.world.status.phase == "Completed"


def test_a_job_that_fails_says_so_to_its_queue() -> None:
    operator = admitted(failurePolicy={"maxRestarts": 0})
    operator.world.end_container("math-8b-hybrid-0", "trainer", 1)

    finish_all(finish_all(settle(operator)))

    assert queue_of(operator).reason_of("Finished", "True") == "Failed"


def test_a_workload_that_somebody_deletes_takes_the_pods_along_and_the_job_queues_anew() -> None:
    operator = admitted()
    queue_of(operator).workload = None

    finish_all(finish_all(settle(operator)))

    assert operator.world.pods == {}
    assert queue_of(operator).workload is not None


def test_a_job_does_not_run_on_the_permission_of_an_earlier_job_of_its_name() -> None:
    operator = queued()
    queue_of(operator).admit(operator.world.now)
    workload = queue_of(operator).workload
    assert workload is not None
    workload["metadata"]["ownerReferences"][0]["uid"] = "an earlier job"

    settle(operator)
    before = dict(operator.world.pods)
    queue_of(operator).workload = None
    settle(operator)

    assert before == {}
    assert operator.world.condition("Admitted")[1] == "Queued"
    assert queue_of(operator).workload is not None


def test_without_kueue_the_job_runs_and_condition_and_event_say_so() -> None:
    operator = start_all(settle(Operator(World.with_job(**QUEUED))))

    assert operator.world.names == ["hybrid-0", "hybrid-1", "master"]
    assert operator.world.condition("Admitted") == (
        "True",
        "QueueAbsent",
        "this cluster has no Kueue: the job runs without queue research",
    )
    assert "QueueAbsent" in operator.world.reasons()


def test_a_gang_has_its_pod_group_before_its_pods() -> None:
    operator = settle(Operator(World.with_job(**GANG), gang_api=NATIVE))

    writes = operator.world.writes
    assert writes.index("apply ('PodGroup', 'math-8b')") < writes.index("create math-8b-hybrid-0")
    assert {pod["spec"]["schedulingGroup"]["podGroupName"] for pod in operator.world.pods.values()} == {"math-8b"}


def test_a_pod_group_goes_with_the_last_pod_of_a_suspended_job() -> None:
    operator = start_all(settle(Operator(World.with_job(**GANG), gang_api=NATIVE)))
    operator.world.edit("suspend", True)

    settle(operator)
    while_pods_end = dict(operator.world.groups)
    finish_all(finish_all(operator))

    assert set(while_pods_end) == {"math-8b"}
    assert operator.world.groups == {}


def test_a_gang_that_the_cluster_does_not_serve_is_placed_one_by_one_and_an_event_says_so() -> None:
    operator = start_all(settle(Operator(World.with_job(**GANG))))

    assert operator.world.names == ["hybrid-0", "hybrid-1", "master"]
    assert operator.world.groups == {}
    assert operator.world.events[0] == (
        "GangAbsent",
        "spec.scheduling.gang: this cluster does not serve Native PodGroups; pods are placed one by one",
    )
