"""Attention in the order of the server's kernel."""

import pytest
import torch

from tandem_sidecars.megatron import server_order
from tandem_sidecars.megatron.server_order import LANES, add_product, attend, lane_sum, pieces

SCALE = 32**-0.5


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def later(length: int) -> torch.Tensor:
    return torch.ones(length, length, dtype=torch.bool).triu(1)


@pytest.mark.parametrize("length", [1, 7, LANES, LANES + 1, 3 * LANES - 1])
def test_it_is_causal_attention(length: int) -> None:
    query, key, value = random(4, length, 32), random(5, length, 32)[:4], random(6, length, 32)[:4]

    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)

    torch.testing.assert_close(attend(query, key, value, later(length), SCALE), expected, rtol=1e-12, atol=1e-12)


def test_its_gradient_is_that_of_attention() -> None:
    inputs = [random(2 + index, 5, 4)[:2].requires_grad_() for index in range(3)]

    assert torch.autograd.gradcheck(lambda query, key, value: attend(query, key, value, later(5), 0.5), inputs)


def test_padding_on_the_right_changes_no_bit() -> None:
    query, key, value = (random(3 + index, 9, 32)[:3].float() for index in range(3))
    short = attend(query[:, :5], key[:, :5], value[:, :5], later(5), SCALE)

    assert torch.equal(attend(query, key, value, later(9), SCALE)[:, :5], short)


def test_lanes_are_added_one_after_another_in_two_halves() -> None:
    weights = torch.zeros(1, 1, LANES + 1)
    weights[0, 0, [0, 1, LANES // 2, LANES]] = torch.tensor([1.0, 2.0**-24, 2.0**-24, 2.0**-24])

    # Lane 0 takes the last key: 1 + 2^-24 rounds to 1, and so does every later addition; another order would not.
    assert lane_sum(weights).item() == 1.0
    assert weights.double().sum().item() > 1.0 + 2.0**-23


def test_a_fused_product_is_rounded_once() -> None:
    one = torch.tensor([1 + 2.0**-12])
    separate, fused = torch.tensor([-1.0 - 2.0**-11]), torch.tensor([-1.0 - 2.0**-11])

    add_product(separate, one, one, fused=False)
    add_product(fused, one, one, fused=True)

    assert (separate.item(), fused.item()) == (0.0, 2.0**-24)


def test_pieces_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = (random(3 + index, 37, 32)[:3].float() for index in range(3))
    whole = attend(query, key, value, later(37), SCALE)

    monkeypatch.setattr(server_order, "PIECE_SCORES", 5 * 37)

    assert len(list(pieces(3, 37, 37))) == 3 * 8
    assert torch.equal(attend(query, key, value, later(37), SCALE), whole)
