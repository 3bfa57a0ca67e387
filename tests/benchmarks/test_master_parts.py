"""The benchmark of the master: what it finishes has gone through all of the master."""

from contextlib import closing
from pathlib import Path

from benchmarks.master_bench.measure import run_phase
from benchmarks.master_bench.scene import ITERATION, SAMPLES, fill
from benchmarks.master_bench.servers import Pace

from tandem_api.trajectory import TrajectoryState
from tandem_master.buffer.store import open_buffer

NUM_TRAJECTORIES = 10 * SAMPLES


async def test_at_full_speed_as_many_are_finished_and_trained_as_is_wanted(tmp_path: Path) -> None:
    fill(tmp_path, NUM_TRAJECTORIES)

    done = await run_phase(tmp_path, Pace(None, 6 * SAMPLES, 1), NUM_TRAJECTORIES, ITERATION)

    with closing(open_buffer(tmp_path / "buffer.sqlite")) as buffer:
        left, tallies = buffer.unfinished(), buffer.tallies()
    assert (done.num_finished, done.num_trained, len(left)) == (6 * SAMPLES, 6 * SAMPLES, 4 * SAMPLES)
    assert {item.state for item in left} == {TrajectoryState.UNFINISHED}
    assert sum(tally.num_tried for tally in tallies.values()) == 6 * SAMPLES
    assert 0 < sum(tally.num_correct for tally in tallies.values()) < 6 * SAMPLES
