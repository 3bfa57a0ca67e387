"""NumPy arrays over tensors that stay resizable."""

import gc

import numpy as np
import pytest
import torch

from tandem_sidecars.megatron.arrays import array_of


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.int64])
def test_an_array_is_the_tensors_own_memory(dtype: torch.dtype) -> None:
    tensor = torch.arange(24).to(dtype).view(4, 6)

    array_of(tensor)[1, 2] = 0

    assert tensor[1, 2] == 0
    assert tensor.count_nonzero() == 22


def test_a_box_that_skips_columns_is_one_array() -> None:
    tensor = torch.arange(24, dtype=torch.int32).view(4, 6)

    assert np.array_equal(array_of(tensor[1:3, 2:5]), tensor.numpy()[1:3, 2:5])


def test_a_storage_can_be_resized_after_an_array_was_made_of_it() -> None:
    tensor = torch.ones(8)

    array_of(tensor)

    tensor.untyped_storage().resize_(0)


def test_an_array_keeps_the_memory_alive() -> None:
    array = array_of(torch.full((1 << 20,), 7, dtype=torch.int32))

    gc.collect()
    other = torch.zeros(1 << 20, dtype=torch.int32)

    assert (array == 7).all()
    assert not other.any()


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), ()])
def test_shapes_without_extent_are_kept(shape: tuple[int, ...]) -> None:
    assert array_of(torch.zeros(shape)).shape == shape
