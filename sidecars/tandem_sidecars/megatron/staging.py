"""The way from a GPU to shared memory: two pinned buffers, one of which fills while the other is emptied.

Copies into memory that is not pinned go through a buffer of the driver's own, a chunk at a time, and hold up the
thread; those into pinned memory run beside it.
"""

from collections.abc import Iterator

import torch

BLOCK_BYTES = 32 << 20
"""Size of a buffer, unless a single row is larger."""


class Staging:
    """Brings blocks from a device to the host, in order."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._buffers = [torch.empty(0, dtype=torch.uint8), torch.empty(0, dtype=torch.uint8)]

    def brought(self, blocks: Iterator[tuple[int, torch.Tensor]]) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield each block on the host, with the number that it came with. It holds until the next one is asked for."""
        before: tuple[int, torch.Tensor, torch.cuda.Event] | None = None
        for turn, (number, block) in enumerate(blocks):
            coming = number, *self._send(block, turn % 2)
            if before is not None:
                yield _arrived(*before)
            before = coming
        if before is not None:
            yield _arrived(*before)

    def _send(self, block: torch.Tensor, turn: int) -> tuple[torch.Tensor, torch.cuda.Event]:
        """Begin the copy of a block into one of the buffers; return where it comes to, and the event of its end."""
        num_bytes = block.numel() * block.element_size()
        if self._buffers[turn].numel() < num_bytes:
            self._buffers[turn] = torch.empty(max(num_bytes, BLOCK_BYTES), dtype=torch.uint8, pin_memory=True)
        host = self._buffers[turn][:num_bytes].view(block.dtype).view(block.shape)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            host.copy_(block, non_blocking=True)
            block.record_stream(self._stream)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._stream)
        return host, event


def _arrived(number: int, host: torch.Tensor, event: torch.cuda.Event) -> tuple[int, torch.Tensor]:
    event.synchronize()
    return number, host
