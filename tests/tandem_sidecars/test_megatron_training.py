"""Training on the real trainer: what it refuses, and what its result does not depend on."""

import json
import re
from pathlib import Path

import pytest

from tandem_api.engine import Sample
from tandem_checkpoint.process.commands import Refused, Train, Trained
from tests.tandem_checkpoint.jobs import job_config
from tests.tandem_sidecars.forge import Forge, RankProcess, two_places
from tests.tandem_sidecars.policies import logprobs
from tests.tandem_sidecars.training import LIMIT, SMOOTH, largest_difference, train, weights_in, weights_of

pytestmark = pytest.mark.megatron


def shifted(samples: tuple[Sample, ...], by: float) -> tuple[Sample, ...]:
    """Return samples one of whose tokens the server gave another log-probability."""
    first = samples[0]
    wrong = (first.sampled_logprobs[0] + by, *first.sampled_logprobs[1:])
    return (first.model_copy(update={"sampled_logprobs": wrong}), *samples[1:])


def test_a_batch_that_the_server_sampled_with_other_weights_is_refused_and_changes_nothing(
    rank: RankProcess, samples: tuple[Sample, ...], untied_policy: Path, tmp_path: Path
) -> None:
    refused = rank.ask(train(shifted(samples, by=1e-3)), Refused)

    told = re.search(
        r"differ by (\S+) nats \(limit 1e-05\): the server does not hold the trainer's weights", refused.reason
    )
    assert told
    assert float(told.group(1)) == pytest.approx(1e-3, rel=0.01)
    assert largest_difference(weights_of(rank, tmp_path / "after"), weights_in(untied_policy)) == 0.0


def test_one_wrong_token_in_the_last_step_stops_the_first(
    rank: RankProcess, samples: tuple[Sample, ...], untied_policy: Path, tmp_path: Path
) -> None:
    rank.ask(train(samples, samples, shifted(samples, by=1e-3)), Refused)

    assert largest_difference(weights_of(rank, tmp_path / "after"), weights_in(untied_policy)) == 0.0


def test_a_log_probability_that_is_not_a_number_is_refused_and_changes_nothing(
    rank: RankProcess, samples: tuple[Sample, ...], untied_policy: Path, tmp_path: Path
) -> None:
    command = train(shifted(samples, by=float("nan"))).model_dump()

    rank.send_line(json.dumps(command))

    answer = rank.receive()
    assert isinstance(answer, Refused)
    assert largest_difference(weights_of(rank, tmp_path / "after"), weights_in(untied_policy)) == 0.0


def test_after_a_refusal_the_right_batch_is_trained(rank: RankProcess, samples: tuple[Sample, ...]) -> None:
    rank.ask(train(shifted(samples, by=1e-3)), Refused)

    rank.ask(train(samples), Trained)


def test_training_makes_rewarded_responses_likelier_than_the_others(
    rank: RankProcess, samples: tuple[Sample, ...], untied_policy: Path, tmp_path: Path
) -> None:
    rank.ask(train(*[samples] * 8), Trained)
    weights_of(rank, tmp_path / "after")

    gained = [
        sum(logprobs(tmp_path / "after", sample.token_ids)[sample.first_loss_token - 1 :])
        - sum(sample.sampled_logprobs)
        for sample in samples
    ]
    assert sum(gain * sample.advantage for gain, sample in zip(gained, samples, strict=True)) > 1.0


def test_equal_rewards_give_no_gradient_at_the_first_step(rank: RankProcess, samples: tuple[Sample, ...]) -> None:
    equal = tuple(sample.model_copy(update={"advantage": 0.0}) for sample in samples)

    answer = rank.ask(train(equal), Trained)

    assert answer.steps[0].loss == 0.0
    assert answer.steps[0].gradient_norm == 0.0


def test_metrics_come_by_step_with_the_tokens_of_all(rank: RankProcess, samples: tuple[Sample, ...]) -> None:
    answer = rank.ask(train(samples[:2], samples[2:5], samples[5:]), Trained)

    assert len(answer.steps) == 3
    assert answer.num_tokens == sum(len(sample.token_ids) for sample in samples)


