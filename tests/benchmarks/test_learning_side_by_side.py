"""Trials of the benchmark of learning, in processes of their own."""

from math import inf

from benchmarks.learning_bench.outcome import Outcome
from benchmarks.learning_bench.side_by_side import run_side_by_side
from benchmarks.learning_bench.trials import Trial

FIRST, SECOND, THEN = (Trial("grpo", rate, 0, 1) for rate in (1e-4, 2e-4, 3e-4))


def told(trial: Trial) -> Outcome:
    """What a trial in another process says."""
    return Outcome(
        method=trial.method,
        rate=trial.rate,
        seed=trial.seed,
        rewards=(0.5,),
        response_tokens=(4.0,),
        max_abs_logprob_difference=0.0,
        seconds=0.0,
    )


def run(kept: dict[Trial, Outcome], until: float) -> bool:
    def missing() -> list[Trial]:
        known = [FIRST, SECOND] if len(kept) < 2 else [THEN]
        return [trial for trial in known if trial not in kept]

    return run_side_by_side(missing, told, kept.__setitem__, 2, until)


def test_a_trial_that_others_decide_runs_after_them_and_each_runs_once() -> None:
    kept: dict[Trial, Outcome] = {}

    assert run(kept, inf)

    assert [(trial, outcome.rate) for trial, outcome in kept.items()][-1] == (THEN, 3e-4)
    assert set(kept) == {FIRST, SECOND, THEN}


def test_once_the_time_is_over_no_trial_begins() -> None:
    kept: dict[Trial, Outcome] = {}

    assert not run(kept, -inf)
    assert kept == {}
