"""Dynamic sampling: groups without signal are left out, and other problems drawn in their place."""

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tandem_api.job.sampling import DynamicSamplingSpec, SamplingSpec, SamplingStrategy
from tandem_master.buffer.outcome import Marks
from tandem_master.buffer.store import open_buffer
from tandem_master.rollout.sieve import has_signal, max_refills
from tandem_master.sampling.state import Draw
from tests.tandem_master.conftest import PROBLEMS, Job, ids, with_spec
from tests.tandem_master.texts import finished, segment, trajectory, unfinished

HOPELESS = {"12=", "34=", "57="}
"""Half of the problems; two of the others need two iterations each."""
REJECTED = "SELECT problem_id FROM trajectories WHERE state = 'Rejected' GROUP BY group_id ORDER BY 1"


def marks(*rewards: float, tokens: tuple[int, ...] = ()) -> tuple[Marks, ...]:
    """A group; responses of 5 tokens where no lengths are given."""
    lengths = tokens or (5,) * len(rewards)
    return tuple(Marks(reward, length, reward == 1.0) for reward, length in zip(rewards, lengths, strict=True))


def with_dynamic_sampling(job: Job, refill_share: float) -> None:
    """Have the job leave out groups without signal."""
    dynamic = DynamicSamplingSpec(enabled=True, refill_share=refill_share)
    with_spec(job, "recipe", sampling=SamplingSpec(strategy=SamplingStrategy.UNIFORM, dynamic=dynamic))
    job.stub.hopeless = HOPELESS


def forget_refills(job: Job) -> None:
    """Leave the buffer as a master does that was killed between a rejection and its refill."""
    with closing(sqlite3.connect(job.settings.state / "buffer.sqlite")) as connection, connection:
        first = "SELECT json_array(problem_ids ->> 0, problem_ids ->> 1) FROM draws WHERE iteration = 1"
        drawn = json.loads(connection.execute(first).fetchone()[0])
        kept = ", ".join(f"'{name}'" for name in drawn)
        connection.execute(f"DELETE FROM trajectories WHERE problem_id NOT IN ({kept})")
        connection.execute(f"UPDATE draws SET problem_ids = ({first}), positions = json_object('digits', 2)")


@pytest.mark.parametrize(
    ("group", "weight", "expected"),
    [
        (marks(1, 1, 1), 0.0, False),
        (marks(0.1, 0.1, 0.1), 0.0, False),
        (marks(0, 0, 1), 0.0, True),
        (marks(1, 1, tokens=(3, 4)), 0.0, False),
        (marks(1, 1, tokens=(3, 4)), 0.5, True),
        (marks(1, 1, tokens=(4, 4)), 0.5, False),
    ],
)
def test_a_group_has_a_signal_where_its_members_are_not_all_worth_the_same(
    group: tuple[Marks, ...], weight: float, *, expected: bool
) -> None:
    assert has_signal(group, weight) is expected


def test_no_more_problems_are_drawn_again_than_the_share_allows() -> None:
    assert [max_refills(256, share) for share in (0.0, 0.001, 0.5, 2.0)] == [0, 1, 128, 512]


async def test_groups_without_signal_are_not_trained_and_make_room_for_others(job: Job) -> None:
    with_dynamic_sampling(job, refill_share=1.0)

    await job.run()

    assert set(ids(job.rows(REJECTED))) == {f"digits/{prompt}" for prompt in HOPELESS}
    assert {item.advantage for item in job.trained_samples()} == {0.5, -0.5}
    assert sum(record.refills for record in job.iterations()) >= 3
    assert all(record.refills == min(2, record.groups_without_signal) for record in job.iterations())


async def test_a_job_that_does_not_ask_for_it_trains_every_group(job: Job) -> None:
    job.stub.hopeless = HOPELESS

    await job.run()

    assert job.rows(REJECTED) == []
    assert sum(record.groups_without_signal for record in job.iterations()) > 0
    assert {record.refills for record in job.iterations()} == {0}


async def test_refills_end_where_their_share_is_used_up(job: Job) -> None:
    with_dynamic_sampling(job, refill_share=0.5)
    job.stub.hopeless = {prompt for prompt, _ in PROBLEMS}

    exit_code = await job.run()

    drawn = job.rows("SELECT json_array_length(problem_ids) FROM draws ORDER BY iteration")
    assert exit_code == 0
    assert ids(drawn) == [3, 3, 3]
    assert job.trained_samples() == []
    assert [record.refills for record in job.iterations()] == [1, 1, 1]


def test_a_rollback_takes_a_rejection_back(tmp_path: Path) -> None:
    with closing(open_buffer(tmp_path / "buffer.sqlite")) as buffer:
        members = [trajectory("a", group="1-g"), trajectory("b", group="1-g")]
        buffer.begin(1, Draw(("p",), {}), members)
        buffer.record(1, [finished(trajectory("a", segment(0, 5, 0), group="1-g"), 0.0), unfinished(members[1])])
        buffer.commit(1, [])
        longer = trajectory("b", segment(1, 5, 0), group="1-g")
        buffer.begin(2, Draw((), {}), [])
        buffer.record(2, [finished(longer, 0.0)])
        before = (buffer.complete_group_ids(), len(buffer.marks_of("1-g")))

        num_rejected = buffer.reject(2, "1-g")
        rejected = (buffer.complete_group_ids(), buffer.marks_of("1-g"))
        buffer.rollback(0)

        assert (before, num_rejected, rejected) == ((("1-g",), 2), 1, ((), ()))
        assert [(item.id, item.state) for item in buffer.unfinished()] == [("b", "Unfinished")]
        assert buffer.num_rejected(2) == 0


async def test_a_master_that_was_killed_between_a_rejection_and_its_refill_draws_it(job: Job, twin: Job) -> None:
    with_dynamic_sampling(job, refill_share=1.0)
    with_dynamic_sampling(twin, refill_share=1.0)
    await twin.run()
    job.stub.num_before_holding = 2
    running = asyncio.create_task(job.run())
    await job.stub.held.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    job.stub.num_before_holding = None
    forget_refills(job)

    await job.run()

    draws = "SELECT problem_ids, positions FROM draws ORDER BY iteration"
    assert job.rows(draws) == twin.rows(draws)


async def test_a_master_that_is_killed_amid_refills_goes_on_to_the_same_draws(job: Job, twin: Job) -> None:
    with_dynamic_sampling(job, refill_share=1.0)
    with_dynamic_sampling(twin, refill_share=1.0)
    await twin.run()
    job.stub.num_before_holding = 3
    killed = asyncio.create_task(job.run())
    await job.stub.held.wait()
    killed.cancel()
    await asyncio.gather(killed, return_exceptions=True)
    job.stub.num_before_holding = None

    await job.run()

    draws = "SELECT problem_ids, positions FROM draws ORDER BY iteration"
    trained = "SELECT id, state, trained_iteration FROM trajectories ORDER BY id"
    assert job.rows(draws) == twin.rows(draws)
    assert job.rows(trained) == twin.rows(trained)
