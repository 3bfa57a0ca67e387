"""The page that a campaign writes about itself."""

from dataclasses import replace

from tests.faults.invariants.violation import Violation
from tests.faults.outcome import RESULT, Outcome, Recovery, Result, Skipped, blame, summarize
from tests.faults.table import render_page

CALM = Outcome(0, "kill master", "serving", "serving", 10.0, 10.0, Recovery.IN_PLACE, 0, 4.0)
HURT = replace(CALM, index=1, hit="training", began_at=20.0, recovery=Recovery.RESTART, num_restarts=1, seconds=16.0)
OTHER = replace(CALM, index=2, kind="full /dev/shm", began_at=40.0, recovery=Recovery.STUCK, seconds=130.0)
RESULT_OF_THREE = Result(
    seed=7,
    machine="2 CPUs",
    seconds=180.0,
    num_iterations=12,
    outcomes=(CALM, HURT, OTHER),
    skipped=(Skipped(3, "unreachable rollout", "serving", "nft does not work here"),),
    violations=(Violation(4, 21.0, "trajectory a is gone"),),
)


def test_a_violation_is_blamed_on_the_injection_before_it() -> None:
    outcomes = RESULT_OF_THREE.outcomes

    assert blame([Violation(1, 5.0, ""), Violation(1, 21.0, ""), Violation(1, 50.0, "")], outcomes) == [None, 1, 2]


def test_the_summary_by_kind_ends_with_the_totals() -> None:
    lines = summarize(RESULT_OF_THREE, by_stage=False)
    kill, total = next(line for line in lines if line.name == "kill master"), lines[-1]

    assert (kill.num, kill.num_in_place, kill.num_by_restart, kill.num_violations) == (2, 1, 1, 1)
    assert (kill.median_seconds, kill.worst_seconds) == (10.0, 16.0)
    assert (total.num, total.num_stuck, total.worst_seconds) == (3, 1, 130.0)


def test_the_summary_by_stage_goes_by_what_was_hit() -> None:
    assert [line.name for line in summarize(RESULT_OF_THREE, by_stage=True)] == ["serving", "training", "all"]


def test_the_page_names_seed_violations_and_what_was_not_done() -> None:
    page = render_page(RESULT_OF_THREE)

    assert "--seed 7 --injections 4" in page
    assert "| kill master | 2 | 1 | 1 | 0 | 10.0 | 16.0 | 1 |" in page
    assert "invariant 4, after injection 7:1: trajectory a is gone" in page
    assert "nft does not work here" in page
    assert "2: full /dev/shm, hit serving" in page


def test_only_a_campaign_without_a_blemish_is_good() -> None:
    good = replace(RESULT_OF_THREE, outcomes=(CALM, HURT), violations=())

    assert good.is_good
    assert not RESULT_OF_THREE.is_good
    assert not replace(good, outcomes=(OTHER,)).is_good
    assert not replace(good, aborted="it does not come back").is_good


def test_a_result_survives_its_json() -> None:
    assert RESULT.validate_json(RESULT.dump_json(RESULT_OF_THREE)) == RESULT_OF_THREE
