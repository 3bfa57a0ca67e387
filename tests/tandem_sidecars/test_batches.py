"""Micro-batches: every sample once, no more tokens than allowed, and labels that are the next tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_api.engine import Sample
from tandem_api.job.recipe import ObjectiveSpec
from tandem_sidecars.megatron.batches import MicroBatch, idle_micro_batch, make_micro_batches
from tandem_sidecars.megatron.objective import Likelihoods, StepSize, policy_loss

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


def test_a_batch_by_hand() -> None:
    long = Sample(token_ids=(1, 2, 3, 4, 5), first_loss_token=3, sampled_logprobs=(-0.25, -0.5), advantage=1.0)
    short = Sample(token_ids=(6, 7, 8), first_loss_token=1, sampled_logprobs=(-1.0, -2.0), advantage=-1.0)

    (batch,) = make_micro_batches([long, short], max_tokens=8, device=CPU)

    assert batch.indices == (1, 0)
    assert batch.token_ids_BS.tolist() == [[6, 7, 0, 0], [1, 2, 3, 4]]
    assert batch.labels_BS.tolist() == [[7, 8, 0, 0], [2, 3, 4, 5]]
    assert batch.mask_BS.tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert batch.sampled_BS.tolist() == [[-1.0, -2.0, 0, 0], [0, 0, -0.25, -0.5]]
    assert batch.advantage_B.tolist() == [-1.0, 1.0]
    assert batch.num_tokens == 8


def test_a_batch_that_would_be_too_wide_becomes_two() -> None:
    sample = Sample(token_ids=(1, 2, 3, 4, 5), first_loss_token=1, sampled_logprobs=(0, 0, 0, 0), advantage=0.0)

    assert [batch.token_ids_BS.shape for batch in make_micro_batches([sample] * 3, 8, CPU)] == [(2, 4), (1, 4)]


def test_a_sample_that_is_longer_than_allowed_gets_a_batch_of_its_own() -> None:
    sample = Sample(token_ids=tuple(range(1, 10)), first_loss_token=8, sampled_logprobs=(0.0,), advantage=0.0)

    assert [batch.token_ids_BS.shape for batch in make_micro_batches([sample, sample], 3, CPU)] == [(1, 8), (1, 8)]


def test_no_samples_make_no_batch() -> None:
    assert make_micro_batches([], 8, CPU) == []


@settings(max_examples=30)
@given(batches_of_samples, st.integers(1, 60))
def test_every_sample_is_in_exactly_one_batch(many: list[Sample], max_tokens: int) -> None:
    batches = make_micro_batches(many, max_tokens, CPU)

    assert sorted(index for batch in batches for index in batch.indices) == list(range(len(many)))
    assert sum(batch.num_tokens for batch in batches) == sum(len(sample.token_ids) for sample in many)


@settings(max_examples=30)
@given(batches_of_samples, st.integers(1, 60))
def test_no_batch_of_several_samples_passes_the_limit(many: list[Sample], max_tokens: int) -> None:
    shapes = [batch.token_ids_BS.shape for batch in make_micro_batches(many, max_tokens, CPU)]

    assert all(rows == 1 or rows * columns <= max_tokens for rows, columns in shapes)


@settings(max_examples=30)
@given(batches_of_samples, st.integers(1, 60))
def test_what_is_masked_in_is_the_response_and_its_sampled_logprobs(many: list[Sample], max_tokens: int) -> None:
    rows = {
        index: (batch.labels_BS[row][batch.mask_BS[row] == 1], batch.sampled_BS[row][batch.mask_BS[row] == 1])
        for batch in make_micro_batches(many, max_tokens, CPU)
        for row, index in enumerate(batch.indices)
    }

    assert [rows[index][0].tolist() for index in range(len(many))] == [
        list(sample.token_ids[sample.first_loss_token :]) for sample in many
    ]
    assert [rows[index][1].tolist() for index in range(len(many))] == [list(item.sampled_logprobs) for item in many]


def step(batches: list[MicroBatch], num_samples: int) -> tuple[float, torch.Tensor]:
    """Return loss and gradient of one step of a causal toy model: the next token from the running sum of embeddings."""
    table = torch.linspace(-1, 1, VOCABULARY * VOCABULARY, dtype=torch.float64).reshape(VOCABULARY, VOCABULARY)
    table.requires_grad_()
    loss = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        logprob_BSV = table[batch.token_ids_BS].cumsum(1).tanh().log_softmax(-1)
        logprob_BS = logprob_BSV.gather(-1, batch.labels_BS[..., None])[..., 0]
        sampled_BS = batch.sampled_BS.double()
        found = Likelihoods(logprob_BS, sampled_BS, sampled_BS, batch.mask_BS)
        loss = loss + policy_loss(ObjectiveSpec(), found, batch.advantage_B, StepSize(num_samples, 0))
    (gradient,) = torch.autograd.grad(loss, table)
    return loss.item(), gradient


@settings(max_examples=30)
@given(batches_of_samples, st.integers(1, 60))
def test_loss_and_gradient_do_not_depend_on_the_split(many: list[Sample], max_tokens: int) -> None:
    together_loss, together = step(make_micro_batches(many, 10_000, CPU), len(many))

    loss, gradient = step(make_micro_batches(many, max_tokens, CPU), len(many))

    assert loss == pytest.approx(together_loss, rel=1e-9, abs=1e-9)
    torch.testing.assert_close(gradient, together, rtol=1e-9, atol=1e-9)


@settings(max_examples=30)
@given(batches_of_samples)
def test_an_idle_batch_adds_nothing(many: list[Sample]) -> None:
    batches = make_micro_batches(many, 30, CPU)

    loss, gradient = step([*batches, idle_micro_batch(CPU)], len(many))
    expected_loss, expected = step(batches, len(many))

    assert loss == expected_loss
    assert torch.equal(gradient, expected)


def test_an_idle_batch_counts_no_sample_and_no_token() -> None:
    idle = idle_micro_batch(CPU)

    assert (idle.indices, idle.num_tokens, float(idle.mask_BS.sum())) == ((), 0, 0.0)


@settings(max_examples=30)
@given(batches_of_samples, st.integers(8, 60), st.sampled_from([1, 2, 4]))
def test_batches_for_chunks_of_a_stage_have_one_shape(many: list[Sample], max_tokens: int, multiple: int) -> None:
    batches = make_micro_batches(many, max_tokens, CPU, multiple=multiple, equal=True)

    ((rows, columns),) = {tuple(batch.token_ids_BS.shape) for batch in batches}
    assert columns % multiple == 0
    assert rows == 1 or rows * columns <= max_tokens
    assert sorted(index for batch in batches for index in batch.indices) == list(range(len(many)))
    assert sum(float(batch.mask_BS.sum()) for batch in batches) == sum(len(item.sampled_logprobs) for item in many)


@settings(max_examples=30)
@given(batches_of_samples, st.integers(1, 60), st.sampled_from([2, 4]))
def test_positions_can_be_a_multiple_of_the_ranks_that_share_them(
    many: list[Sample], max_tokens: int, multiple: int
) -> None:
    batches = make_micro_batches(many, max_tokens, CPU, multiple=multiple)

    assert {batch.token_ids_BS.shape[1] % multiple for batch in batches} == {0}
    assert idle_micro_batch(CPU, (3, multiple)).token_ids_BS.shape == (3, multiple)
