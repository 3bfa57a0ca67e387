"""One machine as a node: the pods of a plan as processes, started together, stopped in order."""

import asyncio
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from tandem_cli.local.cleanup import Cleanup
from tandem_cli.local.container import ContainerProcess, Program
from tandem_cli.local.environment import container_environment
from tandem_cli.local.volumes import Folders, make_volumes, translate
from tandem_operator.plan.job import Plan
from tandem_operator.plan.names import LABEL_ROLE
from tandem_operator.plan.objects import Container, Pod

MASTER_STOP_SECONDS = 8.5
"""The master finishes its iteration or saves where it is, within this time."""
ENGINE_STOP_SECONDS = 3.0
RESTART_SECONDS = 1.0
"""Pause before a rollout-only pod is started again; it doubles up to the next figure."""
MOST_RESTART_SECONDS = 30.0


class Node:
    """The running containers of one job."""

    def __init__(self, cleanup: Cleanup, logs: Path) -> None:
        self._cleanup = cleanup
        self._logs = logs
        self._containers: list[ContainerProcess] = []
        self._rollout_only: dict[str, Program] = {}
        """Containers, by name, of pods that may come and go."""

    @property
    def containers(self) -> tuple[ContainerProcess, ...]:
        return tuple(self._containers)

    @property
    def master(self) -> ContainerProcess:
        return next(container for container in self._containers if container.name.endswith("/master"))

    async def start_program(self, program: Program) -> ContainerProcess:
        """Start a process that belongs to the run."""
        container = await ContainerProcess.start(program)
        self._cleanup.add_process(container.pid)
        return container

    async def start_pods(self, plan: Plan, addresses: Mapping[str, str], folders: Folders) -> None:
        """Start every container of every pod."""
        for pod in plan.pods:
            volumes = make_volumes(plan, pod, folders)
            temporary = folders.scratch / pod.metadata.name / "tmp"
            temporary.mkdir(parents=True, mode=0o700)
            for container in pod.spec.containers:
                program = self._program(pod, container, volumes, addresses[pod.metadata.name], temporary)
                if pod.metadata.labels.get(LABEL_ROLE) == "rollout":
                    self._rollout_only[program.name] = program
                self._containers.append(await self.start_program(program))

    async def first_failure(self) -> ContainerProcess:
        """Return the first container that ends, the master and rollout-only pods aside."""
        free = {self.master.name, *self._rollout_only}
        others = [container for container in self._containers if container.name not in free]
        tasks = {asyncio.create_task(item.wait(), name=item.name): item for item in others}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return tasks[next(iter(done))]
        finally:
            for task in tasks:
                task.cancel()

    async def heal(self, tell: Callable[[str], None]) -> None:
        """Start rollout-only pods again whenever they end, as a kubelet does, until cancelled; `tell` people of it."""
        async with asyncio.TaskGroup() as group:
            for name in self._rollout_only:
                group.create_task(self._keep(name, tell), name=f"keep {name}")

    async def _keep(self, name: str, tell: Callable[[str], None]) -> None:
        pause = RESTART_SECONDS
        while True:
            index = next(index for index, item in enumerate(self._containers) if item.name == name)
            ended = self._containers[index]
            await ended.wait()
            tell(f"{name}: ended ({ended.last_words()}); the job goes on, and it is started again")
            await asyncio.sleep(pause)
            pause = min(2 * pause, MOST_RESTART_SECONDS)
            await self._replace(index, self._rollout_only[name])

    async def _replace(self, index: int, program: Program) -> None:
        """Start a container in the place of one that has ended; a cancelled call leaves none that `stop` misses."""
        starting = asyncio.create_task(self.start_program(program), name=f"start {program.name}")
        try:
            await asyncio.shield(starting)
        finally:
            self._containers[index] = await starting

    async def stop(self) -> None:
        """Stop the master, which saves, then the engines; what does not go in time is killed."""
        if self._containers:
            await _stop([self.master], MASTER_STOP_SECONDS)
            await _stop(self._containers, ENGINE_STOP_SECONDS)

    def kill(self) -> None:
        """End everything at once."""
        for container in self._containers:
            container.kill_group()

    def _program(
        self, pod: Pod, container: Container, volumes: Mapping[str, Path], address: str, temporary: Path
    ) -> Program:
        argv = [translate(container, volumes, word) for word in (*container.command, *container.args)]
        environment = container_environment(pod, container, volumes, address, temporary)
        name = pod.metadata.name
        return Program(f"{name}/{container.name}", argv, environment, self._logs / name / f"{container.name}.log")


async def _stop(containers: list[ContainerProcess], seconds: float) -> None:
    running = [container for container in containers if container.running]
    for container in running:
        container.signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(container.wait() for container in running))
    except TimeoutError:
        for container in running:
            container.kill_group()
        await asyncio.gather(*(container.wait() for container in running))
