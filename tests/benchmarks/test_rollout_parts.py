"""The parts of the benchmark of partial rollouts that need no server: what is counted, and what is written."""

import random
from collections import Counter
from typing import Any

import pytest
from benchmarks.rollout_bench.arms import arms, example, maker, manifest
from benchmarks.rollout_bench.page import BEGIN, END, reward_words, with_section
from benchmarks.rollout_bench.real import repeat_rule, rewards
from benchmarks.rollout_bench.trained import (
    Sampling,
    Segment,
    decoding_cost,
    tail_idle_share,
    trained_tokens,
    wasted_share,
)
from benchmarks.switch_bench.jobs import refusal

from tandem_api.history import IterationRecord
from tandem_master.rollout.repeats import RepeatRule

SEGMENTS = [Segment("a", 1, 10), Segment("b", 1, 4), Segment("a", 2, 6), Segment("c", 2, 3), Segment("d", 3, 5)]


def _record(iteration: int, *, sampled: int = 0, tokens_per_second: float = 0.0) -> IterationRecord:
    values: dict[str, Any] = dict.fromkeys(IterationRecord.model_fields.keys() - {"kind", "rollout_end"}, 0)
    values |= {"iteration": iteration, "seconds": 2.0}
    return IterationRecord(**values | {"sampled_tokens": sampled, "tokens_per_second": tokens_per_second})


def _sampling(**others: Any) -> Sampling:
    values: dict[str, Any] = {
        "iterations": [_record(number) for number in (1, 2, 3)],
        "segments": SEGMENTS,
        "trained": {"a": 2, "b": 1, "d": 3},
        "repeats": frozenset(),
        "responses": {},
    }
    return Sampling(**values | others)


def test_trained_tokens_are_of_whole_responses_and_the_first_iteration_does_not_count() -> None:
    sampling = _sampling()

    assert trained_tokens(sampling) == 10 + 6 + 5
    assert sampling.seconds == 4.0


def test_the_time_of_inference_is_that_of_sampling_alone() -> None:
    records = [_record(number, sampled=30, tokens_per_second=60.0) for number in (1, 2, 3)]

    assert _sampling(iterations=records).infer_seconds == 1.0


def test_seats_are_idle_for_what_their_segments_lack_to_the_longest() -> None:
    assert tail_idle_share(_sampling()) == pytest.approx(1 - 28 / (20 + 12 + 5))


def test_what_repeats_itself_is_wasted_whether_it_was_stopped_or_not() -> None:
    rule = RepeatRule(window_tokens=8, ngram_tokens=2, max_share=0.8)
    responses = {"loop": (7,) * 30, "counting": tuple(range(60)), "stopped": (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)}

    share = wasted_share(_sampling(responses=responses, repeats=frozenset({"stopped"})), rule)

    assert share == pytest.approx(40 / 100)


def test_the_cost_of_a_step_and_of_a_sequence_are_found() -> None:
    lengths = [[10, 4], [20, 20, 20], [64], [5, 5, 5, 5, 40]]
    segments = [Segment(f"{number}", step + 2, n) for step, ns in enumerate(lengths) for number, n in enumerate(ns)]
    seconds = [0.1 + 0.003 * max(ns) + 0.0001 * sum(ns) for ns in lengths]
    records = [
        _record(step + 2, sampled=sum(ns), tokens_per_second=sum(ns) / took)
        for step, (ns, took) in enumerate(zip(lengths, seconds, strict=True))
    ]

    step, sequence = decoding_cost([_sampling(iterations=records, segments=segments)])

    assert step == pytest.approx(0.003)
    assert sequence == pytest.approx(0.0001)


def test_every_arm_is_a_job_that_this_version_takes(tmp_path: Any) -> None:
    known = arms(example()["spec"]["policy"]["maxLengthTokens"])

    refusals = {name: refusal(manifest(arm, tmp_path, 1)) for name, arm in known.items()}

    assert refusals == dict.fromkeys(known)


