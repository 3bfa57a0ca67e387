"""What trainer, servers and folder hold of each tensor, by fingerprints, and what is said where they differ."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from tandem_api.weights import BoxFingerprint, TensorInfo
from tandem_checkpoint.architectures.block_scales import FORMAT, SCALES
from tandem_checkpoint.segments.layout import SegmentLayout

MODULUS = 1 << 64
MOST_NAMED = 3
"""Tensors that are named; of the others only their number is told."""


class SelfTestFailed(Exception):  # noqa: N818 - what was found, not whose mistake it is
    """After a hand-over somebody holds other weights; nothing may be trained on what the server samples."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What one of them holds."""

    who: str
    """In words: `the trainer`."""
    fingerprints: Mapping[str, int]
    """Of whole tensors, by name."""
    mistakes: tuple[str, ...] = ()
    """What is wrong with it by itself, each in words."""

    @property
    def num_tensors(self) -> int:
        return len(self.fingerprints)


def holding_of(
    who: str, boxes: Iterable[BoxFingerprint], tensors: Sequence[TensorInfo], misfits: Sequence[str] = ()
) -> Holding:
    """Add up what ranks hold, each box once. Args: misfits: what is known to be wrong already, in words.

    Wrong too: ranks that hold a box differently, and tensors of which elements are missing or there twice.
    """
    values: dict[tuple[str, tuple[int, ...], tuple[int, ...]], int] = {}
    at_odds: dict[str, None] = {}
    for box in boxes:
        if values.setdefault((box.tensor, box.start, box.stop), box.value) != box.value:
            at_odds[box.tensor] = None
    sums: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for (tensor, start, stop), value in values.items():
        sums[tensor] = (sums.get(tensor, 0) + value) % MODULUS
        sizes[tensor] = sizes.get(tensor, 0) + prod(last - first for first, last in zip(start, stop, strict=True))
    odd = [info.name for info in tensors if sizes.get(info.name, 0) != prod(info.shape)]
    mistakes = [*misfits]
    if at_odds:
        mistakes.append(f"its ranks hold {named(list(at_odds))} differently")
    if odd:
        mistakes.append(f"elements of {named(odd)} are missing, or there twice")
    return Holding(who, {info.name: sums.get(info.name, 0) for info in tensors}, tuple(mistakes))


def plain_tensors(layout: SegmentLayout) -> tuple[TensorInfo, ...]:
    """Return the tensors that a folder has as they are handed over; those in FP8 are quantised anew, and left out."""
    scaled = {info.name for info in layout.tensors if info.dtype == FORMAT}
    return tuple(info for info in layout.tensors if info.name.removesuffix(SCALES) not in scaled)


def is_complete(boxes: Iterable[BoxFingerprint], tensors: Sequence[TensorInfo]) -> bool:
    """Tell whether boxes, each counted once, have as many elements as the tensors."""
    corners = {(box.tensor, box.start, box.stop) for box in boxes}
    held = sum(prod(last - first for first, last in zip(start, stop, strict=True)) for _, start, stop in corners)
    return held >= sum(prod(info.shape) for info in tensors)


def compare(trainer: Holding, servers: Sequence[Holding], folder: Holding | None) -> None:
    """Raise SelfTestFailed, with one line that names tensors and whose are wrong, unless all hold the same.

    Args: folder: what the trainer has loaded, if that is known.
    """
    known = [trainer, *servers, *([folder] if folder else [])]
    for holding in known:
        if holding.mistakes:
            raise SelfTestFailed(f"self-test: {holding.who}: {'; '.join(holding.mistakes)}; nothing was trained")
    for server in servers:
        odd = differing(trainer, server)
        if odd:
            raise SelfTestFailed(
                f"self-test: {server.who} differs from {trainer.who} in {named(odd)}"
                f"{_witness(odd[0], trainer, folder)}; nothing was trained. Look for a broken hand-over"
            )
    odd = differing(folder, trainer) if folder else []
    if folder and odd:
        raise SelfTestFailed(
            f"self-test: {trainer.who} and its servers differ from {folder.who} in {named(odd)}; nothing was trained. "
            "Look for a mistake in how the folder is loaded"
        )


def differing(one: Holding, other: Holding) -> list[str]:
    """Return the tensors that two hold differently, in the first one's order."""
    return [name for name, value in one.fingerprints.items() if other.fingerprints.get(name) != value]


def named(tensors: Sequence[str]) -> str:
    """Return the first tensors by name, and how many more there are."""
    more = f" and {len(tensors) - MOST_NAMED} more" if len(tensors) > MOST_NAMED else ""
    return ", ".join(tensors[:MOST_NAMED]) + more


def _witness(tensor: str, trainer: Holding, folder: Holding | None) -> str:
    """Return which side the folder speaks for."""
    if folder is None or tensor not in folder.fingerprints:
        return ""
    is_trainers = folder.fingerprints[tensor] == trainer.fingerprints[tensor]
    return f", where the trainer {'has' if is_trainers else 'has not'} what {folder.who} has"
