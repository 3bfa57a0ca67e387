"""The numbers of a run."""

import json
from dataclasses import replace

import pytest

from tandem_api.history import MemberStage
from tandem_api.job.status import Direction
from tandem_cli.report.history import History, extend
from tandem_cli.report.stages import quantile, slowest_seconds, stage_statistics
from tandem_cli.report.summary import summarize
from tests.tandem_cli.fake_history import STARTED_AT, fake_history, fake_records


def test_the_summary_has_exactly_these_keys() -> None:
    keys = set(json.loads(summarize(History()).model_dump_json()))

    assert keys == {
        "iterations", "reward_first_5", "reward_last_5", "reward_gain", "switches", "train_to_infer_seconds_median",
        "infer_to_train_seconds_median", "max_abs_logprob_difference", "seconds", "result", "generation",
        "stage_seconds_median", "tokens_per_second_median", "response_tokens_first_5", "response_tokens_last_5",
        "evaluations", "train_share", "infer_share", "switch_share", "critical_path_share",
    }  # fmt: skip


def test_numbers_that_do_not_exist_yet_are_null() -> None:
    summary = summarize(History())

    assert (summary.iterations, summary.switches) == (0, 0)
    assert summary.stage_seconds_median == {Direction.TRAIN_TO_INFER: {}, Direction.INFER_TO_TRAIN: {}}
    assert set(
        summary.model_dump(exclude={"iterations", "switches", "stage_seconds_median", "evaluations"}).values()
    ) == {None}


def test_the_gain_lies_between_the_means_of_the_first_and_the_last_five_iterations() -> None:
    history = fake_history(iterations=12)

    summary = summarize(history)

    rewards = [record.reward for record in history.iterations]
    assert summary.reward_first_5 == round(sum(rewards[:5]) / 5, 6)
    assert summary.reward_last_5 == round(sum(rewards[-5:]) / 5, 6)
    assert summary.reward_gain == pytest.approx(sum(rewards[-5:]) / 5 - sum(rewards[:5]) / 5, abs=2e-6)


def test_with_fewer_than_five_iterations_both_ends_are_the_mean_of_all() -> None:
    summary = summarize(fake_history(iterations=2))

    assert summary.reward_first_5 == summary.reward_last_5
    assert summary.reward_gain == 0


def test_first_switches_are_counted_but_left_out_of_the_medians() -> None:
    history = fake_history(iterations=3)

    summary = summarize(history)

    times = sorted(s.seconds for s in history.switches[1:] if s.direction == Direction.TRAIN_TO_INFER)
    assert summary.switches == 6
    assert summary.train_to_infer_seconds_median == pytest.approx(sum(times) / 2, abs=1e-6)
    assert history.switches[0].seconds > 2 * max(times)


def test_the_only_switch_being_a_first_one_leaves_its_median_null() -> None:
    summary = summarize(fake_history(iterations=1))

    assert summary.train_to_infer_seconds_median is None
    assert summary.infer_to_train_seconds_median is not None


def test_the_worst_logprob_difference_of_any_iteration_counts() -> None:
    history = fake_history(iterations=9)

    worst = max(record.max_abs_logprob_difference for record in history.iterations)
    assert summarize(history).max_abs_logprob_difference == worst


def test_wall_time_is_summed_over_resumed_runs_without_the_pause_between_them() -> None:
    first = fake_records(iterations=2, wanted=4, result=None)
    second = fake_records(iterations=2, complete_before=2, started_at=STARTED_AT + 9000)

    seconds = summarize(extend(History(), first + second)).seconds

    apart = [summarize(extend(History(), run)).seconds for run in (first, second)]
    assert seconds == pytest.approx(sum(part or 0 for part in apart), abs=1e-2)
    assert seconds is not None
    assert seconds < 100


def test_phases_and_switches_share_nearly_all_of_the_wall_time() -> None:
    summary = summarize(fake_history(iterations=10))

    shares = (summary.train_share, summary.infer_share, summary.switch_share)
    assert 0.95 < sum(share or 0 for share in shares) <= 1


@pytest.mark.parametrize("result", ["Completed", "Stopped", "Failed"])
def test_the_result_is_that_of_the_last_run(result: str) -> None:
    killed = fake_history(iterations=1, result=None)
    ended = fake_history(iterations=1, result=result)  # type: ignore[arg-type]

    assert summarize(killed).result is None
    assert summarize(ended).result == result


def test_a_stage_takes_as_long_as_its_slowest_member_whose_repeats_add_up() -> None:
    switch = fake_history(iterations=1).switches[0].model_copy(
        update={
            "stages": (
                MemberStage(pod="a", role="rollout", stage="load", started_at=0, seconds=0.4),
                MemberStage(pod="a", role="train", stage="export", started_at=0, seconds=0.1),
                MemberStage(pod="b", role="rollout", stage="load", started_at=0, seconds=0.3),
                MemberStage(pod="b", role="rollout", stage="load", started_at=1, seconds=0.3),
            )
        }
    )  # fmt: skip

    assert slowest_seconds(switch) == pytest.approx({"export": 0.1, "load": 0.6})
    assert list(slowest_seconds(switch)) == ["export", "load"]


def test_stages_come_in_the_order_of_the_protocol_for_both_directions() -> None:
    rows = stage_statistics(fake_history(iterations=4).switches)

    assert [row.stage for row in rows] == [
        "drain", "export", "offload", "start", "load", "ready", "abort", "stop", "reload", "ready",
    ]  # fmt: skip
    assert [row.num_switches for row in rows] == [3] * 6 + [4] * 4
    assert all(row.median_seconds <= row.p90_seconds <= row.max_seconds for row in rows)


def test_a_quantile_is_the_nearest_rank() -> None:
    assert quantile([3, 1, 2, 4, 5, 6, 7, 8, 9, 10], 0.9) == 9
    assert quantile([7], 0.9) == 7


def test_a_history_without_stages_has_switch_medians_all_the_same() -> None:
    history = fake_history(iterations=3)
    bare = replace(history, switches=tuple(s.model_copy(update={"stages": ()}) for s in history.switches))

    summary = summarize(bare)

    assert summary.train_to_infer_seconds_median == summarize(history).train_to_infer_seconds_median
    assert summary.stage_seconds_median[Direction.TRAIN_TO_INFER] == {}
