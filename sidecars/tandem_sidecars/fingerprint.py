"""Fingerprints of boxes: whoever holds which part of a tensor, they add up to the same number, without a gather.

An element counts as its bits, as a number from 1 on, times a key of its row times a key of its column, modulo 2**64.
Keys are odd, so a single wrong element always shows; any other mistake that nobody aims at the keys goes unseen about
once in 2**32 times or less often. That the numbers begin with 1 has an element count that is 0, so that a box that is
left out, or counted twice, shows as well. The two axes have keys of their own, so a square matrix is not its transpose.
"""

from collections.abc import Iterable

import torch

from tandem_api.weights import BoxFingerprint
from tandem_checkpoint.layouts.strip import LocalParameter, Strip

MODULUS = 1 << 64
CHUNK = {"cpu": 1 << 18, "cuda": 1 << 22}
"""Elements that are summed at once: on a CPU as many as stay in its cache with their 8-byte products; on a GPU what
takes 64 MiB, as a server leaves little free."""
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32}
"""What the bits of an element are read as, by its size."""
ROW, COLUMN = 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179
"""What sets the keys of the two axes apart."""


def fingerprint_of(box: torch.Tensor, start: tuple[int, ...], dtype: torch.dtype) -> int:
    """Return the fingerprint of a box of a tensor with one axis or two.

    Args: start: its first index in the whole tensor. dtype: the format that it is handed over in; another one of the
    box is converted on the way.
    """
    if box.dim() == 1:
        box, start = box[:, None], (*start, 0)
    rows, columns = (_keys(first, length, axis, box.device) for first, length, axis in _axes(box, start))
    step = max(1, CHUNK[box.device.type] // max(1, box.shape[1]))
    integers = INTEGERS[dtype.itemsize]
    products = torch.zeros((), dtype=torch.int64, device=box.device)
    for row in range(0, box.shape[0], step):
        bits = box[row : row + step].to(dtype).view(integers).to(torch.int64)
        products += ((bits * columns).sum(1) * rows[row : row + step]).sum()
    lowest = torch.iinfo(integers).min
    return (int(products) + (1 - lowest) * int(rows.sum()) * int(columns.sum())) % MODULUS


def fingerprints_of(
    parameters: Iterable[tuple[LocalParameter, torch.Tensor]], dtypes: dict[str, torch.dtype]
) -> tuple[BoxFingerprint, ...]:
    """Return the fingerprints of some parameters' boxes. Args: dtypes: formats that tensors are handed over in."""
    found = []
    for local, parameter in parameters:
        tensor = parameter.detach()
        for strip in local.strips:
            box = tensor[strip.in_parameter]
            found.append(told(strip, fingerprint_of(box, strip.tensor_start, dtypes[strip.tensor])))
    return tuple(found)


def told(strip: Strip, value: int) -> BoxFingerprint:
    """Return the fingerprint of a strip's box as it is sent."""
    return BoxFingerprint(tensor=strip.tensor, start=strip.tensor_start, stop=strip.tensor_stop, value=value)


def _axes(box: torch.Tensor, start: tuple[int, ...]) -> Iterable[tuple[int, int, int]]:
    return zip(start, box.shape, (ROW, COLUMN), strict=True)


def _keys(first: int, length: int, axis: int, device: torch.device) -> torch.Tensor:
    """Return the keys of some indices of an axis, int64: numbers as if by chance, all odd (splitmix64's mixing)."""
    mixed = torch.arange(first, first + length, device=device) * _signed(0x9E3779B97F4A7C15) + _signed(axis)
    mixed = (mixed ^ _shifted(mixed, 30)) * _signed(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ _shifted(mixed, 27)) * _signed(0x94D049BB133111EB)
    return (mixed ^ _shifted(mixed, 31)) | 1


def _shifted(numbers: torch.Tensor, places: int) -> torch.Tensor:
    """Return 64-bit numbers shifted to the right, with zeros from the left: torch's own shift keeps the sign."""
    return (numbers >> places) & ((1 << (64 - places)) - 1)


def _signed(number: int) -> int:
    """Return a 64-bit number as torch takes it."""
    return number - MODULUS if number >= MODULUS // 2 else number
