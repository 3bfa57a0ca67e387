"""The machine that a benchmark ran on, and the programs."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import psutil


def describe_machine(load_before: float) -> dict[str, object]:
    """Return what figures depend on. `load_before`: the mean load of a minute (see os.getloadavg) before the run."""
    return {
        "cpus": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "load_before": load_before,
    }


def versions_of(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of these distributions, "absent" where one is not installed, and Python's own."""
    return {**{name: _version(name) for name in packages}, "python": platform.python_version()}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
