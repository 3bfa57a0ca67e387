"""A slice of the matrix for every day, and all of it, with servers, behind the mark `campaign`.

Bytes of segments are compared, so a server that reads one split's export reads those of all: the product of trainers
and servers is measured as a sum (see measure.py). `python -m tests.parity` writes the table of docs/weights.md.
"""

from collections.abc import AsyncIterator, Iterable, Iterator

import pytest
import pytest_asyncio

from tandem_api.job.pods import TrainerParallelism
from tests.families.policies import FAMILIES
from tests.parity.cases import ALL, Case
from tests.parity.measure import SERVER_LIMIT, Bench
from tests.tandem_sidecars.forge import Forge
from tests.tandem_sidecars.serving import Engine, running_engine

pytestmark = pytest.mark.megatron

SLICE = [
    Case("llama", 4, TrainerParallelism(tensor=2, pipeline=2, first_stage_layers=1)),
    Case("qwen2", 4, TrainerParallelism(tensor=4)),
    Case("qwen3", 4, TrainerParallelism(pipeline=2, last_stage_layers=1)),
    Case("mixtral", 4, TrainerParallelism(tensor=4, expert=2, expert_tensor=2)),
    Case("qwen3_moe", 4, TrainerParallelism(tensor=2, pipeline=2, expert_tensor=2)),
    Case("deepseek_v3", 4, TrainerParallelism(tensor=4, expert=2)),
    Case("deepseek_v3", 4, TrainerParallelism(tensor=2, pipeline=2, expert=2, first_stage_layers=1)),
]
"""Splits that test_megatron_layouts.py leaves out."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with Forge() as forge:
        yield Bench(forge, tmp_path_factory.mktemp("parity"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(bench: Bench) -> AsyncIterator[Engine]:
    async with running_engine(bench.origin("llama").policy) as engine:
        yield engine


def kinds_of(cases: Iterable[Case]) -> set[tuple[str, int]]:
    """Return what cases are split by, and into how many."""
    splits = [case.parallelism.model_dump(exclude_defaults=True) | {"data": case.num_data} for case in cases]
    return {kind for split in splits for kind in split.items()}


def test_the_slice_of_every_day_has_every_family_and_every_kind_of_split() -> None:
    assert {case.family for case in SLICE} == set(FAMILIES)
    assert kinds_of(SLICE) == kinds_of(ALL)


@pytest.mark.parametrize("case", SLICE, ids=lambda case: f"{case.family}, {case.name}")
def test_a_split_changes_neither_log_probabilities_nor_bytes(bench: Bench, case: Case) -> None:
    measured = bench.measure(case)

    assert measured.is_exact, measured


@pytest.mark.campaign
@pytest.mark.vllm
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("family", FAMILIES)
async def test_a_server_of_each_split_answers_as_transformers_does(bench: Bench, engine: Engine, family: str) -> None:
    served = await bench.serve(engine, family)

    assert max(one.gap for one in served) <= SERVER_LIMIT, served


@pytest.mark.campaign
@pytest.mark.vllm
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("case", ALL, ids=lambda case: f"{case.family}, {case.name}")
async def test_trainers_of_all_splits_agree_with_servers_of_all_splits(
    bench: Bench, engine: Engine, case: Case
) -> None:
    await bench.serve(engine, case.family)

    measured = bench.measure(case)

    assert len(measured.to_servers) == 2
    assert measured.is_exact, measured
