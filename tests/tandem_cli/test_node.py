"""One machine as a node: what ends is started again, unless it has never come up or ends again and again."""

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tandem_cli.local import node as nodes
from tandem_cli.local.cleanup import janitor
from tandem_cli.local.container import ContainerProcess
from tandem_cli.local.node import MOST_RESTARTS, SETTLED_SECONDS, Node, may_restart
from tandem_cli.local.volumes import Folders
from tandem_cli.manifest import read_job
from tandem_operator.plan.job import Plan, Surroundings, plan_job
from tests.tandem_cli.ground import Ground

SOON = 20.0
MASTER, HYBRID, ROLLOUT = "reverse-master", "reverse-hybrid-0", "reverse-rollout-0"
IDLE = ("sleep", "60")


@pytest.fixture
def plan(ground: Ground) -> Plan:
    """A master, a hybrid pod and a rollout-only pod; each container only sleeps."""
    ground.write_job(rollout={"elastic": {"replicas": 1, "gpusPerPod": 1}})
    planned = plan_job(read_job(ground.job), Surroundings(etcd_endpoints=("127.0.0.1:1",), token="t"))
    return acting(planned, {})


def acting(plan: Plan, commands: Mapping[str, tuple[str, ...]]) -> Plan:
    """Return the plan with containers, `<pod>/<container>`, that run these commands; all others only sleep."""
    pods = []
    for pod in plan.pods:
        containers = tuple(
            item.model_copy(
                update={"command": commands.get(f"{pod.metadata.name}/{item.name}", IDLE), "args": ()},
            )
            for item in pod.spec.containers
        )
        pods.append(pod.model_copy(update={"spec": pod.spec.model_copy(update={"containers": containers})}))
    return replace(plan, pods=tuple(pods))


