"""The trainer program as the engine starts it."""

import os
import sys
from pathlib import Path

import psutil
import pytest

from tandem_api.engine import Sample
from tandem_checkpoint.process.commands import FolderSource, Moved, Offload, Trained
from tandem_checkpoint.process.ranks import RankGroup
from tests.tandem_checkpoint.jobs import job_config
from tests.tandem_sidecars.forge import two_places
from tests.tandem_sidecars.training import train

pytestmark = pytest.mark.megatron

PROGRAM = (sys.executable, "-m", "tandem_sidecars.megatron")


def environment(policy: Path, folder: Path, num_ranks: int) -> dict[str, str]:
    (folder / "job.json").write_text(job_config(policy, num_ranks=num_ranks).model_dump_json())
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "TANDEM_CONFIG": str(folder / "job.json"),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "GLOO_SOCKET_IFNAME": "lo",
    }


async def test_two_ranks_start_meet_train_offload_and_end(
    untied_policy: Path, samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    variables = environment(untied_policy, tmp_path, num_ranks=2)

    before = set(psutil.Process().children())
    group = await RankGroup.start(PROGRAM, variables, num_ranks=2, inherit=())
    await group.build(two_places(), FolderSource(path=str(untied_policy)))
    shares = (samples[0::2], samples[1::2])
    trained = await group.ask(
        lambda rank: train(shares[rank]).model_copy(update={"samples_per_step": (len(samples),)}), Trained
    )
    moved = await group.ask(lambda _: Offload(), Moved)
    await group.kill()

    assert group.device_bytes > 0
    assert trained[0] == trained[1]
    assert [answer.device_bytes for answer in moved] == [0, 0]
    assert set(psutil.Process().children()) <= before
