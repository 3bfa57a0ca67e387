"""Supported model families: one declarative table each, from which every layout follows."""

from tandem_checkpoint.architectures.deepseek_v3 import DEEPSEEK_V3
from tandem_checkpoint.architectures.llama import LLAMA
from tandem_checkpoint.architectures.mixtral import MIXTRAL
from tandem_checkpoint.architectures.qwen2 import QWEN2
from tandem_checkpoint.architectures.qwen3 import QWEN3
from tandem_checkpoint.architectures.qwen3_moe import QWEN3_MOE
from tandem_checkpoint.architectures.table import Architecture

ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture for architecture in (LLAMA, QWEN2, QWEN3, MIXTRAL, QWEN3_MOE, DEEPSEEK_V3)
}
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
            f'is {name}, which has no table; use one of {known}, or add one: docs/weights.md, "Adding an architecture"'
        ) from None
