"""What an offload should have freed and did not."""

from tandem_checkpoint.process.commands import Freed

TOLERATED_SHARE = 0.05
TOLERATED_BYTES = 4 << 20
"""What a measure may fall short by: pages that small tensors share with others, and what the process does meanwhile."""


def shortfall_bytes(freed: Freed) -> int:
    """Return what was not freed though it should have been; 0 within what a measure may fall short by."""
    missing = freed.expected_bytes - freed.measured_bytes
    return missing if missing > max(TOLERATED_BYTES, freed.expected_bytes * TOLERATED_SHARE) else 0
