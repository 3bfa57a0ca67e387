"""Real vLLM servers of policies in FP8 with block scales: they answer as transformers does with the same numbers."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import JsonValue

from tandem_checkpoint.architectures.block_scales import SCALES
from tandem_checkpoint.architectures.config import read_policy_config
from tandem_checkpoint.layouts.place import TrainerSplit
from tandem_checkpoint.process.commands import FolderSource
from tandem_checkpoint.segments.holdings import SelfTestFailed
from tandem_checkpoint.segments.manifest import manifest_of
from tests.families.policies import FP8_SIZES, write_block_scales, write_policy
from tests.tandem_sidecars.bare_ranks import Ranks
from tests.tandem_sidecars.generations import Generation, write_generation
from tests.tandem_sidecars.holdings import self_test
from tests.tandem_sidecars.serving import Engine, largest_gap, running_engine, serve
from tests.tandem_sidecars.training import weights_in

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

LIMIT = 5e-5
"""Nats between transformers and the server, float32 on both sides, the same numbers in the weights."""
TWO: dict[str, JsonValue] = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}
WHOLE_EXPERTS: dict[str, JsonValue] = {"enable_expert_parallel": True}
PROGRAM = "tests.tandem_sidecars.programs.poisoning_zygote"
"""In its servers memory that nobody has written is not a number: an answer that is shows that all was written."""
SPLITS = {
    "qwen3": TrainerSplit(tensor=2, pipeline=2),
    "qwen3_moe": TrainerSplit(tensor=2, expert=2, expert_tensor=2),
    "deepseek_v3": TrainerSplit(pipeline=3, expert=2),
}


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy in FP8, and one in float32 that has the same numbers."""

    quantised: Path
    plain: Path

    def generation(self, folder: Path, number: int = 0) -> Generation:
        return write_generation(self.quantised, weights_in(self.quantised), folder, number)


def policy_of(family: str, folder: Path, seed: int = 0) -> Policy:
    plain = write_policy(folder / family, family, seed=seed, **FP8_SIZES[family])
    return Policy(write_block_scales(plain, folder / f"{family}-fp8"), plain)


def exported(policy: Policy, folder: Path, split: TrainerSplit) -> Generation:
    """Return what the ranks of a trainer make of a policy in FP8: they read it as plain numbers and quantise them."""
    ranks = Ranks(read_policy_config(policy.quantised), split).load(FolderSource(path=str(policy.quantised)))
    source = ranks.export(folder)
    manifest = folder / "manifest-0.json"
    manifest.write_text(manifest_of(ranks.layout, source.shards, source.path).model_dump_json())
    return Generation(ranks.layout, Path(source.path), manifest)


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Policy]:
    folder = tmp_path_factory.mktemp("policies")
    return {family: policy_of(family, folder) for family in FP8_SIZES}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(policies: dict[str, Policy]) -> AsyncIterator[Engine]:
    async with running_engine(policies["qwen3"].quantised, PROGRAM) as engine:
        yield engine


@pytest.mark.parametrize("family", FP8_SIZES)
async def test_a_server_that_reads_what_a_trainer_exports_answers_as_transformers_does(
    engine: Engine, policies: dict[str, Policy], tmp_path: Path, family: str
) -> None:
    policy = policies[family]
    async with engine.serving(policy.quantised, exported(policy, tmp_path, SPLITS[family])) as strategy:
        assert await self_test(strategy, policy.quantised) == len(weights_in(policy.quantised))
        assert largest_gap(await engine.complete(), policy.plain) <= LIMIT


@pytest.mark.parametrize(("family", "engine_args"), [("deepseek_v3", TWO), ("qwen3_moe", TWO | WHOLE_EXPERTS)])
async def test_so_do_two_workers_with_the_next_weights_in_place(
    engine: Engine, policies: dict[str, Policy], tmp_path: Path, family: str, engine_args: dict[str, JsonValue]
) -> None:
    policy, newer = policies[family], policy_of(family, tmp_path, seed=5)
    async with engine.resident(policy.quantised, policy.generation(tmp_path), **engine_args) as strategy:
        before = largest_gap(await engine.complete(), policy.plain)
        await strategy.abort()
        await serve(strategy, newer.generation(tmp_path, 1))

        assert await self_test(strategy, newer.quantised) == len(weights_in(newer.quantised))
        assert largest_gap(await engine.complete(), newer.plain) <= LIMIT
        assert before <= LIMIT


async def test_scales_of_other_weights_fail_the_self_test(
    engine: Engine, policies: dict[str, Policy], tmp_path: Path
) -> None:
    policy, name = policies["qwen3"], "model.layers.1.mlp.up_proj.weight" + SCALES
    tensors = weights_in(policy.quantised)
    generation = write_generation(policy.quantised, tensors | {name: tensors[name] * 2}, tmp_path)
    async with engine.serving(policy.quantised, generation) as strategy:
        with pytest.raises(SelfTestFailed, match=re.escape(name)):
            await self_test(strategy, policy.quantised)
