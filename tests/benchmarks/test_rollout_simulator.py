"""The simulator of rollouts: it conserves tokens, and where a formula exists it gives the formula's value."""

from dataclasses import replace

import numpy as np
import pytest
from benchmarks.rollout_bench.cluster import Cluster, Setting, run_course
from benchmarks.rollout_bench.lengths import DISTRIBUTIONS, TAIL, Lengths
from benchmarks.rollout_bench.pace import Pace, roofline
from benchmarks.rollout_bench.phase import Phase, PhaseOutcome
from benchmarks.rollout_bench.server import BLOCK_TOKENS, Running, SimulatedServer

from tandem_api.trajectory import Trajectory
from tandem_master.rollout.ending import StopRule
from tandem_master.rollout.segments import Limits, plan_asks

PACE = Pace(step_seconds=0.01, sequence_seconds=0.001, context_seconds=1e-6, prefill_seconds=1e-4, train_seconds=1e-5)
LENGTHS = Lengths(median_tokens=512, sigma=1.0, max_tokens=8_192, budget_tokens=1_024, source="")
SETTING = Setting(num_servers=3, lengths=LENGTHS, pace=PACE, is_partial=True, switch_seconds=5.0)
WIDE = Limits(budget_tokens=1 << 20, max_length_tokens=1 << 20)


def _trajectory(number: int) -> Trajectory:
    return Trajectory(id=f"1-p{number}-0", group=f"p{number}", problem_id=f"p{number}", prompt_token_ids=(0,))


def _phase(blocks: list[int], rule: StopRule, *, servers: int = 1, seats: int = 8) -> PhaseOutcome:
    """Run a phase of one trajectory a problem, which lack so many blocks."""
    trajectories = [_trajectory(number) for number in range(len(blocks))]
    left = {item.id: num_blocks for item, num_blocks in zip(trajectories, blocks, strict=True)}
    asks = plan_asks(trajectories, 0, WIDE, seed=1, iteration=1)
    return Phase(servers, seats, PACE, left, rule).run(asks)


def test_steps_take_as_long_as_their_sum() -> None:
    one_by_one = sum(PACE.steps_seconds(1, 3, 700 + 3 * step) for step in range(50))

    assert PACE.steps_seconds(50, 3, 700) == pytest.approx(one_by_one)


def test_one_sequence_on_one_server_takes_what_the_formula_says() -> None:
    server = SimulatedServer(PACE)

    server.admit([Running("a", 2, 10)], 2, now=0.0)

    steps, context = 10 * BLOCK_TOKENS, 2 * BLOCK_TOKENS
    decoding = steps * 0.011 + 1e-6 * (steps * context + steps * (steps - 1) / 2)
    assert server.next_end() == pytest.approx(context * 1e-4 + decoding)


def test_two_sequences_share_their_steps() -> None:
    server = SimulatedServer(PACE)

    server.admit([Running("a", 1, 4), Running("b", 1, 9)], 1, now=0.0)
    first, second = server.end_first(), server.end_first()

    steps, rest = 4 * BLOCK_TOKENS, 5 * BLOCK_TOKENS
    together = PACE.steps_seconds(steps, 2, 2 * BLOCK_TOKENS)
    alone = PACE.steps_seconds(rest, 1, 5 * BLOCK_TOKENS)
    assert [item.name for item in (*first, *second)] == ["a", "b"]
    assert server.clock == pytest.approx(BLOCK_TOKENS * 1e-4 + together + alone)


def test_a_phase_samples_every_trajectory_to_its_end() -> None:
    blocks = [3, 40, 7, 7, 1, 19]

    outcome = _phase(blocks, StopRule(), servers=2)

    assert [outcome.sampled[f"1-p{number}-0"].num_blocks for number in range(6)] == blocks
    assert all(sampled.is_whole for sampled in outcome.sampled.values())


def test_no_server_runs_more_sequences_than_it_has_seats() -> None:
    narrow, wide = (_phase([10] * 6, StopRule(), seats=seats).seconds for seats in (2, 6))

    assert narrow > 2 * wide


def test_equal_lengths_leave_no_seat_idle() -> None:
    assert _phase([12] * 5, StopRule()).tail_idle_share == pytest.approx(0.0)


