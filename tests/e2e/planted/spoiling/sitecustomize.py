"""A planted fault: a trainer that exports one wrong weight, checksum and all.

Active only where PYTHONPATH names this folder, and the repository for what is shared: Python imports `sitecustomize`
at every start.
"""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

from tests.e2e.planted.on_import import change_on_import

EXPORT = "tandem_sidecars.megatron.export"


def spoil(module: ModuleType) -> None:
    """Have the exporter write another value into one element of one tensor."""
    blocks_of, is_plain = module._blocks, module._is_plain

    def is_ours(work: Any) -> bool:
        return bool(work.job.placed.tensor.name == "model.layers.0.mlp.up_proj.weight")

    def wrong_blocks_of(work: Any) -> Iterator[Any]:
        for block in blocks_of(work):
            if is_ours(work):
                block = block.clone()
                block[0, 0] += 0.5
            yield block

    module._blocks = wrong_blocks_of  # type: ignore[attr-defined]
    module._is_plain = lambda work: is_plain(work) and not is_ours(work)  # type: ignore[attr-defined]


change_on_import(EXPORT, spoil)
