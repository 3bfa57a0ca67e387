"""Micro-batches: samples end to end, each with its own labels, weights and place in the loss."""

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_api.engine import Sample
from tandem_api.job.recipe import ObjectiveName, ObjectiveSpec
from tandem_sidecars.megatron.batches import MicroBatch, make_micro_batches, positions_of
from tandem_sidecars.megatron.objective import Likelihoods, StepSize, policy_loss
from tandem_sidecars.megatron.packing import pack

CPU = torch.device("cpu")
VOCABULARY = 11


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    prompt = draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=6))
    response = draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=8))
    return Sample(
        token_ids=(*prompt, *response),
        first_loss_token=len(prompt),
        sampled_logprobs=tuple(draw(st.floats(-9, 0, width=32)) for _ in response),
        advantage=draw(st.floats(-1, 1, width=32)),
    )


batches_of_samples = st.lists(samples(), min_size=1, max_size=12)


def packed(many: list[Sample], max_tokens: int) -> list[MicroBatch]:
    """Rows of samples as a rank packs them."""
    return make_micro_batches(many, pack([positions_of(sample) for sample in many], max_tokens), CPU)


def test_a_row_by_hand() -> None:
    long = Sample(token_ids=(1, 2, 3, 4, 5), first_loss_token=3, sampled_logprobs=(-0.25, -0.5), advantage=1.0)
    short = Sample(
        token_ids=(6, 7, 8), first_loss_token=1, sampled_logprobs=(-1.0, -2.0), num_old_tokens=1, advantage=-1.0
    )

    (row,) = make_micro_batches([long, short], [[1, 0]], CPU)

    assert (row.indices, row.lengths, row.num_tokens) == ((1, 0), (2, 4), 8)
    assert row.token_ids_T.tolist() == [6, 7, 1, 2, 3, 4]
    assert row.labels_T.tolist() == [7, 8, 2, 3, 4, 5]
    assert row.mask_T.tolist() == [1, 1, 0, 0, 1, 1]
    assert row.current_T.tolist() == [0, 1, 0, 0, 1, 1]
    assert row.sampled_T.tolist() == [-1.0, -2.0, 0, 0, -0.25, -0.5]
    assert row.advantage_B.tolist() == [-1.0, 1.0]


def test_a_row_without_samples_is_one_position_that_counts_for_nothing() -> None:
    (idle,) = make_micro_batches([], [[]], CPU)

    assert (idle.indices, idle.lengths, idle.num_tokens) == ((), (1,), 0)
    assert (float(idle.mask_T.sum()), idle.advantage_B.tolist()) == (0.0, [0.0])


@settings(max_examples=30)
@given(batches_of_samples, st.integers(1, 60))
def test_rows_hold_every_sample_once_and_no_padding(many: list[Sample], max_tokens: int) -> None:
    rows = packed(many, max_tokens)

    assert sorted(index for row in rows for index in row.indices) == list(range(len(many)))
    assert sum(len(row.token_ids_T) for row in rows) == sum(map(positions_of, many))
    assert sum(row.num_tokens for row in rows) == sum(len(sample.token_ids) for sample in many)


@settings(max_examples=30)
@given(batches_of_samples, st.integers(1, 60))
def test_what_is_masked_in_is_the_response_and_its_sampled_logprobs(many: list[Sample], max_tokens: int) -> None:
    parts = {
        index: (labels[mask == 1].tolist(), sampled[mask == 1].tolist())
        for row in packed(many, max_tokens)
        for index, labels, mask, sampled in zip(
            row.indices,
            *(torch.split(part, list(row.lengths)) for part in (row.labels_T, row.mask_T, row.sampled_T)),
            strict=True,
        )
    }

    assert [parts[index][0] for index in range(len(many))] == [
        list(sample.token_ids[sample.first_loss_token :]) for sample in many
    ]
    assert [parts[index][1] for index in range(len(many))] == [list(item.sampled_logprobs) for item in many]


def step(objective: ObjectiveSpec, rows: list[MicroBatch], many: list[Sample]) -> tuple[float, torch.Tensor]:
    """Return loss and gradient of one step of a causal toy model: the next token from the running sum of embeddings."""
    table = torch.linspace(-1, 1, VOCABULARY * VOCABULARY, dtype=torch.float64).reshape(VOCABULARY, VOCABULARY)
    table.requires_grad_()
    loss = torch.zeros((), dtype=torch.float64)
    size = StepSize(len(many), sum(len(sample.sampled_logprobs) for sample in many))
    for row in rows:
        states = [part.cumsum(0).tanh() for part in torch.split(table[row.token_ids_T], list(row.lengths))]
        logprob_T = torch.cat(states).log_softmax(-1).gather(-1, row.labels_T[:, None])[:, 0]
        sampled_T = row.sampled_T.double()
        found = Likelihoods(logprob_T, sampled_T, sampled_T - 0.1, row.mask_T.double(), torch.tensor(row.lengths))
        loss = loss + policy_loss(objective, found, row.advantage_B.double(), size)
    (gradient,) = torch.autograd.grad(loss, table)
    return loss.item(), gradient


@pytest.mark.parametrize("name", ObjectiveName)
@settings(max_examples=15)
@given(batches_of_samples, st.integers(1, 60), st.randoms(use_true_random=False))
def test_loss_and_gradient_do_not_depend_on_rows_nor_on_the_order_within_them(
    name: ObjectiveName, many: list[Sample], max_tokens: int, random: Random
) -> None:
    objective = ObjectiveSpec(name=name, max_importance_weight=1.5)
    together_loss, together = step(objective, packed(many, 10_000), many)
    shuffled = random.sample(many, len(many))

    loss, gradient = step(objective, packed(shuffled, max_tokens), many)

    assert loss == pytest.approx(together_loss, rel=1e-9, abs=1e-9)
    torch.testing.assert_close(gradient, together, rtol=1e-9, atol=1e-9)


@settings(max_examples=30)
@given(batches_of_samples, st.sampled_from([1, 2, 4, 64]))
def test_what_fills_a_row_up_adds_nothing(many: list[Sample], multiple: int) -> None:
    rows = pack([positions_of(sample) for sample in many], 30, at_least=3)

    filled = make_micro_batches(many, rows, CPU, multiple=multiple, equal=True)

    assert len({len(row.token_ids_T) for row in filled}) == 1
    assert {len(row.token_ids_T) % multiple for row in filled} == {0}
    assert {sum(row.lengths) == len(row.token_ids_T) for row in filled} == {True}
    loss, gradient = step(ObjectiveSpec(), filled, many)
    expected_loss, expected = step(ObjectiveSpec(), packed(many, 30), many)
    assert loss == pytest.approx(expected_loss, rel=1e-12, abs=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=30)
@given(batches_of_samples, st.integers(1, 60), st.sampled_from([2, 4]))
def test_positions_can_be_a_multiple_of_the_ranks_that_share_them(
    many: list[Sample], max_tokens: int, multiple: int
) -> None:
    rows = pack([positions_of(sample) for sample in many], max_tokens)

    filled = make_micro_batches(many, rows, CPU, multiple=multiple)

    assert {len(row.token_ids_T) % multiple for row in filled} == {0}
    assert sum(len(row.token_ids_T) for row in filled) < sum(map(positions_of, many)) + multiple * len(rows)
