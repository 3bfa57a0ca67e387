"""When a job is killed, and what a kill has hit."""

from collections import Counter

import pytest

from tandem_api.history import PhaseRecord, Record
from tandem_api.job.status import Phase
from tests.e2e.moments import GUESSED_SECONDS, Doing, committed, doing_of, planned_kills, usual_seconds
from tests.faults.written import committed as commit
from tests.faults.written import started, switched

SHARES = {"the master": 0.5, "everything": 0.5}


def phase(name: Phase, seconds: float = 0.0) -> PhaseRecord:
    return PhaseRecord(phase=name, epoch=1, iteration=1, started_at=0.0, seconds=seconds)


@pytest.mark.parametrize(
    ("since_kill", "doing"),
    [
        ([], Doing.COMING_BACK),
        ([started(1)], Doing.COMING_BACK),
        ([started(1), switched(1)], Doing.INFER),
        ([switched(1), phase(Phase.INFER)], Doing.TO_TRAIN),
        ([phase(Phase.INFER), switched(2)], Doing.TRAIN),
        ([switched(2), commit(1)], Doing.TO_INFER),
        ([commit(1), phase(Phase.TRAIN)], Doing.TO_INFER),
    ],
)
def test_what_a_job_is_at_is_told_by_its_diary(since_kill: list[Record], doing: Doing) -> None:
    assert doing_of(since_kill) is doing


def test_a_job_that_has_gone_back_counts_from_there() -> None:
    assert committed([started(0), commit(1), commit(2), started(1)]) == 1


def test_what_a_job_usually_takes_is_told_by_its_diary_and_guessed_before() -> None:
    seen = usual_seconds([phase(Phase.INFER, seconds) for seconds in (5.0, 7.0, 30.0)])

    assert seen == {**GUESSED_SECONDS, Doing.INFER: 7.0}


def test_kills_are_spread_over_the_job_and_over_all_that_it_does() -> None:
    kills = planned_kills(1, 25, 60, SHARES)

    assert [kill.iteration * 25 // 56 for kill in kills] == pytest.approx(range(25), abs=1)
    assert set(Counter(kill.doing for kill in kills).values()) == {5}
    assert {kill.what for kill in kills} == set(SHARES)
    assert planned_kills(1, 25, 60, SHARES) == kills
    assert planned_kills(2, 25, 60, SHARES) != kills
