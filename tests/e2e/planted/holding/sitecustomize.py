"""A slow disk: what ranks write of the optimizer's state waits as long as a file is there.

Active only where PYTHONPATH names this folder: Python imports `sitecustomize` at every start. The file's name is in
TANDEM_TEST_HOLD.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

WRITER = "megatron.core.dist_checkpointing.strategies.filesystem_async"
POLL_SECONDS = 0.02


class Holder(importlib.abc.MetaPathFinder):
    """Changes Megatron's writer as soon as it is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != WRITER:
            return None
        sys.meta_path.remove(self)
        spec: importlib.machinery.ModuleSpec | None = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            hold(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def hold(module: ModuleType) -> None:
    """Have the writer wait before it writes."""
    write = module.FileSystemWriterAsync.write_preloaded_data

    def held(*arguments: Any, **options: Any) -> None:
        while Path(os.environ["TANDEM_TEST_HOLD"]).exists():
            time.sleep(POLL_SECONDS)
        write(*arguments, **options)

    module.FileSystemWriterAsync.write_preloaded_data = staticmethod(held)


sys.meta_path.insert(0, Holder())
