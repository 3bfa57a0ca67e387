"""A slow disk: what ranks write of the optimizer's state waits as long as a file is there.

Active only where PYTHONPATH names this folder, and the repository for what is shared: Python imports `sitecustomize`
at every start. The file's name is in TANDEM_TEST_HOLD.
"""

import os
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.e2e.planted.on_import import change_on_import

WRITER = "megatron.core.dist_checkpointing.strategies.filesystem_async"
POLL_SECONDS = 0.02


def hold(module: ModuleType) -> None:
    """Have the writer wait before it writes."""
    write = module.FileSystemWriterAsync.write_preloaded_data

    def held(*arguments: Any, **options: Any) -> None:
        while Path(os.environ["TANDEM_TEST_HOLD"]).exists():
            time.sleep(POLL_SECONDS)
        write(*arguments, **options)

    module.FileSystemWriterAsync.write_preloaded_data = staticmethod(held)


change_on_import(WRITER, hold)
