"""Real vLLM servers, forked from one zygote: what they answer is what the segment holds, and they leave nothing."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import httpx
import psutil
import pytest
import torch

from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.process.group import group_exists
from tandem_checkpoint.process.ranks import CommandRefused
from tandem_checkpoint.switch.strategies.restart import Restart
from tests.tandem_sidecars.generations import write_generation
from tests.tandem_sidecars.policies import changed_policy, write_policy
from tests.tandem_sidecars.serving import (
    LIMIT,
    PORT,
    SERVE_SECONDS,
    Engine,
    Lent,
    gap,
    largest_gap,
    serve,
)
from tests.tandem_sidecars.training import weights_in

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

CHANGED = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def padded_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy whose vocabulary vLLM pads from 70 rows to 128."""
    return write_policy(tmp_path_factory.mktemp("padded") / "policy", tied=False, vocabulary=70)


def shared_memory_of(pid: int) -> Sequence[Path]:
    """Return the files in /dev/shm that a server and its engine have mapped."""
    server = psutil.Process(pid)
    maps = [item.path for process in (server, *server.children(recursive=True)) for item in process.memory_maps()]
    return [Path(path) for path in maps if path.startswith("/dev/shm/")]


def existing(paths: Sequence[Path]) -> Sequence[Path]:
    return [path for path in paths if path.exists()]