def test_the_arms_differ_in_how_they_sample_and_in_nothing_else(tmp_path: Any) -> None:
    known = arms(1536)
    full, partial = (manifest(known[name], tmp_path, 1)["spec"] for name in ("full", "partial"))

    assert full["recipe"].pop("partialRollout") == {"tokenBudget": 1536, "excludeOldSegments": False}
    assert partial["recipe"].pop("partialRollout") == {"tokenBudget": 64, "excludeOldSegments": False}
    assert full == partial


def test_rewards_are_compared_seed_by_seed() -> None:
    figures = rewards({"full": [0.5, 0.7], "partial": [0.6, 0.7], "stop": [0.5, 0.6]}, start=0.3)

    assert figures["reward_rise_least"] == pytest.approx(0.2)
    assert figures["reward_partial"] == pytest.approx(0.65)
    assert figures["reward_difference_vs_full"] == pytest.approx(0.05)
    assert figures["reward_difference_vs_full_least"] == 0.0
    assert figures["reward_difference_vs_full_stop"] == pytest.approx(-0.05)


@pytest.mark.parametrize(
    ("partial", "words"),
    [
        ([0.6, 0.7, 0.6], "it is no worse than"),
        ([0.4, 0.8, 0.5], "it is lower, by less than the spread of the seeds, than"),
        ([0.4, 0.6, 0.5], "it is worse than"),
    ],
)
def test_the_page_says_whether_a_budget_costs_reward(partial: list[float], words: str) -> None:
    assert words in reward_words(rewards({"full": [0.5, 0.7, 0.6], "partial": partial}, start=0.3), num_seeds=3)


def test_the_page_does_not_judge_by_one_seed() -> None:
    assert "it is lower, in one seed, than" in reward_words(
        rewards({"full": [0.7], "partial": [0.6]}, start=0.3), num_seeds=1
    )


@pytest.mark.parametrize(("start", "words"), [(0.3, "Every job learns"), (0.55, "Not every job learns")])
def test_the_page_says_whether_all_jobs_have_learnt(start: float, words: str) -> None:
    said = reward_words(rewards({"full": [0.5], "partial": [0.6]}, start), num_seeds=1)

    assert f"{words}: {start:.3f} at the start, 0.500" in said


def test_a_problem_of_the_example_is_read_from_its_prompt() -> None:
    module = maker()

    problem = module.Problem("h", 203)

    assert module.parse_problem(problem.prompt) == problem
    assert problem.answer().split()[:5] == ["02", "01", "00", "1_", "99"]
    assert problem.answer().split()[-2:] == ["00", "a"]


def test_demonstrations_know_two_letters_and_mostly_end_with_the_wrong_one() -> None:
    module, rng = maker(), random.Random(1)
    shown = [module.demonstrate(module.Problem("c", 3), rng).answer for _ in range(1000)]
    ends = Counter(module.VOCAB[tokens[-2]] for tokens in shown)

    assert set(ends) == {"c", "d", "hmm"}
    assert ends["c"] > ends["d"] > ends["hmm"]


def test_counting_is_no_repeat_and_a_loop_is_one() -> None:
    module, rule = maker(), repeat_rule()
    count = [module.ID[word] for word in module.Problem("a", 999).answer().split()]

    share = wasted_share(_sampling(responses={"count": tuple(count), "loop": (module.ID["hmm"],) * 64}), rule)

    assert share == pytest.approx(64 / (len(count) + 64))


def test_only_what_is_between_the_markers_is_replaced() -> None:
    page = f"# Results\n\nbefore\n\n{BEGIN}\nold\n{END}\n\nafter\n"

    assert with_section(page, "new\n") == page.replace("old", "new")


def test_a_page_without_the_section_gets_it_at_its_end() -> None:
    assert with_section("# Results\n", "new") == f"# Results\n\n{BEGIN}\nnew\n{END}\n"


def test_a_page_with_one_marker_is_left_alone() -> None:
    with pytest.raises(ValueError, match="only one of"):
        with_section(f"# Results\n{BEGIN}\n", "new")
