"""Pieces as a job's only rank registers them."""

from tandem_api.weights import Piece
from tandem_checkpoint.segments.layout import Placed


def whole_piece(placed: Placed, xxh3: int) -> Piece:
    """Return the piece that is a whole tensor."""
    return Piece(
        tensor=placed.tensor.name,
        start=(0,) * len(placed.tensor.shape),
        stop=placed.tensor.shape,
        offset_bytes=placed.offset_bytes,
        num_bytes=placed.num_bytes,
        xxh3=xxh3,
    )
