"""What an offload should have freed and did not."""

from tandem_checkpoint.process.commands import Freed

TOLERATED_SHARE = 0.05
"""What a measure may fall short by: what the process does meanwhile."""


def shortfall_bytes(freed: Freed, kept_bytes: int) -> int:
    """Return what was not freed though it should have been; 0 within what a measure may fall short by.

    Args: kept_bytes: what an empty device may still hold.
    """
    missing = freed.expected_bytes - freed.measured_bytes
    return missing if missing > max(kept_bytes, freed.expected_bytes * TOLERATED_SHARE) else 0