def shell(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


@dataclass(slots=True)
class Machine:
    """A node with running pods, and what it told people."""

    node: Node
    told: list[str] = field(default_factory=list)

    def container(self, name: str) -> ContainerProcess:
        return next(item for item in self.node.containers if item.name == name)

    async def until_replaced(self, ended: ContainerProcess) -> ContainerProcess:
        """Return the container that has taken the place of one that has ended."""
        async with asyncio.timeout(SOON):
            while self.container(ended.name) is ended:  # noqa: ASYNC110 - a node tells nobody
                await asyncio.sleep(0.01)
        return self.container(ended.name)


@pytest.fixture
async def machine(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Machine]:
    monkeypatch.setattr(nodes, "RESTART_SECONDS", 0.05)
    async with running(plan, tmp_path) as machine:
        yield machine


@asynccontextmanager
async def running(plan: Plan, folder: Path) -> AsyncIterator[Machine]:
    with janitor() as cleanup:
        folders = Folders(memory=folder / "memory", scratch=folder / "scratch", state=folder / "state")
        machine = Machine(Node(cleanup, folder / "logs"))
        addresses = {pod.metadata.name: f"127.77.0.{10 + index}" for index, pod in enumerate(plan.pods)}
        await machine.node.start_pods(plan, addresses, folders)
        healing = asyncio.create_task(machine.node.heal(machine.told.append))
        try:
            yield machine
        finally:
            healing.cancel()
            await asyncio.gather(healing, return_exceptions=True)
            await machine.node.stop()


async def test_a_rollout_only_pod_that_ends_is_started_again(machine: Machine) -> None:
    ended = machine.container(f"{ROLLOUT}/rollout")

    ended.kill_group()
    again = await machine.until_replaced(ended)

    assert again.running
    assert machine.told == [f"{ROLLOUT}/rollout: ended (nothing was logged); the job goes on, and it is started again"]


async def test_its_end_is_no_failure(machine: Machine) -> None:
    failing = asyncio.create_task(machine.node.first_failure())
    ended = machine.container(f"{ROLLOUT}/rollout")
    ended.kill_group()
    await machine.until_replaced(ended)

    assert not failing.done()
    failing.cancel()


@pytest.mark.parametrize("name", ["trainer", "rollout"])
async def test_a_container_of_a_hybrid_pod_that_a_signal_ends_is_started_again(machine: Machine, name: str) -> None:
    failing = asyncio.create_task(machine.node.first_failure())
    ended = machine.container(f"{HYBRID}/{name}")

    ended.signal(signal.SIGKILL)
    again = await machine.until_replaced(ended)

    assert again.running
    assert machine.told == [f"{HYBRID}/{name}: ended (nothing was logged); the job goes on, and it is started again"]
    assert not failing.done()
    failing.cancel()


async def test_a_container_that_is_ended_twice_is_started_twice(machine: Machine) -> None:
    first = machine.container(f"{HYBRID}/trainer")
    first.signal(signal.SIGKILL)
    second = await machine.until_replaced(first)

    second.signal(signal.SIGKILL)
    third = await machine.until_replaced(second)

    assert third.running
    assert len({first.pid, second.pid, third.pid}) == 3


async def test_a_container_of_a_hybrid_pod_that_fails_at_once_is_a_failure_with_its_last_words(
    plan: Plan, tmp_path: Path
) -> None:
    failing = acting(plan, {f"{HYBRID}/trainer": shell("echo '12:00 ERROR no device'; echo stopping; exit 1")})
    async with running(failing, tmp_path) as machine, asyncio.timeout(SOON):
        failed = await machine.node.first_failure()

    assert (failed.name, failed.last_words()) == (f"{HYBRID}/trainer", "12:00 ERROR no device")
    assert machine.told == []


@pytest.mark.parametrize(
    ("returncode", "lasted_seconds", "num_restarts", "may"),
    [
        (-signal.SIGKILL, 0.0, 0, True),
        (-signal.SIGSEGV, 0.0, MOST_RESTARTS - 1, True),
        (-signal.SIGKILL, 10 * SETTLED_SECONDS, MOST_RESTARTS, False),
        (1, SETTLED_SECONDS, 0, True),
        (0, SETTLED_SECONDS, 0, True),
        (1, SETTLED_SECONDS - 0.1, 0, False),
        (0, 0.0, 0, False),
        (1, 10 * SETTLED_SECONDS, MOST_RESTARTS, False),
    ],
    ids=[
        "killed at once",
        "crashed once more",
        "killed too often",
        "failed after it had come up",
        "ended after it had come up",
        "failed before it came up",
        "ended at once",
        "failed too often",
    ],
)
def test_a_container_may_be_started_again_that_was_killed_or_had_come_up(
    returncode: int, lasted_seconds: float, num_restarts: int, may: bool
) -> None:
    assert may_restart(returncode, lasted_seconds, num_restarts) is may


async def test_a_master_that_a_signal_ends_is_started_again(machine: Machine) -> None:
    verdict = asyncio.create_task(machine.node.verdict())
    ended = machine.node.master

    ended.signal(signal.SIGKILL)
    again = await machine.until_replaced(ended)

    assert again.running
    assert machine.node.master is again
    assert machine.told == [f"{MASTER}/master: ended by SIGKILL; it is started again"]
    assert not verdict.done()
    verdict.cancel()


@pytest.mark.parametrize("code", [0, 1])
async def test_a_master_that_ends_by_itself_has_said_the_last_word(plan: Plan, tmp_path: Path, code: int) -> None:
    async with running(acting(plan, {f"{MASTER}/master": shell(f"exit {code}")}), tmp_path) as machine:
        async with asyncio.timeout(SOON):
            verdict = await machine.node.verdict()

    assert verdict == code
    assert machine.told == []


async def test_a_master_that_was_killed_says_the_last_word_in_its_next_life(plan: Plan, tmp_path: Path) -> None:
    once = shell(f"if [ -e {tmp_path}/lived ]; then exit 3; fi; touch {tmp_path}/lived; kill -9 $$")
    async with running(acting(plan, {f"{MASTER}/master": once}), tmp_path) as machine, asyncio.timeout(SOON):
        verdict = await machine.node.verdict()

    assert verdict == 3


async def test_a_node_that_is_stopped_also_ends_what_was_started_again(plan: Plan, tmp_path: Path) -> None:
    async with running(plan, tmp_path) as machine:
        ended = machine.container(f"{ROLLOUT}/rollout")
        ended.kill_group()
        again = await machine.until_replaced(ended)

    assert not again.running


async def test_a_node_that_is_killed_starts_nothing_again(machine: Machine) -> None:
    before = machine.node.containers

    machine.node.kill()
    await asyncio.gather(*(container.wait() for container in before))
    await asyncio.sleep(0.5)

    assert machine.node.containers == before
    assert machine.told == []


async def test_a_master_that_was_told_to_stop_is_not_started_again_whatever_ends_it(machine: Machine) -> None:
    machine.node.begin_stop()
    machine.node.master.signal(signal.SIGTERM)

    async with asyncio.timeout(SOON):
        verdict = await machine.node.verdict()

    assert verdict == -signal.SIGTERM
