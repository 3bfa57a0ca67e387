"""Real vLLM servers of every family: they bind generations from a segment, and answer as transformers does."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from pydantic import JsonValue

from tandem_checkpoint.process.ranks import CommandRefused
from tandem_checkpoint.segments.holdings import SelfTestFailed
from tests.families.policies import FAMILIES, LLAMA3_ROPE, YARN_ROPE, write_policy
from tests.tandem_sidecars.generations import write_generation
from tests.tandem_sidecars.holdings import self_test
from tests.tandem_sidecars.policies import changed_policy
from tests.tandem_sidecars.serving import Engine, largest_gap, running_engine, serve
from tests.tandem_sidecars.training import weights_in

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

LIMIT = 5e-5
"""Nats between transformers and the server, float32 on both sides."""
TWO: dict[str, JsonValue] = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}
STAGES: dict[str, JsonValue] = {"pipeline_parallel_size": 2, "distributed_executor_backend": "mp"}


PROGRAM = "tests.tandem_sidecars.programs.poisoning_zygote"
"""In its servers memory that nobody has written is not a number: an answer that is shows that all was written."""


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny random policy of each family."""
    folder = tmp_path_factory.mktemp("policies")
    return {family: write_policy(folder / family, family) for family in FAMILIES}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(policies: dict[str, Path]) -> AsyncIterator[Engine]:
    async with running_engine(policies["llama"], PROGRAM) as engine:
        yield engine


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_server_answers_as_transformers_does(
    engine: Engine, policies: dict[str, Path], tmp_path: Path, family: str
) -> None:
    assert await _gap_reading(engine, policies[family], tmp_path) <= LIMIT


@pytest.mark.parametrize(
    ("family", "tied", "sizes"),
    [
        ("llama", True, {"rope_parameters": LLAMA3_ROPE, "vocab_size": 70}),
        ("mixtral", False, {"vocab_size": 70}),
        ("qwen3_moe", True, {"norm_topk_prob": False, "mlp_only_layers": [0]}),
        ("deepseek_v3", False, {"q_lora_rank": None, "rope_parameters": YARN_ROPE}),
    ],
)
async def test_so_does_one_of_another_member_of_the_family(
    engine: Engine, tmp_path: Path, family: str, tied: bool, sizes: dict[str, Any]
) -> None:
    policy = write_policy(tmp_path / "policy", family, tied=tied, **sizes)

    assert await _gap_reading(engine, policy, tmp_path) <= LIMIT


@pytest.mark.parametrize("family", FAMILIES)
async def test_so_does_one_with_the_next_weights_in_place(
    engine: Engine, policies: dict[str, Path], tmp_path: Path, family: str
) -> None:
    assert max(await _gaps_copying(engine, policies[family], tmp_path)) <= LIMIT


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3"])
async def test_two_workers_answer_likewise(
    engine: Engine, policies: dict[str, Path], tmp_path: Path, family: str
) -> None:
    assert await _gap_reading(engine, policies[family], tmp_path, **TWO) <= LIMIT


@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe", "deepseek_v3"])
async def test_two_workers_get_the_next_weights_in_place_too(
    engine: Engine, policies: dict[str, Path], tmp_path: Path, family: str
) -> None:
    assert max(await _gaps_copying(engine, policies[family], tmp_path, **TWO)) <= LIMIT


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3"])
async def test_two_workers_may_hold_whole_experts(
    engine: Engine, policies: dict[str, Path], tmp_path: Path, family: str
) -> None:
    assert await _gap_reading(engine, policies[family], tmp_path, **TWO, enable_expert_parallel=True) <= LIMIT


async def test_two_stages_answer_likewise(engine: Engine, tmp_path: Path) -> None:
    policy = write_policy(tmp_path / "policy", "qwen2", tied=True, num_hidden_layers=3)

    assert await _gap_reading(engine, policy, tmp_path, **STAGES) <= LIMIT