def test_the_result_does_not_depend_on_the_split_into_micro_batches(
    forge: Forge, rank: RankProcess, samples: tuple[Sample, ...], untied_policy: Path, tmp_path: Path
) -> None:
    narrow = forge.start(job_config(untied_policy, optimizer=SMOOTH, micro_batch_tokens=20), tmp_path)

    together, apart = rank.ask(train(samples, samples), Trained), narrow.ask(train(samples, samples), Trained)

    assert [step.loss for step in apart.steps] == pytest.approx([step.loss for step in together.steps], rel=1e-4)
    assert largest_difference(weights_of(rank, tmp_path / "a"), weights_of(narrow, tmp_path / "b")) <= 1e-6


def test_two_ranks_give_the_weights_of_one(
    forge: Forge, rank: RankProcess, samples: tuple[Sample, ...], untied_policy: Path, tmp_path: Path
) -> None:
    alone = rank.ask(train(samples, samples), Trained)
    pair = forge.start_all(job_config(untied_policy, optimizer=SMOOTH, num_ranks=2), tmp_path, two_places())
    sizes = (len(samples), len(samples))

    pair[0].send(Train(max_logprob_difference=LIMIT, steps=(samples[0::2], samples[:5]), samples_per_step=sizes))
    pair[1].send(Train(max_logprob_difference=LIMIT, steps=(samples[1::2], samples[5:]), samples_per_step=sizes))
    first, second = pair[0].receive(), pair[1].receive()

    assert isinstance(first, Trained)
    assert first == second
    assert first.num_tokens == alone.num_tokens
    assert [step.loss for step in first.steps] == pytest.approx([step.loss for step in alone.steps], rel=1e-4)
    expected = weights_of(rank, tmp_path / "alone")
    assert largest_difference(weights_of(pair[0], tmp_path / "first"), expected) <= 1e-6
    assert largest_difference(weights_of(pair[1], tmp_path / "second"), expected) <= 1e-6


def test_a_rank_without_samples_takes_part_and_adds_nothing(
    forge: Forge, rank: RankProcess, samples: tuple[Sample, ...], untied_policy: Path, tmp_path: Path
) -> None:
    rank.ask(train(samples), Trained)
    pair = forge.start_all(job_config(untied_policy, optimizer=SMOOTH, num_ranks=2), tmp_path, two_places())

    pair[0].send(train(samples))
    pair[1].send(Train(max_logprob_difference=LIMIT, steps=((),), samples_per_step=(len(samples),)))
    answers = pair[0].receive(), pair[1].receive()

    assert all(isinstance(answer, Trained) for answer in answers), answers
    expected = weights_of(rank, tmp_path / "alone")
    assert largest_difference(weights_of(pair[1], tmp_path / "idle"), expected) <= 1e-6


def test_a_batch_without_a_step_changes_no_weight(rank: RankProcess, untied_policy: Path, tmp_path: Path) -> None:
    answer = rank.ask(train(), Trained)

    assert (answer.steps, answer.num_tokens, answer.max_abs_logprob_difference) == ((), 0, 0.0)
    assert largest_difference(weights_of(rank, tmp_path / "after"), weights_in(untied_policy)) == 0.0


def test_what_one_rank_refuses_all_refuse(
    forge: Forge, samples: tuple[Sample, ...], untied_policy: Path, tmp_path: Path
) -> None:
    pair = forge.start_all(job_config(untied_policy, optimizer=SMOOTH, num_ranks=2), tmp_path, two_places())

    pair[0].send(train(samples))
    pair[1].send(train(shifted(samples, by=1e-3)))

    assert isinstance(pair[0].receive(), Refused)
    assert isinstance(pair[1].receive(), Refused)


def gain(policy: Path, sample: Sample) -> float:
    """Return how much likelier a response is now than when it was sampled, in nats."""
    now = logprobs(policy, sample.token_ids)[sample.first_loss_token - 1 :]
    return sum(now) - sum(sample.sampled_logprobs)
