"""The weight manifest: where each byte of a generation lies, in canonical coordinates.

Canonical coordinates are (Hugging Face on-disk tensor name, box in the full tensor). A box is half open:
`start[i] <= index < stop[i]` on every axis.
"""

from pydantic import Field

from tandem_api.resource import Resource


class TensorInfo(Resource):
    """One tensor of the policy."""

    name: str
    """Hugging Face on-disk name."""
    dtype: str
    """torch's name of the number format: float32, bfloat16, float8_e4m3fn."""
    shape: tuple[int, ...]
    """Full shape."""


class Layout(Resource):
    """`weights/<g>/layout`: the tensor table of a generation. No lease. Written by the first exporter, create-only."""

    generation: int = Field(ge=0)
    """Version of the weights."""
    lineage: str = ""
    """See Desired."""
    tensors: tuple[TensorInfo, ...]
    """All tensors."""
    shards: tuple[str, ...]
    """Expected shards as `<pod>/<index>`; the generation is complete when all are registered."""


class Piece(Resource):
    """One box of one tensor in a segment: equal runs of bytes, as far apart as the tensor's rows are.

    A box of whole rows is one run.
    """

    tensor: str
    """Hugging Face on-disk name."""
    start: tuple[int, ...]
    """First index of the box on each axis."""
    stop: tuple[int, ...]
    """One past the last index of the box on each axis."""
    offset_bytes: int = Field(ge=0)
    """Place of its first byte in the segment."""
    num_bytes: int = Field(ge=0)
    """Size: that of all runs together."""
    num_runs: int = Field(default=1, ge=1)
    """Runs of bytes, all of one length."""
    stride_bytes: int = Field(default=0, ge=0)
    """From the start of one run to that of the next; 0 where there is one only."""
    xxh3: int = Field(ge=0)
    """XXH3 (64 bits, no seed) of its bytes, run after run."""

    @property
    def run_bytes(self) -> int:
        """Size of one run."""
        return self.num_bytes // self.num_runs

    @property
    def stop_bytes(self) -> int:
        """Place behind its last byte in the segment."""
        return self.offset_bytes + (self.num_runs - 1) * self.stride_bytes + self.run_bytes


class Shard(Resource):
    """`weights/<g>/shards/<pod>/<n>`: what one rank wrote. Lease: the exporter's. Written by the exporter's shim."""

    generation: int = Field(ge=0)
    """Version of the weights."""
    incarnation: str
    """Incarnation of the shim that registered it."""
    lineage: str = ""
    """See Desired."""
    epoch: int = Field(default=0, ge=0)
    """Epoch of the word that asked for it; 0 where it was only found again. The server beside this trainer waits for
    that of its own word, so that in every try it comes after the trainer."""
    segment: str
    """File name of the segment in the pod's shared volume."""
    segment_bytes: int = Field(ge=0)
    """Size of the whole segment."""
    pieces: tuple[Piece, ...]
    """What this rank wrote into it."""


class BoxFingerprint(Resource):
    """The fingerprint of one box of one tensor, as somebody holds it: see docs/weights.md. Those of boxes that make up
    a tensor add up, modulo 2**64, to that of the tensor."""

    tensor: str
    """Hugging Face on-disk name."""
    start: tuple[int, ...]
    """First index of the box on each axis."""
    stop: tuple[int, ...]
    """One past the last index of the box on each axis."""
    value: int = Field(ge=0)
    """The fingerprint, 64 bits."""
