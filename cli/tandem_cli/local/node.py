"""One machine as a node: the pods of a plan as processes, started together, stopped in order."""

import asyncio
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic

from tandem_cli.local.cleanup import Cleanup
from tandem_cli.local.container import ContainerProcess, Program
from tandem_cli.local.environment import container_environment
from tandem_cli.local.volumes import Folders, make_volumes, translate
from tandem_operator.plan.job import Plan
from tandem_operator.plan.names import LABEL_ROLE
from tandem_operator.plan.objects import Container, Pod

MASTER = "/master"
"""How the name of the master's container ends."""
MASTER_STOP_SECONDS = 8.5
"""The master finishes its iteration or saves where it is, within this time."""
ENGINE_STOP_SECONDS = 3.0
RESTART_SECONDS = 1.0
"""Pause before a container is started again; it doubles up to the next figure."""
MOST_RESTART_SECONDS = 30.0
MOST_RESTARTS = 10
"""Restarts of a hybrid pod's container, after which its end is the job's."""
SETTLED_SECONDS = 30.0
"""A container that ends by itself before that has not come up: whatever it lacks, it will lack again."""


class Node:
    """The running containers of one job."""

    def __init__(self, cleanup: Cleanup, logs: Path) -> None:
        self._cleanup = cleanup
        self._logs = logs
        self._containers: list[ContainerProcess] = []
        self._programs: dict[str, Program] = {}
        """What each container of a hybrid or rollout-only pod runs, by its name."""
        self._rollout_only: set[str] = set()
        """Names of containers of pods that may come and go."""
        self._master_program: Program | None = None
        self._is_stopping = False
        self._given_up: asyncio.Queue[ContainerProcess] = asyncio.Queue()
        self._master_ended: asyncio.Queue[int] = asyncio.Queue()

    @property
    def containers(self) -> tuple[ContainerProcess, ...]:
        return tuple(self._containers)

    @property
    def master(self) -> ContainerProcess:
        return next(container for container in self._containers if container.name.endswith(MASTER))

    async def start_program(self, program: Program) -> ContainerProcess:
        """Start a process that belongs to the run."""
        container = await ContainerProcess.start(program)
        self._cleanup.add_process(container.pid)
        return container

    async def start_pods(self, plan: Plan, addresses: Mapping[str, str], folders: Folders) -> None:
        """Start every container of every pod."""
        for number, pod in enumerate(plan.pods):
            volumes = make_volumes(plan, pod, folders)
            temporary = folders.scratch / f"t{number}"  # short: sockets in it may have 107 characters
            temporary.mkdir(parents=True, mode=0o700)
            for container in pod.spec.containers:
                program = self._program(pod, container, volumes, addresses[pod.metadata.name], temporary)
                if program.name.endswith(MASTER):
                    self._master_program = program
                else:
                    self._programs[program.name] = program
                if pod.metadata.labels.get(LABEL_ROLE) == "rollout":
                    self._rollout_only.add(program.name)
                self._containers.append(await self.start_program(program))

    async def first_failure(self) -> ContainerProcess:
        """Return the first container whose end is not mended; `heal` runs beside."""
        return await self._given_up.get()

    def begin_stop(self) -> None:
        """From now on nothing that ends is started again."""
        self._is_stopping = True

    async def verdict(self) -> int:
        """Return the master's exit code once it has ended by its own word; `heal` runs beside."""
        return await self._master_ended.get()

    async def heal(self, tell: Callable[[str], None]) -> None:
        """Start containers again when they end, as a kubelet does, until cancelled; `tell` people of it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_master(tell), name="keep the master")
            for name in self._programs:
                group.create_task(self._keep(name, tell), name=f"keep {name}")

    async def _keep(self, name: str, tell: Callable[[str], None]) -> None:
        pause_seconds, num_restarts = RESTART_SECONDS, 0
        while True:
            index = next(index for index, item in enumerate(self._containers) if item.name == name)
            began, ended = monotonic(), self._containers[index]
            returncode = await ended.wait()
            lasted_seconds = monotonic() - began
            if self._is_stopping:
                return None
            if name not in self._rollout_only and not may_restart(returncode, lasted_seconds, num_restarts):
                return self._given_up.put_nowait(ended)
            tell(f"{name}: ended ({ended.last_words()}); the job goes on, and it is started again")
            await asyncio.sleep(pause_seconds)
            if self._is_stopping:
                return None
            num_restarts += 1
            pause_seconds = min(2 * pause_seconds, MOST_RESTART_SECONDS)
            await self._replace(index, self._programs[name])

    async def _keep_master(self, tell: Callable[[str], None]) -> None:
        """Start the master again where a signal has ended it: it goes on from what is committed."""
        assert self._master_program is not None
        for _ in range(MOST_RESTARTS):
            returncode = await self.master.wait()
            if returncode >= 0 or self._is_stopping:
                break
            tell(f"{self.master.name}: ended by {signal.Signals(-returncode).name}; it is started again")
            await asyncio.sleep(RESTART_SECONDS)
            if self._is_stopping:
                break
            await self._replace(self._containers.index(self.master), self._master_program)
        self._master_ended.put_nowait(await self.master.wait())

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
        self.begin_stop()
        for container in self._containers:
            container.kill_group()

    def _program(
        self, pod: Pod, container: Container, volumes: Mapping[str, Path], address: str, temporary: Path
    ) -> Program:
        argv = [translate(container, volumes, word) for word in (*container.command, *container.args)]
        environment = container_environment(pod, container, volumes, address, temporary)
        name = pod.metadata.name
        return Program(f"{name}/{container.name}", argv, environment, self._logs / name / f"{container.name}.log")


def may_restart(returncode: int, lasted_seconds: float, num_restarts: int) -> bool:
    """Tell whether a hybrid pod's container is started again. `returncode`: minus the signal's number where one
    ended it.
    """
    return num_restarts < MOST_RESTARTS and (returncode < 0 or lasted_seconds >= SETTLED_SECONDS)


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
