"""A new job: its pods, and what is told until it samples."""

from datetime import timedelta

from tandem_api.job.status import EvaluationStatus, Phase
from tests.tandem_operator.reconcile.operators import Operator, is_quiet, running, settle, start_all
from tests.tandem_operator.reconcile.world import ITERATIONS, World

WORDS = "0/3 nodes are available: 1 cannot allocate all claims, 2 Insufficient memory."


def test_a_new_job_gets_its_children_first_then_its_members_and_the_master_last() -> None:
    world = settle(Operator(World.with_job())).world

    kinds = [write.split(" ")[0] for write in world.writes]
    assert kinds[:3] == ["apply"] * 3
    assert world.made[0] == ["math-8b-hybrid-0", "math-8b-hybrid-1", "math-8b-master"]
    assert world.reasons() == ["PodsCreated"]


def test_names_in_dns_and_the_budget_for_drains_come_once_every_pod_has_a_node() -> None:
    operator = settle(Operator(World.with_job()))
    early = set(operator.world.applied)

    for name in list(operator.world.pods):
        assert set(operator.world.applied) == early
        operator.world.schedule(name)
        settle(operator)

    assert set(operator.world.applied) - early == {("Service", "math-8b"), ("PodDisruptionBudget", "math-8b")}


def test_that_pods_which_no_node_took_have_nodes_now_is_told() -> None:
    operator = settle(Operator(World.with_job()))
    operator.world.refuse_node("math-8b-hybrid-0", "0/3 nodes: 1 cannot allocate all claims")
    settle(operator)

    for name in list(operator.world.pods):
        operator.world.schedule(name)
    settle(operator)

    assert operator.world.reasons() == ["PodsCreated", "Unschedulable", "AllScheduled"]


def test_a_new_job_says_every_condition_on_the_first_visit() -> None:
    world = settle(Operator(World.with_job())).world

    assert [item.type.value for item in world.status.conditions] == [
        "Admitted",
        "PodsScheduled",
        "EnginesReady",
        "Progressing",
        "Suspended",
        "Completed",
        "Failed",
        "RewardSignal",
    ]
    assert {item.observed_generation for item in world.status.conditions} == {1}
    assert world.status.start_time == "2026-01-01T12:00:00Z"


def test_an_operator_that_crashed_before_it_wrote_the_start_time_writes_it_at_the_next_look() -> None:
    operator = settle(Operator(World.with_job()))
    operator.world.body.pop("status")
    later = Operator(operator.world)
    operator.world.now += timedelta(seconds=9)

    settle(later)

    assert later.world.status.start_time == "2026-01-01T12:00:09Z"


def test_a_pod_without_a_node_is_told_in_the_words_of_the_scheduler() -> None:
    operator = settle(Operator(World.with_job()))
    operator.world.refuse_node("math-8b-hybrid-1", WORDS)

    settle(operator)

    assert operator.world.condition("PodsScheduled") == ("False", "Unschedulable", f"math-8b-hybrid-1: {WORDS}")
    assert ("Unschedulable", f"math-8b-hybrid-1: {WORDS}") in operator.world.events
    assert operator.world.status.restarts == 0


def test_pods_count_as_scheduled_once_each_has_a_node_though_images_are_being_pulled() -> None:
    operator = settle(Operator(World.with_job()))
    assert operator.world.condition("PodsScheduled")[:2] == ("Unknown", "Pending")
    operator.world.schedule("math-8b-hybrid-0")
    operator.world.schedule("math-8b-hybrid-1")
    operator.world.schedule("math-8b-master")

    settle(operator)

    assert operator.world.condition("PodsScheduled") == ("True", "AllScheduled", "all 3 pods have a node")


def test_an_image_that_cannot_be_pulled_is_shown_and_waited_for() -> None:
    operator = settle(Operator(World.with_job()))
    operator.world.cannot_start("math-8b-hybrid-0", "trainer", "ImagePullBackOff", "no such image")

    settle(operator)

    told = "math-8b-hybrid-0/trainer: ImagePullBackOff no such image"
    assert operator.world.condition("EnginesReady") == ("False", "ContainersNotReady", told)
    assert ("ContainersNotReady", told) in operator.world.events
    assert operator.world.status.restarts == 0


