"""One machine as a node: rollout-only pods may end and are started again, the end of any other container counts."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tandem_cli.local import node as nodes
from tandem_cli.local.cleanup import janitor
from tandem_cli.local.container import ContainerProcess
from tandem_cli.local.node import Node
from tandem_cli.local.volumes import Folders
from tandem_cli.manifest import read_job
from tandem_operator.plan.job import Plan, Surroundings, plan_job
from tests.tandem_cli.ground import Ground

SOON = 20.0
HYBRID, ROLLOUT = "reverse-hybrid-0", "reverse-rollout-0"


@pytest.fixture
def plan(ground: Ground) -> Plan:
    """A master, a hybrid pod and a rollout-only pod; each container only sleeps."""
    ground.write_job(rollout={"elastic": {"replicas": 1, "gpusPerPod": 1}})
    planned = plan_job(read_job(ground.job), Surroundings(etcd_endpoints=("127.0.0.1:1",), token="t"))
    pods = []
    for pod in planned.pods:
        idle = [item.model_copy(update={"command": ("sleep", "60"), "args": ()}) for item in pod.spec.containers]
        pods.append(pod.model_copy(update={"spec": pod.spec.model_copy(update={"containers": tuple(idle)})}))
    return replace(planned, pods=tuple(pods))


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


async def test_the_end_of_a_hybrid_pods_server_is_a_failure(machine: Machine) -> None:
    machine.container(f"{HYBRID}/rollout").signal(signal.SIGKILL)

    async with asyncio.timeout(SOON):
        failed = await machine.node.first_failure()

    assert failed.name == f"{HYBRID}/rollout"
    assert machine.told == []


async def test_a_node_that_is_stopped_also_ends_what_was_started_again(plan: Plan, tmp_path: Path) -> None:
    async with running(plan, tmp_path) as machine:
        ended = machine.container(f"{ROLLOUT}/rollout")
        ended.kill_group()
        again = await machine.until_replaced(ended)

    assert not again.running