def test_the_idle_share_is_what_the_longest_leaves_idle() -> None:
    free = replace(PACE, sequence_seconds=0.0, context_seconds=0.0, prefill_seconds=0.0)
    server = SimulatedServer(free)

    server.admit([Running("a", 1, 10), Running("b", 1, 30), Running("c", 1, 20)], 1, now=0.0)
    while server.next_end() is not None:
        server.end_first()

    assert server.idle_seconds / (server.peak * server.clock) == pytest.approx(30 / 90)


def test_the_stop_rule_cuts_what_is_not_complete_and_keeps_what_was_sampled() -> None:
    outcome = _phase([2, 2, 2, 50], StopRule(complete_share=0.75))

    cut = outcome.sampled["1-p3-0"]
    assert not cut.is_whole
    assert cut.num_blocks == 2
    assert outcome.seconds < _phase([2, 2, 2, 50], StopRule()).seconds / 5


@pytest.mark.parametrize(
    "setting",
    [
        pytest.param(replace(SETTING, is_partial=False), id="full"),
        pytest.param(SETTING, id="token budget"),
        pytest.param(replace(SETTING, is_partial=False, rule=StopRule(0.7)), id="stop rule"),
        pytest.param(replace(SETTING, seats=9), id="too few seats"),
    ],
)
def test_every_sampled_token_is_trained_once_or_still_live(setting: Setting) -> None:
    cluster = Cluster(setting, seed=4)

    done = [cluster.run_iteration() for _ in range(12)]

    live = sum(item.num_response_tokens for item in cluster.live.values()) * BLOCK_TOKENS
    assert sum(item.sampled_tokens for item in done) == sum(item.trained_tokens for item in done) + live
    assert sum(item.trained_tokens for item in done) > 0


def test_no_trajectory_grows_by_more_than_its_budget_in_an_iteration() -> None:
    cluster = Cluster(SETTING, seed=4)

    for _ in range(6):
        cluster.run_iteration()

    segments = [len(segment.token_ids) for item in cluster.live.values() for segment in item.segments]
    assert max(segments) == LENGTHS.budget_tokens // BLOCK_TOKENS
    assert any(len(item.segments) > 2 for item in cluster.live.values())


def test_without_partial_rollouts_nothing_is_left_and_all_of_it_is_in_the_loss() -> None:
    cluster = Cluster(replace(SETTING, is_partial=False), seed=4)

    done = cluster.run_iteration()

    assert cluster.live == {}
    assert done.loss_tokens == done.trained_tokens == done.sampled_tokens


def test_it_is_deterministic() -> None:
    first, second = (run_course(SETTING, 3, seed=9) for _ in range(2))

    assert first.iterations == second.iterations


def test_a_heavier_tail_gains_more() -> None:
    def gain(lengths: Lengths) -> float:
        full, partial = (
            run_course(replace(SETTING, lengths=lengths, is_partial=is_partial), 8, seed=2)
            for is_partial in (False, True)
        )
        return partial.trained_tokens_per_second / full.trained_tokens_per_second

    assert gain(LENGTHS) > gain(replace(LENGTHS, sigma=0.2)) > 0


def test_drawn_lengths_have_the_published_shape() -> None:
    lengths = DISTRIBUTIONS["short"]

    drawn = lengths.draw(np.random.default_rng(1), 20_000, 8).ravel()

    assert np.median(drawn) == pytest.approx(500, rel=0.03)
    assert np.quantile(drawn, 0.99) == pytest.approx(5_000, rel=0.05)
    assert drawn.max() == lengths.max_tokens


def test_responses_to_one_problem_are_alike_in_length() -> None:
    drawn = np.log(DISTRIBUTIONS["short"].draw(np.random.default_rng(1), 5_000, 2))

    assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(0.5, abs=0.05)


def test_the_tail_of_ten_medians_at_the_99th_percentile_has_a_sigma_of_0_99() -> None:
    assert pytest.approx(0.99, abs=0.001) == TAIL


def test_the_roofline_reads_all_weights_once_a_step() -> None:
    assert roofline().step_seconds == pytest.approx(65.6e9 / 13.4e12)