def test_the_caption_is_starting_with_the_activity_of_the_master_until_the_first_switch() -> None:
    operator = start_all(settle(Operator(World.with_job())))
    assert operator.world.condition("EnginesReady")[2] == "the master has not spoken yet"
    operator.world.speak(activity="waiting for 2 members")

    settle(operator)

    assert operator.world.status.phase == "Starting"
    assert operator.world.condition("Progressing") == ("True", "Starting", "waiting for 2 members")
    assert operator.world.condition("EnginesReady") == ("False", "Starting", "waiting for 2 members")


def test_the_caption_is_infer_after_the_first_switch_and_counts_trajectories() -> None:
    operator = running()
    operator.world.speak(wanted_trajectories=64, completed_trajectories=12)

    settle(operator)

    assert operator.world.status.phase == "Infer"
    told = "iteration 2 of 3: 12 of 64 trajectories complete"
    assert operator.world.condition("Progressing") == ("True", "Rollout", told)
    assert operator.world.condition("EnginesReady")[:2] == ("True", "EnginesRegistered")


def test_the_caption_is_train_after_the_second_switch() -> None:
    operator = running()
    operator.world.speak(
        switch=True, phase=Phase.TRAIN, iteration=ITERATIONS - 1, reward=0.25, tokens_per_second=1200.0
    )

    settle(operator)

    assert operator.world.status.phase == "Train"
    assert operator.world.condition("Progressing")[:2] == ("True", "Training")
    assert operator.world.status.reward is not None
    assert operator.world.status.reward.mean == 0.25
    assert operator.world.status.tokens_per_second == 1200.0


def test_the_last_evaluation_of_each_held_out_set_is_in_the_status() -> None:
    operator = running()
    told = EvaluationStatus(name="test", generation=10, pass1=0.5, mean_reward=0.25)
    operator.world.speak(evaluations=(told,))

    settle(operator)

    assert operator.world.status.evaluations == (told,)


def test_numbers_that_json_cannot_hold_are_left_out_of_the_status() -> None:
    operator = running()
    operator.world.speak(reward=float("nan"), tokens_per_second=float("inf"))

    settle(operator)

    assert operator.world.status.reward is None
    assert operator.world.status.tokens_per_second is None


def test_nothing_is_written_while_nothing_changes() -> None:
    operator = running()

    decision = operator.decide()

    assert is_quiet(decision, operator)
    assert decision.notes == ()


def test_each_event_is_told_once() -> None:
    operator = running()
    operator.look()
    operator.look()

    settle(Operator(operator.world))

    assert operator.world.reasons() == ["PodsCreated", "EnginesRegistered"]


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    operator = running()
    before = {item.type: item.last_transition_time for item in operator.world.status.conditions}
    operator.world.now += timedelta(seconds=60)
    operator.world.speak(iteration=2)

    settle(operator)

    assert {item.type: item.last_transition_time for item in operator.world.status.conditions} == before


def test_a_pod_of_somebody_else_under_a_name_of_the_job_is_told_and_never_touched() -> None:
    world = World.with_job()
    operator = settle(Operator(world))
    world.pods["math-8b-hybrid-0"]["metadata"]["ownerReferences"] = [{"kind": "RLJob", "uid": "the job before"}]
    world.delete_pod("math-8b-hybrid-1")
    world.delete_pod("math-8b-master")
    world.body.pop("status")

    operator = settle(Operator(world))

    assert world.names == ["hybrid-0"]
    assert world.removed == []
    told = "math-8b-hybrid-0: is a pod of somebody else; delete it, or give the job another name"
    assert world.condition("Progressing") == ("False", "NameTaken", told)
    assert ("NameTaken", told) in operator.world.events


def test_a_spec_that_the_planner_refuses_is_told_and_its_pods_stay() -> None:
    operator = running()
    uids = operator.world.uids()
    operator.world.edit("podTemplate", {"spec": {"containers": [{"name": "extra"}]}})

    settle(operator)

    status, reason, message = operator.world.condition("Progressing")
    assert (status, reason) == ("False", "InvalidSpec")
    assert message.startswith("spec.podTemplate")
    assert operator.world.condition("Admitted") == ("False", "InvalidSpec", message)
    assert operator.world.uids() == uids
    assert operator.world.going == []
    assert operator.world.reasons()[-1] == "InvalidSpec"
