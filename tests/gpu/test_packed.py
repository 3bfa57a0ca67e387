"""The varlen kernel on a GPU attends as torch's own does to each sample."""

import pytest
import torch

from tandem_sidecars.megatron.packed import attend_by_flash, attend_in_bands, has_flash, sdpa

LENGTHS = [5, 300, 1, 64, 17]
SCALE = 0.1


@pytest.mark.parametrize(
    ("heads", "groups", "width", "value_width"),
    [(8, 8, 64, 64), (8, 2, 128, 128), (4, 4, 192, 128)],
    ids=["heads of their own", "grouped heads", "latent attention"],
)
def test_flash_gives_the_context_and_the_gradients_of_samples_side_by_side(
    heads: int, groups: int, width: int, value_width: int
) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = ((heads, width), (groups, width), (groups, value_width))
    query, key, value = (
        torch.randn(sum(LENGTHS), *shape, dtype=torch.bfloat16, device="cuda", generator=generator).requires_grad_()
        for shape in shapes
    )
    ends = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist()], dtype=torch.int32, device="cuda")
    assert has_flash(query)

    found = attend_by_flash(query, key, value, ends, max(LENGTHS), SCALE)
    expected = attend_in_bands(query.double(), key.double(), value.double(), LENGTHS, sdpa(SCALE))

    torch.testing.assert_close(found.double(), expected, rtol=0.02, atol=0.02)
    torch.testing.assert_close(
        torch.autograd.grad(found.float().square().sum(), (query, key, value)),
        torch.autograd.grad(expected.square().sum(), (query, key, value)),
        rtol=0.05,
        atol=0.1,
    )
