"""Reward functions of the user's, each call in a process that can be killed: a hang, a crash or a leak stays there."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from pydantic import ValidationError

from tandem_master.errors import RewardError
from tandem_master.rewards.child import Reply
from tandem_master.rewards.verdict import Question, Trouble, Verdict

START_SECONDS = 120.0
"""Time to import the function and what it needs."""
END_SECONDS = 5.0
"""Time that a killed process gets to be gone."""
LONGEST_REPLY_BYTES = 65536
OURS = "TANDEM_"
"""Variables of this prefix are the master's own, and say where its secrets are."""


@dataclass(frozen=True, slots=True)
class Function:
    """Where a reward function is, and what a call may take."""

    entry_point: str
    """`module:name`."""
    seconds: float
    """Deadline of one call."""
    memory_bytes: int
    """Address space of its process."""
    folders: Sequence[str] = ()
    """Where modules are looked for first."""


@dataclass(slots=True)
class Workers:
    """Processes that run one function; `reward_workers` makes and ends them."""

    function: Function
    num_workers: int
    _idle: "list[asyncio.subprocess.Process]" = field(default_factory=list)
    _seats: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._seats = asyncio.Semaphore(self.num_workers)

    async def judge(self, question: Question) -> Verdict:
        """Return what the function says; after a trouble that ends its process the next call gets a new one.

        Errors: RewardError where no process can be started.
        """
        async with self._seats:
            process = self._idle.pop() if self._idle else await self._start()
            verdict = None
            try:
                verdict = await self._ask(process, question)
            finally:
                if verdict is None or process.returncode is not None:
                    await _end(process)
                else:
                    self._idle.append(process)
        return verdict if verdict is not None else self._late()

    async def warm_up(self) -> None:
        """Start one process. Errors: RewardError says why the function cannot be called."""
        self._idle.append(await self._start())

    async def end(self) -> None:
        """End all idle processes; a call that runs ends its own."""
        while self._idle:
            await _end(self._idle.pop())

    async def _ask(self, process: asyncio.subprocess.Process, question: Question) -> Verdict | None:
        """Return the verdict of one process, None where it is late: it is to be killed then."""
        try:
            async with asyncio.timeout(self.function.seconds):
                reply = await _exchange(process, question.model_dump_json())
                if reply is None:
                    code = await process.wait()
                    return Verdict(trouble=Trouble.CRASHED, detail=f"its process ended with {code}")
        except TimeoutError:
            return None
        return Verdict(reply.value, reply.trouble, reply.detail)

    def _late(self) -> Verdict:
        return Verdict(trouble=Trouble.TIMED_OUT, detail=f"no answer within {self.function.seconds:g} s")

    async def _start(self) -> asyncio.subprocess.Process:
        function = self.function
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tandem_master.rewards.child", str(os.getpid())),
            *(function.entry_point, str(function.memory_bytes), *function.folders),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=_without_ours(os.environ),
            start_new_session=True,
            limit=LONGEST_REPLY_BYTES,
        )
        reply = None
        try:
            async with asyncio.timeout(START_SECONDS):
                reply = await _exchange(process, None)
        except TimeoutError:
            raise RewardError(
                f"{function.entry_point}: not imported within {START_SECONDS:g} s; make it lighter"
            ) from None
        finally:
            if reply is None or reply.trouble is not None:
                await _end(process)
        if reply is None:
            raise RewardError(f"{function.entry_point}: its process ended while it was imported; look at the log")
        if reply.trouble is not None:
            raise RewardError(f"{function.entry_point}: cannot be imported ({reply.detail}); correct it")
        return process


@asynccontextmanager
async def reward_workers(function: Function, num_workers: int) -> AsyncIterator[Workers]:
    """Keep up to `num_workers` processes for a function while the context is open. Errors: RewardError."""
    workers = Workers(function, num_workers)
    await workers.warm_up()
    try:
        yield workers
    finally:
        await workers.end()


async def _exchange(process: asyncio.subprocess.Process, line: str | None) -> Reply | None:
    """Send a line, if there is one, and return the reply; None where the process has ended or talks nonsense."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if line is not None:
            process.stdin.write(line.encode() + b"\n")
            await process.stdin.drain()
        answer = await process.stdout.readline()
        return Reply.model_validate_json(answer) if answer else None
    except (ConnectionError, ValidationError, ValueError):
        process.kill()
        return None


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill a process with all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(END_SECONDS):
            await process.wait()


def _without_ours(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if not name.startswith(OURS)}
