"""Real vLLM servers of two tensor-parallel workers: they answer as one does, and get weights in place as one does."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest
from pydantic import JsonValue

from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.process.commands import Bind
from tandem_checkpoint.process.ranks import CommandRefused
from tests.tandem_sidecars.generations import write_generation
from tests.tandem_sidecars.policies import changed_policy, write_policy
from tests.tandem_sidecars.serving import SERVE_SECONDS, Completion, Engine, largest_gap, serve
from tests.tandem_sidecars.training import weights_in

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

LIMIT = 5e-5
"""Nats between one worker and two, whose sums have another order."""
GIVE_UP_SECONDS = 30.0
"""Long before a switch's own deadline."""
TWO: dict[str, JsonValue] = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}


@pytest.fixture(scope="module")
def padded_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy with one embedding, whose vocabulary vLLM pads from 70 rows to 128."""
    return write_policy(tmp_path_factory.mktemp("padded") / "policy", tied=True, vocabulary=70)


def _tokens(completion: Completion) -> list[tuple[int, ...]]:
    return [choice.token_ids for choice in completion.choices]


def _largest_difference(one: Completion, other: Completion) -> float:
    """Return the largest distance in log-probability of two answers with the same tokens."""
    pairs = zip(one.choices, other.choices, strict=True)
    return max(
        abs(a - b)
        for first, second in pairs
        for a, b in zip(first.logprobs.token_logprobs, second.logprobs.token_logprobs, strict=True)
    )


@pytest.mark.parametrize("kind", ["untied_policy", "padded_policy"])
async def test_two_workers_answer_as_one_does(
    engine: Engine, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    policy: Path = request.getfixturevalue(kind)
    generation = write_generation(policy, weights_in(policy), tmp_path)
    async with engine.serving(policy, generation):
        one = await engine.complete()

    async with engine.serving(policy, generation, **TWO):
        reading = await engine.complete()
    async with engine.resident(policy, generation, **TWO):
        copying = await engine.complete()

    assert _tokens(one) == _tokens(reading) == _tokens(copying)
    assert _largest_difference(one, reading) <= LIMIT
    assert _largest_difference(one, copying) <= LIMIT
    assert largest_gap(reading, policy) <= LIMIT
    assert largest_gap(copying, policy) <= LIMIT


async def test_each_worker_gets_its_part_of_the_next_weights_in_place(
    engine: Engine, untied_policy: Path, tmp_path: Path
) -> None:
    tensors = {name: tensor * 0.9 for name, tensor in weights_in(untied_policy).items()}
    newer = changed_policy(untied_policy, tmp_path / "newer", tensors)
    first = write_generation(untied_policy, weights_in(untied_policy), tmp_path, 0)
    second = write_generation(untied_policy, tensors, tmp_path, 1)

    async with engine.resident(untied_policy, first, **TWO) as strategy:
        await strategy.abort()
        await serve(strategy, second)
        completion = await engine.complete()

    assert largest_gap(completion, newer) <= LIMIT


async def test_weights_that_do_not_fit_are_refused_by_both_workers_and_the_old_ones_serve(
    engine: Engine, untied_policy: Path, padded_policy: Path, tmp_path: Path
) -> None:
    fitting = write_generation(untied_policy, weights_in(untied_policy), tmp_path / "fitting", 0)
    odd = write_generation(padded_policy, weights_in(padded_policy), tmp_path / "odd", 1)

    async with engine.resident(untied_policy, fitting, **TWO) as strategy:
        (server,) = strategy.servers
        await server.send(Bind(manifest=str(odd.manifest), keeps_copy=True))
        with pytest.raises(CommandRefused, match="server and segment differ in their parameters"):
            await server.expect("listening")
        completion = await engine.complete()

    assert largest_gap(completion, untied_policy) <= LIMIT


async def test_with_a_worker_that_is_killed_the_whole_server_ends(
    engine: Engine, untied_policy: Path, tmp_path: Path
) -> None:
    generation = write_generation(untied_policy, weights_in(untied_policy), tmp_path)
    async with engine.resident(untied_policy, generation, **TWO) as strategy:
        (server,) = strategy.servers
        workers = psutil.Process(server.pid).children(recursive=True)

        workers[-1].kill()
        await asyncio.wait_for(asyncio.shield(server.ended), SERVE_SECONDS)
        _, alive = psutil.wait_procs(workers, timeout=10)

    assert alive == []


@asynccontextmanager
async def building(engine: Engine, policy: Path, folder: Path) -> AsyncIterator[tuple[asyncio.Task[None], int]]:
    """Yield a server's way to serve, while its engine is built, and the process id of its second worker."""
    generation = write_generation(policy, weights_in(policy), folder)
    async with engine.prepared(policy, **TWO) as strategy:
        (server,) = engine.servers()
        serving = asyncio.create_task(serve(strategy, generation))
        yield serving, await _second_worker(server.pid)


async def test_with_a_worker_that_is_killed_while_the_engine_is_built_the_server_ends_too(
    engine: Engine, untied_policy: Path, tmp_path: Path
) -> None:
    async with building(engine, untied_policy, tmp_path) as (serving, worker):
        os.kill(worker, signal.SIGKILL)

        with pytest.raises(ChildGone):
            await asyncio.wait_for(serving, GIVE_UP_SECONDS)


async def test_workers_that_die_while_the_engine_is_built_leave_no_shared_memory(
    engine: Engine, untied_policy: Path, tmp_path: Path
) -> None:
    async with building(engine, untied_policy, tmp_path) as (serving, worker):
        shared = await _shared_by_workers(worker)

        os.kill(worker, signal.SIGKILL)

        with pytest.raises(ChildGone):
            await asyncio.wait_for(serving, GIVE_UP_SECONDS)
    await _until(lambda: not any(path.exists() for path in shared))


async def _shared_by_workers(worker: int) -> set[Path]:
    """Return the memory in which workers add, as soon as one of them has mapped it."""
    maps, paths = Path(f"/proc/{worker}/maps"), set[Path]()

    def has_mapped() -> bool:
        paths.update(Path(line.split()[-1]) for line in maps.read_text().splitlines() if "/vllm_dist_" in line)
        return bool(paths)

    await _until(has_mapped)
    return paths


async def _until(condition: Callable[[], bool]) -> None:
    """Wait for what nobody tells."""
    async with asyncio.timeout(SERVE_SECONDS):
        while not condition():  # noqa: ASYNC110 - as the docstring says
            await asyncio.sleep(0.002)


async def _second_worker(server: int) -> int:
    """Return the process id of the second of a server's workers as soon as it has its name."""
    async with asyncio.timeout(SERVE_SECONDS):
        while True:
            for process in psutil.Process(server).children(recursive=True):
                with suppress(psutil.Error):
                    if "Worker_TP1" in "".join(process.cmdline()):
                        return int(process.pid)
            await asyncio.sleep(0.005)
