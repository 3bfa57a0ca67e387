"""Export: a rank writes its share of the weights straight into the segment, in the layout that the server binds."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from tandem_api.weights import Piece
from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.segments.layout import Placed, SegmentLayout
from tandem_checkpoint.segments.manifest import checksum
from tandem_checkpoint.segments.store import map_for_writing
from tandem_sidecars.megatron.weights import from_megatron


class SegmentWriter:
    """Writes generations into the pod's segments; a mapping is kept, so its pages are faulted in only once."""

    def __init__(self, layout: SegmentLayout, policy: PolicyConfig, local_rank: int, num_local_ranks: int) -> None:
        self._layout = layout
        self._policy = policy
        self._share = slice(local_rank, None, num_local_ranks)
        self._mapped: dict[Path, torch.Tensor] = {}

    def write(self, path: Path, parameters: Mapping[str, torch.Tensor]) -> tuple[Piece, ...]:
        """Write this rank's share: with data parallelism every local rank holds all, so they take turns by parameter.

        Args: parameters: Megatron's parameters by name, on the device or parked.
        Returns: the pieces written, with their checksums.
        """
        segment = self._map(path)
        return tuple(self._pieces(segment, parameters))

    def _map(self, path: Path) -> torch.Tensor:
        if path not in self._mapped:
            self._mapped[path] = torch.frombuffer(map_for_writing(path), dtype=torch.uint8)
        return self._mapped[path]

    def _pieces(self, segment: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> Iterator[Piece]:
        for parameter in self._layout.parameters[self._share]:
            tensors = from_megatron(parameter.rule, parameters[parameter.rule.megatron].detach(), self._policy)
            for placed, tensor in zip(parameter.tensors, tensors, strict=True):
                yield _write_piece(segment, placed, tensor)


def _write_piece(segment: torch.Tensor, placed: Placed, tensor: torch.Tensor) -> Piece:
    target = segment[placed.offset_bytes : placed.offset_bytes + placed.num_bytes]
    target.view(tensor.dtype).view(placed.tensor.shape).copy_(tensor)
    return Piece(
        tensor=placed.tensor.name,
        start=(0,) * len(placed.tensor.shape),
        stop=placed.tensor.shape,
        offset_bytes=placed.offset_bytes,
        num_bytes=placed.num_bytes,
        crc32=checksum(target.numpy().data),
    )
