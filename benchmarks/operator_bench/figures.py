"""Medians over the samples, as one flat table."""

import statistics
from collections.abc import Callable, Sequence

from benchmarks.operator_bench.contenders import JOBSET, OURS
from benchmarks.operator_bench.phase import Sample

Figures = dict[str, float | int | None]

MEDIANS = (
    "seconds_to_all_pods",
    "seconds_to_all_ready",
    "seconds_to_all_gone",
    "cpu_ms_per_job",
    "operator_cpu_ms_per_job",
    "client_cpu_ms_per_job",
    "api_writes_per_job",
    "operator_writes_per_job",
)
DIGITS = 3


def combine(samples: Sequence[Sample]) -> Figures:
    """Return the figures of the largest number of jobs; those of a smaller one end in `_at_<jobs>`.

    Those of JobSet begin with `jobset_`; `speedup_vs_jobset` is its time to all Ready over ours.
    """
    sizes = sorted({sample.jobs for sample in samples}, reverse=True)
    figures: Figures = {"jobs": sizes[0], "repeats": sum(_is(OURS.name, sizes[0])(sample) for sample in samples)}
    for size in sizes:
        suffix = "" if size == sizes[0] else f"_at_{size}"
        figures |= {f"{key}{suffix}": value for key, value in _of_size(samples, size).items()}
    return {key: round(value, DIGITS) if isinstance(value, float) else value for key, value in figures.items()}


def _of_size(samples: Sequence[Sample], size: int) -> Figures:
    ours = _of_operator([sample for sample in samples if _is(OURS.name, size)(sample)])
    theirs = _of_operator([sample for sample in samples if _is(JOBSET.name, size)(sample)])
    del theirs["reconcile_p99_ms"]  # its metrics are off
    ready = (ours["seconds_to_all_ready"], theirs["seconds_to_all_ready"])
    speedup = None if None in ready else float(ready[1] or 0) / float(ready[0] or 1)
    return {**ours, "speedup_vs_jobset": speedup, **{f"jobset_{key}": value for key, value in theirs.items()}}


def _of_operator(samples: Sequence[Sample]) -> Figures:
    figures: Figures = {key: statistics.median(getattr(sample, key) for sample in samples) for key in MEDIANS}
    latencies = [sample.reconcile_p99_ms for sample in samples if sample.reconcile_p99_ms is not None]
    idles = [sample.idle for sample in samples if sample.idle is not None]
    figures["peak_rss_mib"] = max(sample.peak_rss_mib for sample in samples)
    figures["reconcile_p99_ms"] = statistics.median(latencies) if latencies else None
    figures["idle_api_requests"] = max((idle.api_requests for idle in idles), default=None)
    figures["idle_cpu_seconds_per_minute"] = max((idle.cpu_seconds_per_minute for idle in idles), default=None)
    return figures


def _is(operator: str, size: int) -> Callable[[Sample], bool]:
    return lambda sample: sample.operator == operator and sample.jobs == size
