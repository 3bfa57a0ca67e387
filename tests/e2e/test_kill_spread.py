"""What is told of the kills of a job, and when they prove too little."""

from dataclasses import replace

from tests.e2e.killing import EVERYTHING, MASTER, SERVER
from tests.e2e.moments import Doing, Hit
from tests.e2e.resumption import Killed, render, too_narrow

HITS = (
    Hit(MASTER, 1, Doing.TO_INFER),
    Hit(EVERYTHING, 3, Doing.INFER),
    Hit(SERVER, 4, Doing.TRAIN),
    Hit(MASTER, 4, Doing.COMING_BACK),
)
KILLED = Killed(True, 7, len(HITS), HITS, num_iterations=9, num_again=1, seconds=90.0, problems=())


def test_kills_all_over_a_job_are_wide_enough() -> None:
    assert too_narrow(KILLED) == []


def test_kills_of_a_job_that_has_not_begun_are_not() -> None:
    starting = tuple(Hit(MASTER, 0, Doing.COMING_BACK) for _ in HITS)

    assert len(too_narrow(replace(KILLED, hits=starting))) == 6
    assert too_narrow(replace(KILLED, hits=HITS[:3])) == ["3 of 4 kills were done"]


def test_the_page_tells_what_was_found_and_what_was_hit() -> None:
    page = render([KILLED, replace(KILLED, deterministic=False, problems=("a is gone",))], "the command")

    assert "| deterministic | 7 | 4 | 3 | 4 | 9 | 1 | 1.5 | no difference |" in page
    assert "| default | 7 | 4 | 3 | 4 | 9 | 1 | 1.5 | a is gone |" in page
    assert "| the master | 2 | 2 | 0 | 0 | 0 | 4 |" in page
    assert "| all | 2 | 2 | 2 | 0 | 2 | 8 |" in page
