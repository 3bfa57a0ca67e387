"""A planted fault: a trainer that exports one wrong weight, checksum and all.

Active only where PYTHONPATH names this folder: Python imports `sitecustomize` at every start.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
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
    write_piece = module._write_piece

    def write_wrong_piece(segment: Any, placed: Any, tensor: Any) -> Any:
        if placed.tensor.name == "model.layers.0.mlp.up_proj.weight":
            tensor = tensor.clone()
            tensor[0, 0] += 0.5
        return write_piece(segment, placed, tensor)

    module._write_piece = write_wrong_piece  # type: ignore[attr-defined]


sys.meta_path.insert(0, Spoiler())
