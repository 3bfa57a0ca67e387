"""Memory as the kernel counts it: what proves, on a CPU, that an offload has freed it."""

import pytest
import torch

from tandem_checkpoint.process.commands import Freed
from tandem_sidecars.megatron.host_memory import anonymous_bytes, give_back, memory_file, present_bytes
from tandem_sidecars.megatron.shortfall import shortfall_bytes

SIZE = 64 << 20
NEAR = 4 << 20


def present(tensor: torch.Tensor) -> int:
    return present_bytes(tensor.data_ptr(), tensor.untyped_storage().nbytes())


def test_a_written_tensor_is_anonymous_memory_and_a_parked_copy_is_not() -> None:
    before = anonymous_bytes()
    tensor = torch.ones(SIZE, dtype=torch.uint8)
    with_tensor = anonymous_bytes()
    parked = memory_file(SIZE)
    parked.copy_(tensor)

    assert with_tensor - before == pytest.approx(SIZE, abs=NEAR)
    assert anonymous_bytes() - with_tensor == pytest.approx(0, abs=NEAR)
    assert torch.equal(parked, tensor)


def test_a_tensor_that_is_shrunk_to_nothing_is_given_back() -> None:
    tensor = torch.ones(SIZE, dtype=torch.uint8)
    before = anonymous_bytes()

    tensor.untyped_storage().resize_(0)
    give_back()

    assert before - anonymous_bytes() == pytest.approx(SIZE, abs=NEAR)


def test_many_small_tensors_are_given_back_too() -> None:
    tensors = [torch.ones(64 << 10, dtype=torch.uint8) for _ in range(1024)]
    before = anonymous_bytes()

    tensors.clear()
    give_back()

    assert before - anonymous_bytes() == pytest.approx(SIZE, abs=NEAR)


def test_of_a_tensor_that_was_never_written_nothing_is_present() -> None:
    tensor = torch.empty(SIZE, dtype=torch.uint8)
    untouched = present(tensor)
    tensor.fill_(1)

    assert untouched < NEAR
    assert present(tensor) == pytest.approx(SIZE, abs=NEAR)


def test_of_nothing_nothing_is_present() -> None:
    assert present(torch.empty(0)) == 0
    assert memory_file(0).numel() == 0


@pytest.mark.parametrize(
    ("expected_bytes", "measured_bytes", "missing_bytes"),
    [(0, 0, 0), (3 << 20, 0, 0), (100 << 20, 96 << 20, 0), (100 << 20, 94 << 20, 6 << 20), (100 << 20, 200 << 20, 0)],
)
def test_a_small_difference_is_the_measure_and_a_large_one_is_not(
    expected_bytes: int, measured_bytes: int, missing_bytes: int
) -> None:
    assert shortfall_bytes(Freed(expected_bytes=expected_bytes, measured_bytes=measured_bytes)) == missing_bytes
