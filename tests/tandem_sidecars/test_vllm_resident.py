"""A real vLLM server that stays: the next weights in place, all of them or none."""

import asyncio
from pathlib import Path

import httpx
import pytest

from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.process.commands import Bind
from tandem_checkpoint.process.ranks import CommandRefused
from tandem_checkpoint.segments.store import map_for_writing
from tests.tandem_sidecars.generations import Generation, write_generation
from tests.tandem_sidecars.policies import changed_policy, write_policy
from tests.tandem_sidecars.serving import LIMIT, SERVE_SECONDS, Completion, Engine, largest_gap, running_engine, serve
from tests.tandem_sidecars.training import weights_in

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

SAME = 1e-6
"""Nats between two servers with the same weights that compute the same batches, one sample after another."""


@pytest.fixture(scope="module")
def policies(untied_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Three policies of one shape, in every tensor different."""
    folder = tmp_path_factory.mktemp("policies")
    return untied_policy, _scaled(untied_policy, folder / "second", 0.9), _scaled(untied_policy, folder / "third", 1.1)


def _scaled(policy: Path, folder: Path, factor: float) -> Path:
    return changed_policy(policy, folder, {name: tensor * factor for name, tensor in weights_in(policy).items()})


async def _fresh(engine: Engine, policy: Path, generation: Generation) -> Completion:
    async with engine.serving(policy, generation):
        return await engine.complete_in_turn()


def _largest_difference(one: Completion, other: Completion) -> float:
    """Return the largest distance in log-probability of two servers that have sampled the same tokens."""
    assert [choice.token_ids for choice in one.choices] == [choice.token_ids for choice in other.choices]
    pairs = zip(one.choices, other.choices, strict=True)
    return max(
        abs(a - b)
        for first, second in pairs
        for a, b in zip(first.logprobs.token_logprobs, second.logprobs.token_logprobs, strict=True)
    )


async def test_three_generations_in_place_answer_as_freshly_started_servers_do(
    engine: Engine, policies: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    initial, second, third = policies
    generation = [write_generation(initial, weights_in(it), tmp_path / it.name, i) for i, it in enumerate(policies)]
    async with engine.resident(initial, generation[0]) as strategy:
        (server,) = strategy.servers
        answers = [await engine.complete_in_turn()]
        await strategy.abort()
        await serve(strategy, generation[1])
        answers.append(await engine.complete_in_turn())
        await strategy.abort()
        await serve(strategy, generation[2])
        answers.append(await engine.complete_in_turn())

        assert [it.pid for it in strategy.servers] == [server.pid]

    assert largest_gap(answers[0], initial) <= LIMIT
    assert largest_gap(answers[1], second) <= LIMIT
    assert largest_gap(answers[2], third) <= LIMIT
    assert _largest_difference(answers[0], await _fresh(engine, initial, generation[0])) <= SAME
    assert _largest_difference(answers[1], await _fresh(engine, initial, generation[1])) <= SAME
    assert _largest_difference(answers[2], await _fresh(engine, initial, generation[2])) <= SAME


async def test_its_weights_are_its_own_the_segment_may_be_written(
    engine: Engine, untied_policy: Path, tmp_path: Path
) -> None:
    generation = write_generation(untied_policy, weights_in(untied_policy), tmp_path)

    async with engine.resident(untied_policy, generation):
        with map_for_writing(generation.segment) as mapped:
            mapped[:] = bytes(len(mapped))
        completion = await engine.complete()

    assert largest_gap(completion, untied_policy) <= LIMIT


async def test_weights_of_another_shape_are_refused_and_the_old_ones_go_on_serving(
    engine: Engine, untied_policy: Path, tmp_path: Path
) -> None:
    wider = write_policy(tmp_path / "wider", tied=False, vocabulary=70)
    fitting = write_generation(untied_policy, weights_in(untied_policy), tmp_path / "fitting", 0)
    odd = write_generation(wider, weights_in(wider), tmp_path / "odd", 1)

    async with engine.resident(untied_policy, fitting) as strategy:
        (server,) = strategy.servers
        await server.send(Bind(manifest=str(odd.manifest), keeps_copy=True))
        with pytest.raises(CommandRefused, match=r"embed_tokens\.weight is \(64, 128\) .* policy, \(128, 128\)"):
            await server.expect("listening")
        completion = await engine.complete()

    assert largest_gap(completion, untied_policy) <= LIMIT


async def test_a_refusal_between_phases_leaves_a_server_that_takes_the_next_weights(
    engine: Engine, policies: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    initial, second, _ = policies
    fitting = write_generation(initial, weights_in(initial), tmp_path / "fitting", 0)
    gone = write_generation(initial, weights_in(second), tmp_path / "gone", 1)
    gone.segment.unlink()
    later = write_generation(initial, weights_in(second), tmp_path / "later", 1)

    async with engine.resident(initial, fitting) as strategy:
        (server,) = strategy.servers
        await strategy.abort()
        with pytest.raises(CommandRefused, match=r"weights-1\.segment is missing"):
            await serve(strategy, gone)
        await strategy.release()
        await serve(strategy, later)
        completion = await engine.complete()

        assert [it.pid for it in strategy.servers] == [server.pid]

    assert largest_gap(completion, second) <= LIMIT


async def test_a_server_that_reads_a_segment_itself_is_not_overwritten(
    engine: Engine, untied_policy: Path, tmp_path: Path
) -> None:
    generation = write_generation(untied_policy, weights_in(untied_policy), tmp_path)
    async with engine.resident(untied_policy, generation) as strategy:
        (server,) = strategy.servers
        await server.send(Bind(manifest=str(generation.manifest), keeps_copy=False))
        await server.expect("listening")

        await server.send(Bind(manifest=str(generation.manifest), keeps_copy=True))
        with pytest.raises(CommandRefused, match="the server reads a segment itself"):
            await server.expect("listening")


async def test_what_is_asked_while_it_is_paused_is_answered_by_the_next_weights_alone(
    engine: Engine, policies: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    initial, second, _ = policies
    first = write_generation(initial, weights_in(initial), tmp_path, 0)
    next_one = write_generation(initial, weights_in(second), tmp_path, 1)

    async with engine.resident(initial, first, enable_scale_out=True) as strategy:
        before = await engine.stamped()
        await strategy.abort()
        stamped = asyncio.create_task(engine.stamped())
        sampling = asyncio.create_task(engine.complete())
        await asyncio.sleep(0.3)
        waited = not (stamped.done() or sampling.done())
        await serve(strategy, next_one)
        after = await asyncio.wait_for(stamped, SERVE_SECONDS)
        completion = await asyncio.wait_for(sampling, SERVE_SECONDS)

    assert waited
    assert [span.version for choice in before.choices for span in choice.weight_versions] == ["0"]
    assert [span.version for choice in after.choices for span in choice.weight_versions] == ["1"]
    assert largest_gap(completion, second) <= LIMIT


async def test_an_abort_between_generations_hands_back_what_there_is(
    engine: Engine, untied_policy: Path, tmp_path: Path
) -> None:
    generation = write_generation(untied_policy, weights_in(untied_policy), tmp_path)

    async with engine.resident(untied_policy, generation) as strategy:
        sampling = asyncio.create_task(engine.complete(num_samples=256, max_tokens=57, ignore_eos=True))
        await engine.until_sampling()
        held_bytes = await strategy.release()
        completion = await asyncio.wait_for(sampling, SERVE_SECONDS)

    assert "abort" in {choice.finish_reason for choice in completion.choices}
    assert held_bytes > generation.layout.num_bytes


async def test_a_failure_in_the_middle_ends_the_server_half_new_weights_answer_nothing(
    policies: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    initial, second, _ = policies
    first = write_generation(initial, weights_in(initial), tmp_path, 0)
    next_one = write_generation(initial, weights_in(second), tmp_path, 1)

    async with (
        running_engine(initial, "tests.tandem_sidecars.programs.failing_zygote") as engine,
        engine.resident(initial, first) as strategy,
    ):
        (server,) = strategy.servers
        await strategy.abort()
        asked = asyncio.create_task(engine.complete())
        with pytest.raises(ChildGone, match="planted: the segment cannot be read any further"):
            await serve(strategy, next_one)
        await asyncio.wait_for(asyncio.shield(server.ended), SERVE_SECONDS)

        with pytest.raises(httpx.HTTPError):
            await asked
        with pytest.raises(httpx.TransportError):  # refused, or taken in by the dying and cut
            await engine.complete()


async def test_a_server_that_has_died_is_replaced_with_the_weights_bound_last(
    engine: Engine, policies: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    initial, second, _ = policies
    first = write_generation(initial, weights_in(initial), tmp_path, 0)
    next_one = write_generation(initial, weights_in(second), tmp_path, 1)

    async with engine.resident(initial, first) as strategy:
        await strategy.abort()
        await serve(strategy, next_one)
        (server,) = strategy.servers
        await server.kill()
        await strategy.revive()
        completion = await engine.complete()

    assert largest_gap(completion, second) <= LIMIT
