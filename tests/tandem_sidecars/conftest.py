"""Tiny policies with nothing left at its default, and the real trainer and server programs."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import torch

from tandem_api.engine import Sample
from tests.tandem_checkpoint.jobs import job_config
from tests.tandem_sidecars.forge import Forge, RankProcess
from tests.tandem_sidecars.policies import samples_of, write_policy
from tests.tandem_sidecars.serving import Engine, running_engine
from tests.tandem_sidecars.training import SMOOTH


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """As trainer and server on a CPU; tiny tensors only wait for more."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def untied_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen2 with two embeddings."""
    return write_policy(tmp_path_factory.mktemp("untied") / "policy", tied=False)


@pytest.fixture(scope="session")
def tied_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen2 whose input and output embeddings are one tensor."""
    return write_policy(tmp_path_factory.mktemp("tied") / "policy", tied=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(untied_policy: Path) -> AsyncIterator[Engine]:
    """A zygote that has imported vLLM, and servers forked from it; ended with the module's tests."""
    async with running_engine(untied_policy) as engine:
        yield engine


@pytest.fixture
def forge() -> Iterator[Forge]:
    """Forks trainer programs that have Megatron imported already, and ends them with the test."""
    with Forge() as forge:
        yield forge


@pytest.fixture(scope="session")
def samples(untied_policy: Path) -> tuple[Sample, ...]:
    """Responses as if the untied policy had sampled them."""
    return samples_of(untied_policy)


@pytest.fixture
def rank(forge: Forge, untied_policy: Path, tmp_path: Path) -> RankProcess:
    """A trainer that holds the untied policy."""
    return forge.start(job_config(untied_policy, optimizer=SMOOTH), tmp_path)
