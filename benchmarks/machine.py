"""The machine that a benchmark ran on."""

import os
import platform

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
