"""Putting a generation into a model: compare everything first, then point to the segment or copy from it.

vLLM may repack weights after loading them and leave empty tensors behind (on a CPU: oneDNN). Writing into such a model
fails halfway, with some weights new and others old. So every parameter is compared before the first byte is written.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import nn

from tandem_checkpoint.architectures.config import read_policy_config
from tandem_checkpoint.segments.layout import segment_layout
from tandem_checkpoint.segments.manifest import BrokenSegment, Manifest
from tandem_checkpoint.segments.slices import Box, RankParameter, rank_parameters
from tandem_checkpoint.segments.store import map_for_reading

Parameters = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Place:
    """One parameter of the model, and what it shall hold: views of the segment, each with the row it goes to."""

    parameter: torch.Tensor
    sources: tuple[tuple[int, torch.Tensor], ...]


@dataclass(frozen=True, slots=True)
class Fit:
    """A generation that fits a model in every parameter."""

    generation: int
    places: tuple[Place, ...]


class Segments:
    """Segments as this process has mapped them: a second reading of one finds its pages in place."""

    def __init__(self) -> None:
        self._mapped: dict[Path, tuple[tuple[int, int, int], torch.Tensor]] = {}

    def bytes_of(self, path: Path) -> torch.Tensor:
        """Return a segment as uint8 [bytes]; what its writer writes later is seen too. Errors: SegmentError."""
        try:
            status = path.stat()
        except FileNotFoundError:
            self._mapped.pop(path, None)
            return torch.frombuffer(map_for_reading(path), dtype=torch.uint8)
        identity = (status.st_dev, status.st_ino, status.st_size)
        kept = self._mapped.get(path)
        if kept is None or kept[0] != identity:
            kept = (identity, torch.frombuffer(map_for_reading(path), dtype=torch.uint8))
            self._mapped[path] = kept
        return kept[1]


def fit(
    model: nn.Module, manifest: Manifest, policy: Path, segments: Segments, rank: int = 0, num_ranks: int = 1
) -> Fit:
    """Return where each parameter of a tensor-parallel rank's model comes from; write nothing.

    Raises: BrokenSegment where a name, a shape, a number format or a size differs, or where the model's own memory is
    not there. SegmentError where the segment is missing.
    """
    config = read_policy_config(policy)
    layout = segment_layout(config, manifest.dtype)
    registered = {item.name: (item.shape, item.offset_bytes) for item in manifest.parameters}
    expected = {item.name: (item.shape, item.offset_bytes) for item in layout.parameters}
    _compare_names(registered.keys(), expected.keys())
    for name, (shape, offset_bytes) in registered.items():
        if (shape, offset_bytes) != expected[name]:
            raise BrokenSegment(
                f"{name} is {expected[name][0]} at byte {expected[name][1]} for the server's policy, "
                f"{shape} at byte {offset_bytes} in the segment"
            )
    wanted = rank_parameters(layout, config, rank, num_ranks)
    parameters = dict(model.named_parameters())
    compare(parameters, wanted, getattr(torch, manifest.dtype))
    segment = segments.bytes_of(Path(manifest.segment))
    if segment.numel() < layout.num_bytes:
        raise BrokenSegment(f"{manifest.segment} has {segment.numel()} bytes instead of {layout.num_bytes}")
    return Fit(manifest.generation, places(parameters, wanted, segment))


def compare(parameters: Parameters, wanted: Sequence[RankParameter], dtype: torch.dtype) -> None:
    """Raise BrokenSegment unless each parameter is there in its shape and format, with memory for all of it."""
    _compare_names({item.name for item in wanted}, parameters.keys())
    for item in wanted:
        target = parameters[item.name]
        if tuple(target.shape) != item.shape or target.dtype is not dtype:
            raise BrokenSegment(
                f"{item.name} is {tuple(target.shape)} {target.dtype} in the server, "
                f"{item.shape} {dtype} in the segment"
            )
        if not target.is_contiguous() or target.untyped_storage().nbytes() < target.numel() * target.element_size():
            raise BrokenSegment(f"{item.name} has no plain memory in the server; it was repacked or freed")


def places(parameters: Parameters, wanted: Sequence[RankParameter], segment: torch.Tensor) -> tuple[Place, ...]:
    """Return the place of each parameter in `segment` (uint8 [bytes])."""
    return tuple(
        Place(
            parameters[item.name],
            tuple((box.into_row, _view(segment, box, parameters[item.name].dtype)) for box in item.boxes),
        )
        for item in wanted
    )


def can_point(items: Sequence[Place]) -> bool:
    """Tell whether the model can read the segment itself: it lives on the CPU, and each parameter is one whole box."""
    return all(
        place.parameter.device.type == "cpu" and len(place.sources) == 1 and place.sources[0][1].is_contiguous()
        for place in items
    )


def point(items: Sequence[Place]) -> None:
    """Point each parameter to its place in the segment; nothing is copied."""
    for place in items:
        place.parameter.data = place.sources[0][1]


def copy(items: Sequence[Place]) -> None:
    """Copy each parameter from its place in the segment into the memory that it has."""
    with torch.no_grad():
        for place in items:
            for into_row, source in place.sources:
                place.parameter[into_row : into_row + source.shape[0]].copy_(source, non_blocking=True)


def _compare_names(wanted: Set[str], found: Set[str]) -> None:
    if wanted != found:
        odd = ", ".join(sorted(wanted ^ found)[:3])
        raise BrokenSegment(f"server and segment differ in their parameters: {odd}")


def _view(segment: torch.Tensor, box: Box, dtype: torch.dtype) -> torch.Tensor:
    """Return a box of the segment as a tensor of the model's format; strided where columns are cut."""
    num_bytes = prod(box.shape) * dtype.itemsize
    whole = segment[box.offset_bytes : box.offset_bytes + num_bytes].view(dtype).view(box.shape)
    return whole[tuple(slice(start, stop) for start, stop in zip(box.start, box.stop, strict=True))]
