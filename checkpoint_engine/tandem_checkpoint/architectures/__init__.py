"""Supported model families: one declarative table each, from which every layout follows."""

from tandem_checkpoint.architectures.qwen2 import QWEN2
from tandem_checkpoint.architectures.table import Architecture

ARCHITECTURES: dict[str, Architecture] = {architecture.name: architecture for architecture in (QWEN2,)}
"""By the name that `architectures` of config.json holds."""


class UnsupportedArchitecture(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """The policy's family has no table."""


def architecture_of(name: str) -> Architecture:
    """Return the table of a family; raise UnsupportedArchitecture naming those that have one."""
    try:
        return ARCHITECTURES[name]
    except KeyError:
        known = ", ".join(sorted(ARCHITECTURES))
        raise UnsupportedArchitecture(
            f"is {name}, which has no table; use one of {known}, or add a table beside "
            "checkpoint_engine/tandem_checkpoint/architectures/qwen2.py"
        ) from None
