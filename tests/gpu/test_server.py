"""vLLM on a GPU, forked from the zygote: what it answers is what the segment holds, with each strategy."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tandem_checkpoint.devices import CudaDevices
from tandem_checkpoint.process.environment import child_variables
from tandem_checkpoint.process.zygote import Zygote
from tandem_checkpoint.stopwatch import Stopwatch
from tandem_checkpoint.switch.rollout import server_command
from tandem_checkpoint.switch.strategies.choice import ZYGOTE_PROGRAM
from tandem_checkpoint.switch.strategies.resident import Resident
from tandem_checkpoint.switch.strategies.restart import Restart
from tandem_checkpoint.switch.strategies.sleep import Sleep
from tests.gpu.machine import DEVICE, FLOAT32_LIMIT, config_on_device
from tests.tandem_checkpoint.etcd_process import free_address
from tests.tandem_checkpoint.jobs import TOKEN, settings_of
from tests.tandem_sidecars.generations import write_generation
from tests.tandem_sidecars.policies import changed_policy
from tests.tandem_sidecars.serving import PORT, Engine, Lent, checked, largest_gap
from tests.tandem_sidecars.training import weights_in

pytestmark = pytest.mark.asyncio(loop_scope="module")

START_SECONDS = 300.0
"""The first start compiles; the next ones find it done."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(policy: Path) -> AsyncIterator[Engine]:
    address = free_address()
    settings = settings_of(config_on_device(policy), policy.parent, address)
    paths = {"VLLM_API_KEY": TOKEN, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    zygote = await Zygote.start(
        [sys.executable, "-m", ZYGOTE_PROGRAM, "--device", DEVICE],
        child_variables(settings) | paths,
        inherit=(),
        deadline_seconds=START_SECONDS,
    )
    yield Engine(zygote, address)
    await zygote.kill()


@pytest.fixture(scope="module")
def other_policy(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of the same shape, in every tensor different."""
    tensors = {name: tensor * 0.9 for name, tensor in weights_in(policy).items()}
    return changed_policy(policy, tmp_path_factory.mktemp("other") / "policy", tensors)


async def test_the_zygote_holds_no_device(engine: Engine) -> None:
    holders = {pid for use in CudaDevices().uses() for pid, _ in use.by_process}

    assert engine.zygote.pid not in holders


@pytest.mark.parametrize("strategy", [Restart, Resident, Sleep])
async def test_two_generations_in_turn_answer_with_their_own_weights(
    engine: Engine,
    policy: Path,
    other_policy: Path,
    tmp_path: Path,
    strategy: type[Restart] | type[Resident] | type[Sleep],
) -> None:
    settings = settings_of(config_on_device(policy), policy.parent, engine.address)
    servers = strategy(Lent(engine.zygote), [server_command(settings, PORT)])
    first = write_generation(policy, weights_in(policy), tmp_path / "first", 0)
    second = write_generation(policy, weights_in(other_policy), tmp_path / "second", 1)

    try:
        async with asyncio.timeout(START_SECONDS):
            await servers.prepare()
            await servers.serve(checked(first), Stopwatch())
            of_first = await engine.complete()
            await servers.abort()
            await servers.release()
            await servers.prepare()
            await servers.serve(checked(second), Stopwatch())
            of_second = await engine.complete()
    finally:
        await servers.close()

    assert largest_gap(of_first, policy) <= FLOAT32_LIMIT
    assert largest_gap(of_second, other_policy) <= FLOAT32_LIMIT
