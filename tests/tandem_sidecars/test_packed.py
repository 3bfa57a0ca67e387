"""Attention within the samples of a packed row."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_sidecars.megatron.packed import attend_in_bands, bands, sdpa

SCALE = 0.3
HEADS, GROUPS, WIDTH, VALUE_WIDTH = 4, 2, 6, 5
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=8)


Row = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def row(total: int, seed: int = 0) -> Row:
    """Query, key and value of a row, float64, with gradient."""
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(total, heads, width, dtype=torch.float64, generator=generator).requires_grad_()
        for heads, width in ((HEADS, WIDTH), (GROUPS, WIDTH), (GROUPS, VALUE_WIDTH))
    )
    return query, key, value


def each_alone(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Attention written out, sample by sample."""
    parts = []
    for one_query, one_key, one_value in zip(
        *(torch.split(part, lengths) for part in (query, key, value)), strict=True
    ):
        wide_key, wide_value = (part.repeat_interleave(HEADS // GROUPS, dim=1) for part in (one_key, one_value))
        scores = torch.einsum("shd,thd->hst", one_query, wide_key) * SCALE
        later = torch.ones(len(one_query), len(one_query), dtype=torch.bool).triu(1)
        weights = scores.masked_fill(later, float("-inf")).softmax(-1)
        parts.append(torch.einsum("hst,the->she", weights, wide_value))
    return torch.cat(parts)


@settings(max_examples=30, deadline=None)
@given(LENGTHS)
def test_context_and_gradients_are_those_of_each_sample_alone(lengths: list[int]) -> None:
    inputs = row(sum(lengths))
    weight = torch.linspace(-1, 1, sum(lengths), dtype=torch.float64)[:, None, None]

    found = attend_in_bands(*inputs, lengths, sdpa(SCALE))
    expected = each_alone(*inputs, lengths)

    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad((found * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        rtol=1e-10,
        atol=1e-12,
    )


def test_a_sample_does_not_see_its_neighbours() -> None:
    lengths = [3, 30, 5]
    inputs, others = row(38), row(38, seed=1)
    query, key, value = (
        torch.cat((other[:3], own[3:33], other[33:])) for own, other in zip(inputs, others, strict=True)
    )

    found = attend_in_bands(*inputs, lengths, sdpa(SCALE))
    beside_others = attend_in_bands(query, key, value, lengths, sdpa(SCALE))

    torch.testing.assert_close(beside_others[3:33], found[3:33], rtol=0, atol=1e-14)


def test_samples_that_see_each_other_would_be_told_apart() -> None:
    inputs = row(20)

    apart, together = (attend_in_bands(*inputs, lengths, sdpa(SCALE)) for lengths in ([10, 10], [20]))

    torch.testing.assert_close(apart[:10], together[:10], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(apart[10:], together[10:])


@given(st.lists(st.integers(1, 4000), max_size=60))
def test_bands_hold_every_sample_once_and_none_of_them_is_much_shorter(lengths: list[int]) -> None:
    found = bands(lengths)

    assert sorted(index for band in found for index in band) == list(range(len(lengths)))
    assert all(lengths[index] <= lengths[band[0]] for band in found for index in band)
    assert all(lengths[index] >= 0.75 * lengths[band[0]] - 16 for band in found for index in band)


def test_short_samples_are_one_band_whatever_their_lengths() -> None:
    assert len(bands([1, 5, 20, 21])) == 1


@pytest.mark.parametrize("lengths", [[1], [1, 1, 1], [64, 1]])
def test_single_positions_attend_to_themselves(lengths: list[int]) -> None:
    query, key, value = row(sum(lengths))

    found = attend_in_bands(query, key, value, lengths, sdpa(SCALE))

    torch.testing.assert_close(found[-1], value[-1].repeat_interleave(HEADS // GROUPS, dim=0))