@pytest.mark.parametrize("kind", ["untied_policy", "tied_policy", "padded_policy"])
async def test_a_server_samples_with_the_weights_of_its_segment(
    engine: Engine, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    policy: Path = request.getfixturevalue(kind)
    generation = write_generation(policy, weights_in(policy), tmp_path)

    async with engine.serving(policy, generation):
        completion = await engine.complete()

    assert len(completion.choices) == 4
    assert largest_gap(completion, policy) <= LIMIT


async def test_a_segment_with_one_weight_changed_answers_otherwise(
    engine: Engine, untied_policy: Path, tmp_path: Path
) -> None:
    tensor = weights_in(untied_policy)[CHANGED].clone()
    tensor[7, 11] += 3.0
    changed = changed_policy(untied_policy, tmp_path / "changed", {CHANGED: tensor})
    generation = write_generation(untied_policy, weights_in(changed), tmp_path)

    async with engine.serving(untied_policy, generation):
        completion = await engine.complete()

    assert largest_gap(completion, changed) <= LIMIT
    assert largest_gap(completion, untied_policy) > 100 * LIMIT


async def test_a_segment_that_is_gone_is_named(engine: Engine, untied_policy: Path, tmp_path: Path) -> None:
    generation = write_generation(untied_policy, weights_in(untied_policy), tmp_path)
    generation.segment.unlink()

    async with engine.prepared(untied_policy) as strategy:
        with pytest.raises(CommandRefused, match=r"weights-0\.segment is missing; was the shared volume emptied\?"):
            await serve(strategy, generation)


async def test_a_segment_of_another_policy_is_refused_by_its_parameters(
    engine: Engine, untied_policy: Path, tied_policy: Path, tmp_path: Path
) -> None:
    generation = write_generation(tied_policy, weights_in(tied_policy), tmp_path)

    async with engine.prepared(untied_policy) as strategy:
        with pytest.raises(CommandRefused, match=r"server and segment differ in their parameters: lm_head\.weight"):
            await serve(strategy, generation)


async def test_a_segment_of_another_size_is_refused_by_both_shapes(
    engine: Engine, untied_policy: Path, padded_policy: Path, tmp_path: Path
) -> None:
    generation = write_generation(padded_policy, weights_in(padded_policy), tmp_path)

    async with engine.prepared(untied_policy) as strategy:
        with pytest.raises(CommandRefused, match=r"embed_tokens\.weight is \(64, 128\) .* policy, \(128, 128\)"):
            await serve(strategy, generation)


async def test_an_unknown_engine_argument_is_told_to_the_engine(engine: Engine, untied_policy: Path) -> None:
    strategy = Restart(Lent(engine.zygote), [("--no-such-argument", "--port", str(PORT))])

    async with engine.closing(strategy):
        with pytest.raises(ChildGone, match="vLLM could not serve"):
            await strategy.prepare()


async def test_a_stopped_server_leaves_no_process_and_no_shared_memory(
    engine: Engine, untied_policy: Path, tmp_path: Path
) -> None:
    generation = write_generation(untied_policy, weights_in(untied_policy), tmp_path)
    async with engine.serving(untied_policy, generation):
        (server,) = engine.servers()
        await engine.complete()
        mapped = shared_memory_of(server.pid)

    assert not group_exists(server.pid)
    assert engine.servers() == []
    assert existing(mapped) == []


async def test_the_next_generation_is_served_at_once_on_the_same_port(
    engine: Engine, untied_policy: Path, tmp_path: Path
) -> None:
    tensor = weights_in(untied_policy)["model.norm.weight"] * torch.linspace(0.5, 2.0, 128)
    newer = changed_policy(untied_policy, tmp_path / "newer", {"model.norm.weight": tensor})
    first = write_generation(untied_policy, weights_in(untied_policy), tmp_path, number=0)
    second = write_generation(untied_policy, weights_in(newer), tmp_path, number=1)

    async with engine.serving(untied_policy, first) as strategy:
        before = await engine.complete()
        await strategy.prepare()
        await serve(strategy, second)
        after = await engine.complete()

    assert largest_gap(before, untied_policy) <= LIMIT
    assert largest_gap(after, newer) <= LIMIT


async def test_without_the_jobs_token_nothing_is_answered(engine: Engine, untied_policy: Path, tmp_path: Path) -> None:
    generation = write_generation(untied_policy, weights_in(untied_policy), tmp_path)

    async with engine.serving(untied_policy, generation), httpx.AsyncClient() as client:
        response = await client.get(f"http://{engine.address}:{PORT}/v1/models")

    assert response.status_code == 401


async def test_an_abort_hands_back_what_was_sampled_so_far_with_its_logprobs(
    engine: Engine, untied_policy: Path, tmp_path: Path
) -> None:
    generation = write_generation(untied_policy, weights_in(untied_policy), tmp_path)

    async with engine.serving(untied_policy, generation) as strategy:
        sampling = asyncio.create_task(engine.complete(num_samples=256, max_tokens=57, ignore_eos=True))
        await engine.until_sampling()
        await strategy.abort()
        completion = await asyncio.wait_for(sampling, SERVE_SECONDS)

    assert "abort" in {choice.finish_reason for choice in completion.choices}
    partial = next(choice for choice in completion.choices if choice.token_ids)
    assert len(partial.token_ids) == len(partial.logprobs.token_logprobs)
    assert gap(partial, untied_policy) <= LIMIT


async def test_prompts_that_come_before_the_server_is_ready_wait_and_are_answered(
    engine: Engine, untied_policy: Path, tmp_path: Path
) -> None:
    generation = write_generation(untied_policy, weights_in(untied_policy), tmp_path)

    async with engine.prepared(untied_policy) as strategy:
        sampling = asyncio.create_task(engine.complete())
        await asyncio.sleep(0.1)
        await serve(strategy, generation)
        completion = await asyncio.wait_for(sampling, SERVE_SECONDS)

    assert largest_gap(completion, untied_policy) <= LIMIT


async def test_a_server_that_is_killed_takes_its_engine_along(
    engine: Engine, untied_policy: Path, tmp_path: Path
) -> None:
    generation = write_generation(untied_policy, weights_in(untied_policy), tmp_path)

    async with engine.serving(untied_policy, generation):
        (server,) = engine.servers()
        workers = server.children(recursive=True)
        server.kill()
        _, alive = psutil.wait_procs(workers, timeout=5)

    assert len(workers) >= 1
    assert alive == []
