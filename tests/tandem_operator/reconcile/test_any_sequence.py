"""Whatever people, nodes, masters and crashes do in whatever order: nothing forbidden is written, and all settles.

`TANDEM_LONG_SEQUENCES=1` tries many more and longer sequences, other ones each time.
"""

import os
from contextlib import suppress
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tandem_operator.reconcile.waits import soonest
from tests.tandem_operator.reconcile.kueue_world import Kueue
from tests.tandem_operator.reconcile.operators import Operator, is_quiet
from tests.tandem_operator.reconcile.world import ITERATIONS, CrashError, World, attempt_of, role_of

LONG = os.environ.get("TANDEM_LONG_SEQUENCES") == "1"
MOST_ROUNDS = 120
MOST_WRITES = 250
CHOICE = st.integers(0, 11)
ENDINGS = st.sampled_from([(1, "Error"), (3, "Error"), (137, "OOMKilled"), (0, "Completed")])
ACTIONS = ["RestartContainer", "ReplacePod", "RestartGang", "FailJob", "Ignore"]
MATCHES: list[dict[str, Any]] = [
    {"container": "trainer"},
    {"container": "rollout", "exitCodes": [1]},
    {"container": "master"},
    {"exitCodes": [3]},
    {"reason": "OOMKilled"},
]
WHOLE_MATCHES: list[dict[str, Any]] = [
    {"reason": reason}
    for reason in ("Evicted", "NodeLost", "PodLost", "ImagePull", "Unschedulable", "StuckTerminating")
]
RULES = st.lists(
    st.builds(
        lambda match, action: {"match": match, "action": action}, st.sampled_from(MATCHES), st.sampled_from(ACTIONS)
    )
    | st.builds(
        lambda match, action: {"match": match, "action": action},
        st.sampled_from(WHOLE_MATCHES),
        st.sampled_from([action for action in ACTIONS if action != "RestartContainer"]),
    ),
    max_size=3,
)


