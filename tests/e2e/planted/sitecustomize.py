"""A planted fault: a trainer that exports one wrong weight, checksum and all.

Active only where PYTHONPATH names this folder: Python imports `sitecustomize` at every start.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

EXPORT = "tandem_sidecars.megatron.export"


class Spoiler(importlib.abc.MetaPathFinder):
    """Spoils the exporter as soon as it is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != EXPORT:
            return None
        sys.meta_path.remove(self)
        spec: importlib.machinery.ModuleSpec | None = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            spoil(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def spoil(module: ModuleType) -> None:
    """Have the exporter write another value into one element of one tensor."""
    blocks_of = module._blocks

    def wrong_blocks_of(job: Any, parameter: Any, dtype: Any) -> Iterator[Any]:
        for block in blocks_of(job, parameter, dtype):
            if job.placed.tensor.name == "model.layers.0.mlp.up_proj.weight":
                block = block.clone()
                block[0, 0] += 0.5
            yield block

    module._blocks = wrong_blocks_of  # type: ignore[attr-defined]


sys.meta_path.insert(0, Spoiler())
