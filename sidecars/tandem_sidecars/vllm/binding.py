"""Putting a generation into a model: compare everything first, then point to the segment or copy from it.

vLLM may repack weights after loading them and leave empty tensors behind (on a CPU: oneDNN). Writing into such a model
fails halfway, with some weights new and others old. So every parameter is compared before the first byte is written,
and what vLLM derives from weights is made anew after the last.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

import torch
from torch import nn

from tandem_checkpoint.architectures.config import read_policy_config
from tandem_checkpoint.layouts.place import ServerPlace
from tandem_checkpoint.segments.extents import Extent, can_map, map_extents
from tandem_checkpoint.segments.layout import segment_layout
from tandem_checkpoint.segments.manifest import BrokenSegment, Manifest
from tandem_checkpoint.segments.slices import Box, RankParameter, rank_parameters
from tandem_checkpoint.segments.store import map_for_reading
from tandem_sidecars.vllm.derived import Derived, derived_parameters, remake

Parameters = Mapping[str, torch.Tensor]
Index = tuple[int | slice, ...]
Sources = tuple[tuple[Index, torch.Tensor], ...]
MAX_EXTENTS = 256
"""A parameter of more pieces is copied: the kernel lets a process have 65530 mappings."""


@dataclass(frozen=True, slots=True)
class Place:
    """One parameter of the model, and what it shall hold: views of the segment, each with the part it goes to."""

    parameter: torch.Tensor
    sources: Sources


@dataclass(frozen=True, slots=True)
class Fit:
    """A generation that fits a model in every parameter."""

    generation: int
    places: tuple[Place, ...]
    derived: tuple[Derived, ...] = ()

    @property
    def can_point(self) -> bool:
        """Whether the model can read the segment itself: it lives on the CPU."""
        return all(place.parameter.device.type == "cpu" for place in self.places)

    def point(self) -> None:
        """Point each parameter to its place in the segment; only what lies there in several is copied."""
        point(self.places)
        remake(self.derived, points=True)

    def copy(self) -> None:
        """Copy each parameter from its place in the segment into the memory that it has."""
        copy(self.places)
        remake(self.derived, points=False)


class Segments:
    """Segments as this process has mapped them: a second reading of one finds its pages in place."""

    def __init__(self) -> None:
        self._mapped: dict[Path, tuple[tuple[int, int, int], torch.Tensor]] = {}
        self._joined: dict[Path, dict[tuple[Extent, ...], torch.Tensor]] = {}

    def bytes_of(self, path: Path) -> torch.Tensor:
        """Return a segment as uint8 [bytes]; what its writer writes later is seen too. Errors: SegmentError."""
        try:
            status = path.stat()
        except FileNotFoundError:
            self._forget(path)
            return torch.frombuffer(map_for_reading(path), dtype=torch.uint8)
        identity = (status.st_dev, status.st_ino, status.st_size)
        kept = self._mapped.get(path)
        if kept is None or kept[0] != identity:
            self._forget(path)
            kept = (identity, torch.frombuffer(map_for_reading(path), dtype=torch.uint8))
            self._mapped[path] = kept
        return kept[1]

    def joined(self, path: Path, extents: tuple[Extent, ...]) -> torch.Tensor:
        """Return extents of a segment, whole pages, end to end as uint8 [bytes]. Errors: SegmentError.

        To be asked after `bytes_of`, which sees whether the segment is still the same.
        """
        kept = self._joined.setdefault(path, {})
        if extents not in kept:
            kept[extents] = torch.frombuffer(map_extents(path, extents), dtype=torch.uint8)
        return kept[extents]

    def _forget(self, path: Path) -> None:
        self._mapped.pop(path, None)
        self._joined.pop(path, None)


def fit(
    model: nn.Module, manifest: Manifest, policy: Path, segments: Segments, place: ServerPlace | None = None
) -> Fit:
    """Return where each parameter of a rank's model comes from; write nothing.

    Raises: BrokenSegment where a name, a shape, a number format or a size differs, or where the model's own memory is
    not there. SegmentError where the segment is missing.
    """
    place = place or ServerPlace()
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
    wanted = rank_parameters(
        layout,
        config,
        place.tensor,
        place.num_tensor,
        has_expert_parallel=place.has_expert_parallel,
        stage=place.pipeline,
        num_stages=place.num_pipeline,
    )
    parameters, derived = dict(model.named_parameters()), derived_parameters(model)
    made = {item.name for item in derived}
    compare({name: item for name, item in parameters.items() if name not in made}, wanted)
    path = Path(manifest.segment)
    num_bytes = segments.bytes_of(path).numel()
    if num_bytes < layout.num_bytes:
        raise BrokenSegment(f"{manifest.segment} has {num_bytes} bytes instead of {layout.num_bytes}")
    return Fit(manifest.generation, places(parameters, wanted, segments, path), derived)


def compare(parameters: Parameters, wanted: Sequence[RankParameter]) -> None:
    """Raise BrokenSegment unless each parameter is there in its shape and format, with memory for all of it."""
    _compare_names({item.name for item in wanted}, parameters.keys())
    for item in wanted:
        target, dtype = parameters[item.name], getattr(torch, item.dtype)
        if tuple(target.shape) != item.shape or target.dtype is not dtype:
            raise BrokenSegment(
                f"{item.name} is {tuple(target.shape)} {target.dtype} in the server, "
                f"{item.shape} {dtype} in the segment"
            )
        if not _is_row_major(target) or target.untyped_storage().nbytes() < target.numel() * target.element_size():
            raise BrokenSegment(f"{item.name} has no plain memory in the server; it was repacked or freed")


def places(
    parameters: Parameters, wanted: Sequence[RankParameter], segments: Segments, path: Path
) -> tuple[Place, ...]:
    """Return the place of each parameter in a segment. Errors: as for `Segments`."""
    return tuple(Place(parameters[item.name], _sources(item, segments, path)) for item in wanted)


def point(items: Sequence[Place]) -> None:
    """Point each parameter to its place in the segment; only what lies there in several is copied."""
    for place in items:
        if len(place.sources) == 1:
            place.parameter.data = place.sources[0][1]
        else:
            copy([place])


def copy(items: Sequence[Place]) -> None:
    """Copy each parameter from its place in the segment into the memory that it has."""
    with torch.no_grad():
        for place in items:
            for into, source in place.sources:
                place.parameter[into].copy_(source, non_blocking=True)


def _sources(wanted: RankParameter, segments: Segments, path: Path) -> Sources:
    """Return what a parameter holds: one view of the segment wherever that can be, else one of each box."""
    whole, dtype = segments.bytes_of(path), getattr(torch, wanted.dtype)
    view = _even_view(whole, wanted, dtype)
    if view is not None:
        return (((), view),)
    extents = _extents(wanted, dtype)
    if extents:
        return (((), segments.joined(path, extents).view(dtype).view(wanted.shape)),)
    return tuple((box.in_parameter, _view(whole, box, dtype)) for box in wanted.boxes)


def _even_view(segment: torch.Tensor, wanted: RankParameter, dtype: torch.dtype) -> torch.Tensor | None:
    """Return the view of a parameter that is one box, or the same box of experts that lie evenly; None: it is not."""
    boxes, first = wanted.boxes, wanted.boxes[0]
    view = _view(segment, first, dtype)
    if len(boxes) == 1:
        return view.view(wanted.shape)
    steps = {other.offset_bytes - one.offset_bytes for one, other in pairwise(boxes)}
    corners = {(box.shape, box.start, box.stop) for box in boxes}
    if len(boxes) != wanted.shape[0] or len(first.into) == len(first.shape) or len(steps) > 1 or len(corners) > 1:
        return None
    step = steps.pop() // dtype.itemsize
    plain = segment[: segment.numel() // dtype.itemsize * dtype.itemsize].view(dtype)
    return plain.as_strided(wanted.shape, (step, *view.stride()), view.storage_offset())


def _extents(wanted: RankParameter, dtype: torch.dtype) -> tuple[Extent, ...]:
    """Return what to map end to end for a parameter of several boxes; nothing where that cannot be done."""
    if len(wanted.boxes) > MAX_EXTENTS or not all(box.is_whole_rows for box in wanted.boxes):
        return ()
    extents = tuple(box.extent(dtype.itemsize) for box in wanted.boxes)
    return extents if can_map(extents) else ()


def _compare_names(wanted: Set[str], found: Set[str]) -> None:
    if wanted != found:
        odd = ", ".join(sorted(wanted ^ found)[:3])
        raise BrokenSegment(f"server and segment differ in their parameters: {odd}")


def _is_row_major(parameter: torch.Tensor) -> bool:
    """Tell whether rows follow each other, each without a gap; one that reads a segment may skip columns there."""
    lengths, strides = parameter.shape, parameter.stride()
    apart = zip(strides, lengths[1:], strides[1:], strict=False)
    return parameter.dim() < 2 or (strides[-1] == 1 and all(stride >= length * step for stride, length, step in apart))


def _view(segment: torch.Tensor, box: Box, dtype: torch.dtype) -> torch.Tensor:
    """Return a box of the segment as a tensor of the model's format; strided where columns are cut."""
    num_bytes = prod(box.shape) * dtype.itemsize
    whole = segment[box.offset_bytes : box.offset_bytes + num_bytes].view(dtype).view(box.shape)
    return whole[tuple(slice(start, stop) for start, stop in zip(box.start, box.stop, strict=True))]