class AnySequence(RuleBasedStateMachine):
    """People, kubelets, the master, and an operator that hears late and crashes."""

    @initialize(
        rules=RULES,
        max_restarts=st.integers(0, 6),
        replicas=st.integers(0, 2),
        deadline=st.none() | st.just(900),
        scheduling=st.sampled_from([{}, {"queueName": "research"}, {"gang": "Native"}]),
        runs=st.booleans(),
    )
    def apply(
        self,
        rules: list[Any],
        max_restarts: int,
        replicas: int,
        deadline: int | None,
        scheduling: dict[str, str],
        runs: bool,
    ) -> None:
        self.world = World.with_job(
            failurePolicy={"maxRestarts": max_restarts, "rules": rules},
            rollout={"elastic": {"replicas": replicas, "maxReplicas": 3, "gpusPerPod": 1}},
            activeDeadlineSeconds=deadline,
            scheduling=scheduling,
        )
        self.world.kueue = Kueue() if "queueName" in scheduling else None
        self.gang_api = "scheduling.k8s.io/v1alpha2" if "gang" in scheduling else None
        self.operator = Operator(self.world, self.gang_api)
        if runs:
            self.all_goes_well()

    def _pod(self, choice: int, *phases: str) -> str | None:
        """Return one of the pods in these phases that may stay."""
        names = [
            name
            for name, pod in sorted(self.world.pods.items())
            if pod["status"]["phase"] in phases and "deletionTimestamp" not in pod["metadata"]
        ]
        return names[choice % len(names)] if names else None

    # --- the operator ---

    @rule()
    def look(self) -> None:
        if not self.world.gone:
            self.operator.look()

    @rule()
    def hear_and_look(self) -> None:
        self.operator.hear()
        self.look()

    @rule()
    def all_goes_well(self) -> None:
        """Let nodes and operator do what is due, and the master switch."""
        for _ in range(6):
            self.hear_and_look()
        self.admit()
        self.hear_and_look()
        self.hear_and_look()
        self.let_pods_go()
        self.hear_and_look()
        self.start_all_pods()
        if self._runs(self.world.master):
            self.world.speak(switch=True, iteration=1)
        self.hear_and_look()

    @rule()
    def hear_of_the_job_alone(self) -> None:
        self.operator.hear_of_job()

    @rule()
    def hear_of_the_pods_alone(self) -> None:
        self.operator.hear_of_pods()

    @rule(writes=st.integers(0, 8))
    def crash_between_two_writes(self, writes: int) -> None:
        self.operator.hear()
        self.operator.writes_left = writes
        with suppress(CrashError):
            self.look()
        self.operator = Operator(self.world, self.gang_api)

    # --- people ---

    @rule(value=st.booleans())
    def suspend_or_resume(self, value: bool) -> None:
        self.world.edit("suspend", value)

    @rule(replicas=st.integers(0, 3))
    def scale(self, replicas: int) -> None:
        self.world.edit("rollout.elastic.replicas", replicas)

    @rule(max_restarts=st.integers(0, 6))
    def change_the_limit(self, max_restarts: int) -> None:
        self.world.edit("failurePolicy.maxRestarts", max_restarts)

    @precondition(lambda self: self.world.body["spec"].get("suspend"))
    @rule(image=st.sampled_from(["trainer:1", "trainer:2"]))
    def change_the_spec_while_suspended(self, image: str) -> None:
        self.world.edit("trainer.image", image)

    @rule(choice=CHOICE)
    def delete_a_pod(self, choice: int) -> None:
        name = self._pod(choice, "Pending", "Running", "Succeeded", "Failed")
        if name is not None:
            self.world.delete_pod(name)

    # --- the queue ---

    @rule()
    def admit(self) -> None:
        if self.world.kueue is not None:
            self.world.kueue.admit(self.world.now)

    @rule(reason=st.sampled_from(["Preempted", "Deactivated", "PodsReadyTimeout"]))
    def evict(self, reason: str) -> None:
        if self.world.kueue is not None:
            self.world.kueue.evict(self.world.now, reason)

    @rule()
    def delete_the_workload(self) -> None:
        if self.world.kueue is not None:
            self.world.kueue.workload = None

    # --- nodes ---

    @rule()
    def start_all_pods(self) -> None:
        for name in [name for name in self.world.pods if self.world.pods[name]["status"]["phase"] == "Pending"]:
            self.world.start(name)

    @rule(choice=CHOICE)
    def start_a_pod(self, choice: int) -> None:
        name = self._pod(choice, "Pending")
        if name is not None:
            self.world.start(name)

    @rule(choice=CHOICE, last=st.booleans(), ending=ENDINGS)
    def end_a_container(self, choice: int, last: bool, ending: tuple[int, str]) -> None:
        name = self._pod(choice, "Running")
        if name is not None:
            containers = self.world.pods[name]["status"]["containerStatuses"]
            self.world.end_container(name, containers[-1 if last else 0]["name"], *ending)

    @rule(choice=CHOICE, reason=st.sampled_from(["Evicted", "UnexpectedAdmissionError", "NodeShutdown", "OutOfcpu"]))
    def fail_a_pod(self, choice: int, reason: str) -> None:
        name = self._pod(choice, "Pending", "Running")
        if name is not None:
            self.world.fail_pod(name, reason)

    @rule(
        choice=CHOICE, reason=st.sampled_from(["EvictionByEvictionAPI", "DeletionByTaintManager"]), hangs=st.booleans()
    )
    def disrupt_a_pod(self, choice: int, reason: str, hangs: bool) -> None:
        name = self._pod(choice, "Running")
        if name is not None:
            self.world.disrupt(name, reason)
            if hangs:
                self.world.hang(name)

    @rule(choice=CHOICE)
    def lose_a_node(self, choice: int) -> None:
        name = self._pod(choice, "Running")
        if name is not None:
            self.world.hang(name)

    @rule(choice=CHOICE, trouble=st.sampled_from(["ImagePullBackOff", "CreateContainerError", "Unschedulable"]))
    def hold_up_a_pod(self, choice: int, trouble: str) -> None:
        name = self._pod(choice, "Pending")
        if name is not None and trouble == "Unschedulable":
            self.world.refuse_node(name, "0/3 nodes are available")
        elif name is not None:
            self.world.cannot_start(name, self.world.pods[name]["spec"]["containers"][0]["name"], trouble)

    @rule()
    def let_pods_go(self) -> None:
        for name in [name for name, pod in self.world.pods.items() if "deletionTimestamp" in pod["metadata"]]:
            self.world.finish(name)

    @rule()
    def give_the_nodes_back(self) -> None:
        self.world.hanging.clear()

    @rule(seconds=st.sampled_from([1, 5, 61, 300]))
    def let_time_pass(self, seconds: int) -> None:
        self.world.now += timedelta(seconds=seconds)

    # --- the master ---

    @rule(iteration=st.integers(0, ITERATIONS - 1), switch=st.booleans())
    def speak(self, iteration: int, switch: bool) -> None:
        if self._runs(self.world.master):
            self.world.speak(switch=switch, iteration=iteration)

    @rule(exit_code=st.sampled_from([0, 1]), early=st.booleans())
    def end_the_master(self, exit_code: int, early: bool) -> None:
        if self._runs(self.world.master):
            if exit_code == 0 and not early:
                self.world.complete()
            else:
                self.world.speak(iteration=0, activity="stopped" if exit_code == 0 else "failed")
                self.world.end_container(self.world.master, "master", exit_code)

    def _runs(self, name: str) -> bool:
        return name in self.world.pods and self.world.pods[name]["status"]["phase"] == "Running"

    # --- what always holds, and where it ends ---

    @invariant()
    def what_is_suspended_has_no_pod(self) -> None:
        if hasattr(self, "world") and not self.world.gone:
            suspended = [item for item in self.world.status.conditions if item.type == "Suspended"]
            assert not suspended or suspended[0].status == "False" or self._was_just_resumed()

    def _was_just_resumed(self) -> bool:
        """Return whether the pods that are there are none of the time before the suspension."""
        return all(attempt_of(pod) >= self.world.status.attempt for pod in self.world.pods.values())

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self._settle()
        if not self.world.gone:
            self._is_as_it_should_be()

    def _settle(self) -> None:
        """Let everything that is under way come to its end, and count what is written for it."""
        world, before = self.world, len(self.world.writes)
        world.hanging.clear()
        for _ in range(MOST_ROUNDS):
            self._end_what_is_under_way()
            self.operator.hear()
            decision = self.operator.look()
            if world.gone:
                break
            quiet, wait = is_quiet(decision, self.operator), soonest(decision.wake_after_seconds)
            if quiet and (wait is None or wait > 310):
                break
            if quiet and wait is not None:
                world.now += timedelta(seconds=wait)
        else:
            raise AssertionError(f"not settled: {world.status}")
        assert len(world.writes) - before <= MOST_WRITES, world.writes[before:]

    def _end_what_is_under_way(self) -> None:
        self.let_pods_go()
        self.start_all_pods()
        self.admit()
        for pod in self.world.pods.values():
            statuses = pod["status"].get("containerStatuses", [])
            pod["status"]["conditions"] = [
                item for item in pod["status"]["conditions"] if item["type"] != "DisruptionTarget"
            ]
            assert all("waiting" not in item.get("state", {}) for item in statuses)

    def _is_as_it_should_be(self) -> None:
        world, decision = self.world, self.operator.decide()
        assert is_quiet(decision, self.operator)
        here = {name for name in world.names if name != "master"}
        if world.has_ended:
            assert not here
            assert not self.world.groups
        elif world.body["spec"].get("suspend"):
            assert not world.pods
            assert not world.groups
            assert world.kueue is None or world.kueue.workload is None
            assert world.condition("Suspended")[0] == "True"
        else:
            replicas = world.body["spec"]["rollout"]["elastic"]["replicas"]
            wanted = {f"hybrid-{index}" for index in range(world.num_hybrid)}
            assert set(world.names) == wanted | {f"rollout-{index}" for index in range(replicas)} | {"master"}
            assert world.attempts() == {world.status.attempt}
            assert not world.going
            hashes = {pod["metadata"]["annotations"]["tandem.dev/spec-hash"] for pod in world.pods.values()}
            assert len(hashes) == 1
            assert world.kueue is None or world.kueue.says("PodsReady")
            assert set(world.groups) == ({world.body["metadata"]["name"]} if self.gang_api else set())
        assert all(role_of(pod) for pod in world.pods.values())


AnySequence.TestCase.settings = settings(
    max_examples=3000 if LONG else 45,
    stateful_step_count=60 if LONG else 40,
    derandomize=not LONG,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # the machine may be busy
)
TestAnySequence = AnySequence.TestCase
