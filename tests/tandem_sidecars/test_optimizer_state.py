"""The optimizer's state on disk: what ranks of one layout saved, ranks of another go on with, bit by bit."""

import asyncio
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from tandem_api.engine import JobConfig
from tandem_api.job.pods import TrainerParallelism
from tandem_checkpoint.architectures.config import read_policy_config
from tandem_checkpoint.disk.optimizer_folder import all_written, make_optimizer_folder
from tandem_checkpoint.layouts.pod import PodRanks, split_of
from tandem_checkpoint.layouts.strip import LocalParameter
from tandem_checkpoint.layouts.trainer import trainer_layout
from tandem_checkpoint.process.commands import RankPlace
from tests.families.policies import write_policy
from tests.tandem_checkpoint.jobs import job_config
from tests.tandem_sidecars.forge import ALONE, IMPORTS, two_places

if TYPE_CHECKING:
    from tandem_sidecars.megatron.optimizer_state import Saving

pytestmark = pytest.mark.megatron

WAIT_SECONDS = 100.0
MOMENTS = ("exp_avg", "exp_avg_sq")
NUM_STEPS = 7.0


class TrainedRank:
    """One rank's model and optimizer, whose moments are a function of the element's place in the whole tensor."""

    def __init__(self, config: JobConfig, place: RankPlace, dtype: torch.dtype) -> None:
        from tandem_sidecars.megatron.model import build_model, build_optimizer
        from tandem_sidecars.megatron.parallel import seed
        from tandem_sidecars.megatron.rank import meet

        policy = read_policy_config(Path(config.spec.policy.model.path))
        split = split_of(config.spec.trainer.parallelism)
        ranks = PodRanks(split, place.world_size).places()
        device = meet(config, place)
        seed(device)
        self.layout = {item.name: item for item in trainer_layout(policy, ranks[place.local_rank])}
        self.chunks = build_model(policy, dtype, device, split)
        for parameter in self.chunks[0].parameters():
            parameter.data.fill_(0.5)
        self.optimizer = build_optimizer(self.chunks, config.spec.trainer.optimizer, dtype)

    def moments(self) -> Iterator[tuple[LocalParameter, dict[str, torch.Tensor]]]:
        """Yield each parameter and its state."""
        for chained in getattr(self.optimizer, "chained_optimizers", [self.optimizer]):
            for name, parameter in self.chunks[0].module.named_parameters():
                main = getattr(parameter, "main_param", parameter)
                yield self.layout[name], chained.optimizer.state[main]

    def train(self) -> None:
        """Take a step, and then have moments that no other step gives."""
        for parameter in self.chunks[0].parameters():
            parameter.main_grad.fill_(0.25)
        self.optimizer.step()
        for parameter, state in self.moments():
            state["step"] = torch.tensor(NUM_STEPS)
            for number, moment in enumerate(MOMENTS):
                fill(parameter, state[moment], number)

    def check(self) -> None:
        """Fail unless the moments are those that `train` made."""
        for parameter, state in self.moments():
            assert float(state["step"]) == NUM_STEPS
            for number, moment in enumerate(MOMENTS):
                expected = torch.zeros_like(state[moment])
                fill(parameter, expected, number)
                torch.testing.assert_close(state[moment], expected, rtol=0, atol=0, msg=parameter.name)


def fill(parameter: LocalParameter, target: torch.Tensor, number: int) -> None:
    """Give each element of a parameter a number that its place in the Hugging Face tensor tells."""
    for strip in parameter.strips:
        axes = [
            torch.arange(start, stop, dtype=torch.float32)
            for start, stop in zip(strip.tensor_start, strip.tensor_stop, strict=True)
        ]
        place = sum(index * 131.0**axis for axis, index in enumerate(torch.meshgrid(*axes, indexing="ij")))
        target[strip.in_parameter] = place + len(strip.tensor) + number


def begin(rank: TrainedRank, folder: Path) -> "Saving":
    """Begin to save; the first rank makes the folder."""
    from torch import distributed

    from tandem_sidecars.megatron.optimizer_state import begin_saving

    if distributed.get_rank() == 0:
        make_optimizer_folder(folder.parent)
    distributed.barrier()
    return begin_saving(folder, rank.chunks, rank.optimizer)


