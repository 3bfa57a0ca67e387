"""Planted into the containers of a campaign's job: a clock that can be moved, and stages that show themselves.

Active only where PYTHONPATH names this folder and FAULTS_CONTROL a folder: Python imports `sitecustomize` at every
start. The layout of the control file is `tests/faults/control.py`'s; this file may import nothing of the repository.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import mmap
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

PACKAGE, MODULE = "tandem_checkpoint.", ".stopwatch"
"""Beginning and end of the name of the module that is watched."""
ORDERS = struct.Struct("<dd32s")
"""Offset of the clock in seconds; stage to stretch: seconds, name."""
MARK = struct.Struct("<Q?32s")
"""What the engine is at: number of marks so far, whether it is in the stage, name of the stage."""
MARK_AT = 64
SIZE = 128

real_time = time.time


def open_control() -> mmap.mmap | None:
    """Map the control file of this container; None where there is none."""
    folder, pod, container = (os.environ.get(name, "") for name in ("FAULTS_CONTROL", "POD_NAME", "FAULTS_CONTAINER"))
    path = os.path.join(folder, f"{pod}-{container}")
    if not folder or not os.path.exists(path):
        return None
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), SIZE)


def moved_time(control: mmap.mmap) -> Callable[[], float]:
    """Return a clock that is off by what the control file says.

    gRPC sees the right one: it hands moments of this clock to its C core, whose clock cannot be moved from here.
    """

    def now() -> float:
        if str(sys._getframe(1).f_globals.get("__name__", "")).startswith("grpc"):
            return real_time()
        return real_time() + float(ORDERS.unpack_from(control, 0)[0])

    return now


class Watcher(importlib.abc.MetaPathFinder):
    """Has the stopwatch mark its stages as soon as it is imported."""

    def __init__(self, control: mmap.mmap) -> None:
        self._control = control

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not (name.startswith(PACKAGE) and name.endswith(MODULE)):
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            mark_stages(module, self._control)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def mark_stages(module: ModuleType, control: mmap.mmap) -> None:
    """Have each stage write where it is into the control file, and take longer where it is asked to."""
    stage = module.Stopwatch.stage

    @contextmanager
    def marked_stage(self: Any, name: str) -> Iterator[None]:
        with stage(self, name):
            mark(control, name, inside=True)
            _, seconds, stretched = ORDERS.unpack_from(control, 0)
            if stretched.rstrip(b"\0").decode() == name:
                time.sleep(seconds)
            try:
                yield
            finally:
                mark(control, name, inside=False)

    module.Stopwatch.stage = marked_stage


def mark(control: mmap.mmap, name: str, *, inside: bool) -> None:
    """Write where the engine is."""
    number, _, _ = MARK.unpack_from(control, MARK_AT)
    MARK.pack_into(control, MARK_AT, number + 1, inside, name.encode())


found = open_control()
if found is not None:
    time.time = moved_time(found)
    sys.meta_path.insert(0, Watcher(found))