async def test_so_do_two_that_have_both_ends_with_the_next_weights_in_place(
    engine: Engine, policies: dict[str, Path], tmp_path: Path
) -> None:
    assert max(await _gaps_copying(engine, policies["qwen3_moe"], tmp_path, **STAGES)) <= LIMIT


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("unfilled-buffer", "cos_sin_cache is no table of rotations; the constructor has not filled it; this build"),
        (
            "copy-of-weights",
            r"lm_head\.packed is made of weights, and nothing here would make it of the next ones",
        ),
    ],
)
async def test_a_model_that_would_go_wrong_with_the_next_weights_is_refused(
    engine: Engine, policies: dict[str, Path], tmp_path: Path, fault: str, reason: str
) -> None:
    policy = changed_policy(policies["qwen3"], tmp_path / fault, {})
    generation = write_generation(policy, weights_in(policy), tmp_path)

    with pytest.raises(CommandRefused, match=reason):
        async with engine.serving(policy, generation):
            pass


async def test_a_byte_that_changes_once_it_is_bound_fails_the_self_test(
    engine: Engine, policies: dict[str, Path], tmp_path: Path
) -> None:
    policy, tensor = policies["qwen3_moe"], "model.layers.1.mlp.experts.5.down_proj.weight"
    generation = write_generation(policy, weights_in(policy), tmp_path)
    async with engine.serving(policy, generation) as strategy:
        generation.flip_byte(tensor)

        with pytest.raises(SelfTestFailed, match=f"^self-test: the server differs from the trainer in {tensor}; no"):
            await self_test(strategy, policy)


async def test_two_tensors_of_one_shape_that_are_swapped_fail_it(
    engine: Engine, policies: dict[str, Path], tmp_path: Path
) -> None:
    policy, tensors = policies["llama"], weights_in(policies["llama"])
    one, other = (f"model.layers.0.self_attn.{name}_proj.weight" for name in "kv")
    generation = write_generation(policy, tensors | {one: tensors[other], other: tensors[one]}, tmp_path)
    async with engine.resident(policy, generation) as strategy:
        with pytest.raises(SelfTestFailed, match=f"^self-test: the server differs from the trainer in {one}, {other};"):
            await self_test(strategy, policy)


async def test_weights_that_were_derived_from_others_fail_it(
    engine: Engine, policies: dict[str, Path], tmp_path: Path
) -> None:
    policy = changed_policy(policies["deepseek_v3"], tmp_path / "stale", {})
    generation = write_generation(policy, weights_in(policy), tmp_path)
    async with engine.serving(policy, generation) as strategy:
        with pytest.raises(SelfTestFailed, match=r"W_UK_T is not made of the weights that are there; .*W_UV is not"):
            await self_test(strategy, policy)


async def _gap_reading(engine: Engine, policy: Path, folder: Path, **engine_args: JsonValue) -> float:
    """Return how far a server is from transformers that reads a segment itself."""
    generation = write_generation(policy, weights_in(policy), folder)
    async with engine.serving(policy, generation, **engine_args) as strategy:
        assert await self_test(strategy, policy) == len(weights_in(policy))
        return await _gap(engine, policy)


async def _gaps_copying(engine: Engine, policy: Path, folder: Path, **engine_args: JsonValue) -> tuple[float, float]:
    """Return how far a server is from transformers that copies its weights: with the first, and with the next."""
    tensors = weights_in(policy)
    newer = changed_policy(policy, folder / "newer", _next(tensors))
    first = write_generation(policy, tensors, folder, 0)
    second = write_generation(policy, _next(tensors), folder, 1)
    async with engine.resident(policy, first, **engine_args) as strategy:
        before = await _gap(engine, policy)
        await strategy.abort()
        await serve(strategy, second)
        assert await self_test(strategy, newer) == len(tensors)
        return before, await _gap(engine, newer)


async def _gap(engine: Engine, policy: Path) -> float:
    """Return how far the running server is from transformers with a policy's weights."""
    return largest_gap(await engine.complete(num_samples=2, max_tokens=20, ignore_eos=True), policy)


def _next(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights that are new in every tensor."""
    generator = torch.Generator().manual_seed(23)
    return {
        name: tensor * (1.0 + 0.3 * torch.rand(tensor.shape, generator=generator)) for name, tensor in tensors.items()
    }
