"""Fingerprints add up to the same number in every layout, and any mistake that layouts can make shows."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tandem_api.weights import BoxFingerprint, TensorInfo
from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.layouts.place import ServerPlace, TrainerSplit
from tandem_checkpoint.layouts.server import server_layout
from tandem_checkpoint.layouts.strip import LocalParameter
from tandem_checkpoint.layouts.trainer import trainer_layout
from tandem_checkpoint.segments.holdings import holding_of
from tandem_sidecars import fingerprint
from tandem_sidecars.fingerprint import COLUMN, MODULUS, ROW, fingerprint_of, fingerprints_of
from tests.tandem_checkpoint.layouts.models import Numbers, model, models, places_of, put_in, split_models, tensors_of

FLOAT, HALF = torch.float32, torch.bfloat16
WORD = np.uint64


def keys(first: int, length: int, axis: int) -> NDArray[np.uint64]:
    """splitmix64 (Steele, Lea and Flood 2014) of some indices, made odd; in NumPy's own 64-bit numbers."""
    mixed = np.arange(first, first + length, dtype=WORD) * WORD(0x9E3779B97F4A7C15) + WORD(axis)
    mixed = (mixed ^ (mixed >> WORD(30))) * WORD(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> WORD(27))) * WORD(0x94D049BB133111EB)
    return (mixed ^ (mixed >> WORD(31))) | WORD(1)


def reference(tensor: Numbers) -> int:
    """Return the fingerprint of a whole tensor of float32 whose bits are these numbers, element by element."""
    whole = tensor.reshape(len(tensor), -1)
    counted = (whole.astype(np.int64) + (1 + 2**31)).astype(WORD)
    products = counted * keys(0, whole.shape[0], ROW)[:, None] * keys(0, whole.shape[1], COLUMN)[None, :]
    return int(products.sum(dtype=WORD))


def references(policy: PolicyConfig) -> dict[str, int]:
    return {name: reference(tensor) for name, tensor in tensors_of(policy).items()}


def infos(policy: PolicyConfig) -> tuple[TensorInfo, ...]:
    tensors = tensors_of(policy).items()
    return tuple(TensorInfo(name=name, dtype="float32", shape=tensor.shape) for name, tensor in tensors)


def held(layouts: Sequence[Sequence[LocalParameter]], tensors: Mapping[str, Numbers]) -> list[BoxFingerprint]:
    """Return what ranks with these layouts tell: their numbers are the bits of float32."""
    formats = dict.fromkeys(tensors, FLOAT)
    return [
        box
        for layout in layouts
        for box in fingerprints_of(
            ((item, torch.from_numpy(put_in(item, tensors)).view(FLOAT)) for item in layout), formats
        )
    ]


@given(split_models(), st.sampled_from([1, 2]))
def test_a_trainers_ranks_add_up_to_whole_tensors_in_every_layout(
    case: tuple[PolicyConfig, TrainerSplit], copies: int
) -> None:
    policy, split = case
    layouts = [trainer_layout(policy, place) for place in places_of(split, copies)]

    found = holding_of("the trainer", held(layouts, tensors_of(policy)), infos(policy))

    assert found.mistakes == ()
    assert found.fingerprints == references(policy)


@given(models(), st.sampled_from([1, 2, 4]), st.booleans())
def test_a_servers_workers_add_up_to_whole_tensors_in_every_layout(
    policy: PolicyConfig, num_ranks: int, has_expert_parallel: bool
) -> None:
    policy = policy if policy.num_heads % num_ranks == 0 else model(policy.architecture)
    places = [ServerPlace(num_ranks, rank, has_expert_parallel) for rank in range(num_ranks)]

    found = holding_of(
        "a server", held([server_layout(policy, place) for place in places], tensors_of(policy)), infos(policy)
    )

    assert found.mistakes == ()
    assert found.fingerprints == references(policy)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32), st.sampled_from([FLOAT, HALF]), st.data())
def test_boxes_add_up_however_a_tensor_is_cut(
    rows: int, columns: int, seed: int, dtype: torch.dtype, data: st.DataObject
) -> None:
    tensor = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).to(dtype)
    row, column = data.draw(st.integers(0, rows)), data.draw(st.integers(0, columns))
    corners = [((0, row), (0, columns)), ((row, rows), (0, column)), ((row, rows), (column, columns))]

    parts = [
        fingerprint_of(tensor[top:bottom, left:right], (top, left), dtype) for (top, bottom), (left, right) in corners
    ]

    assert sum(parts) % MODULUS == fingerprint_of(tensor, (0, 0), dtype)


def test_how_much_is_summed_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.randn(37, 11)
    whole = fingerprint_of(tensor, (5, 3), FLOAT)

    monkeypatch.setitem(fingerprint.CHUNK, "cpu", 24)

    assert fingerprint_of(tensor, (5, 3), FLOAT) == whole


def test_another_format_is_converted_as_an_export_converts_it() -> None:
    tensor = torch.randn(8, 8)

    assert fingerprint_of(tensor, (0, 0), HALF) == fingerprint_of(tensor.to(HALF), (0, 0), HALF)


def test_a_vector_is_a_tensor_with_one_column() -> None:
    vector = torch.randn(9)

    assert fingerprint_of(vector, (4,), FLOAT) == fingerprint_of(vector[:, None], (4, 0), FLOAT)


SQUARE = torch.arange(1.0, 65.0).view(8, 8)
SWAPPED = SQUARE.clone()
SWAPPED[[2, 5]] = SWAPPED[[5, 2]]
SIGNED = SQUARE.clone()
SIGNED[3, 4] *= -1
MOVED = SQUARE.roll(1, dims=1)
ZEROED = SQUARE.clone()
ZEROED[7, 7] = 0.0


@pytest.mark.parametrize(
    "wrong", [SQUARE.T, SWAPPED, SIGNED, MOVED, ZEROED], ids=["transposed", "rows", "sign", "moved", "zero"]
)
def test_mistakes_of_layout_change_it(wrong: torch.Tensor) -> None:
    assert fingerprint_of(wrong, (0, 0), FLOAT) != fingerprint_of(SQUARE, (0, 0), FLOAT)


@given(st.integers(0, 2**31 - 2), st.integers(0, 31), st.integers(0, 63))
def test_a_single_wrong_bit_always_shows(number: int, bit: int, place: int) -> None:
    bits = torch.full((8, 8), number, dtype=torch.int32)
    wrong = bits.clone()
    wrong.view(-1)[place] ^= (1 << bit) if bit < 31 else -(1 << 31)

    assert fingerprint_of(wrong.view(FLOAT), (0, 0), FLOAT) != fingerprint_of(bits.view(FLOAT), (0, 0), FLOAT)


def test_zeros_that_are_left_out_show() -> None:
    zeros = torch.zeros(8, 8)

    assert fingerprint_of(zeros[:7], (0, 0), FLOAT) != fingerprint_of(zeros, (0, 0), FLOAT)