def finish(saving: "Saving", num_ranks: int) -> None:
    """Have the first rank end the folder once all have written."""
    from torch import distributed

    saving.writing.join()
    if distributed.get_rank() == 0:
        asyncio.run(all_written(saving.folder, range(num_ranks), lambda: None))
        saving.finish()
    distributed.barrier()


def hold_writing() -> Callable[[], None]:
    """Have every file of Megatron's wait; return what lets them be written."""
    from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

    may_write, write = threading.Event(), FileSystemWriterAsync.write_preloaded_data

    def held(*arguments: object, **options: object) -> None:
        assert may_write.wait(WAIT_SECONDS)
        write(*arguments, **options)

    FileSystemWriterAsync.write_preloaded_data = staticmethod(held)
    return may_write.set


def save_rank(config: JobConfig, place: RankPlace, folder: Path, dtype: torch.dtype) -> None:
    """Save one rank's state, and train on before the first byte is written."""
    let_write = hold_writing()
    rank = TrainedRank(config, place, dtype)
    rank.train()
    saving = begin(rank, folder)
    for _, state in rank.moments():
        state["exp_avg"].zero_()
        state["exp_avg_sq"].zero_()
    assert not (folder / ".metadata").exists()
    let_write()
    finish(saving, place.world_size)
    assert (folder / ".metadata").is_file()


def load_rank(config: JobConfig, place: RankPlace, folder: Path, dtype: torch.dtype) -> None:
    """Load one rank's state and compare it."""
    from tandem_sidecars.megatron.optimizer_state import load_optimizer

    rank = TrainedRank(config, place, dtype)
    load_optimizer(folder, rank.chunks, rank.optimizer)
    rank.check()


def save_and_load_main_weights(config: JobConfig, place: RankPlace, folder: Path, dtype: torch.dtype) -> None:
    """Save and load what bfloat16 weights are rounded from; the moments are forgotten before."""
    from tandem_sidecars.megatron.offload import reset, state_tensors
    from tandem_sidecars.megatron.optimizer_state import load_optimizer

    rank = TrainedRank(config, place, dtype)
    rank.train()
    reset(rank.optimizer)
    before = [tensor.clone() for tensor in state_tensors(rank.optimizer)]
    finish(begin(rank, folder), 1)
    rank.train()
    load_optimizer(folder, rank.chunks, rank.optimizer)
    torch.testing.assert_close([*state_tensors(rank.optimizer)], before, rtol=0, atol=0)
    rank.train()


def run(program: object, config: JobConfig, places: list[RankPlace], folder: Path, dtype: torch.dtype) -> list[int]:
    """Run one program a rank at once; return their exit codes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTS))
    os.environ["OMP_NUM_THREADS"] = "1"
    ranks = [context.Process(target=program, args=(config, place, folder, dtype)) for place in places]  # type: ignore[arg-type]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(WAIT_SECONDS)
    return [-1 if rank.exitcode is None else rank.exitcode for rank in ranks]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_policy(tmp_path_factory.mktemp("optimizer") / "policy", "qwen2")


def test_moments_of_one_rank_come_back(policy: Path, tmp_path: Path) -> None:
    config, folder = job_config(policy), tmp_path / "optimizer"

    assert run(save_rank, config, [ALONE], folder, torch.float32) == [0]
    assert run(load_rank, config, [ALONE], folder, torch.float32) == [0]


def test_moments_of_two_tensor_ranks_are_loaded_by_one(policy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "optimizer"
    two = job_config(policy, num_ranks=2, parallelism=TrainerParallelism(tensor=2))

    assert run(save_rank, two, two_places(), folder, torch.float32) == [0, 0]
    assert run(load_rank, job_config(policy), [ALONE], folder, torch.float32) == [0]


def test_main_weights_come_back_without_moments(policy: Path, tmp_path: Path) -> None:
    config = job_config(policy)

    assert run(save_and_load_main_weights, config, [ALONE], tmp_path / "optimizer", torch.bfloat16) == [0]
