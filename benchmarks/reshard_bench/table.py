"""The tables of docs/reshard.md: what one run has measured, and nothing else."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from benchmarks.reshard_bench.layouts import Parallel
from benchmarks.reshard_bench.measure import PAIRS

BEGIN, END = "<!-- figures: written by benchmarks/reshard.py -->", "<!-- end of figures -->"
TITLES = {"k2": "Kimi-K2", "hybrid": "the same, hybrid pods", "671b": "DeepSeek-V3", "235b": "Qwen3-235B"}
ROWS = {
    "plan_seconds": "`plan_seconds`, all ranks",
    "pod_plan_seconds": "`pod_plan_seconds`",
    "makespan_seconds": "`makespan_seconds` (simulated)",
    "makespan_over_bound": "`makespan_over_bound`",
    "speedup_vs_broadcast": "`speedup_vs_broadcast`",
    "speedup_vs_pod_broadcast": "`speedup_vs_pod_broadcast`",
    "network_bytes_over_needed": "`network_bytes_over_needed`",
}
FEW_IN_FLIGHT = 8
HEAD = """
{day}; {cpus} cores ({processor}), one thread, Python {python}, NumPy {numpy}; the load was {load:.1f} as it began:
where that is more than the cores, planning times are upper bounds. 256 training ranks to 256 serving ranks, pods of 8,
medians of {samples}.
"""
FETCH = """
To plan its fetch of 72,000 pieces that are dealt out to 32 pods takes a pod {seconds} s (`fetch_plan_seconds`).
"""


def replaced(page: str, table: str) -> str:
    """Return a page with the text between the two marks replaced. ValueError: they are not there."""
    before, rest = page.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def render(result: Mapping[str, Any]) -> str:
    """Return the tables, in Markdown, of a result that has all parts."""
    machine, versions = result["machine"], result["versions"]
    head = HEAD.format(
        day=f"{datetime.now(UTC):%Y-%m-%d}",
        cpus=machine["cpus"],
        processor=machine["processor"],
        load=machine["load_before"],
        samples=result["samples"]["of_each"],
        **versions,
    )
    fetch = FETCH.format(seconds=_shown(result["figures"]["fetch_plan_seconds"]))
    return "\n".join([head.strip(), "", *_pairs(result), "", *_growth(result["figures"]), fetch.rstrip()])


def _pairs(result: Mapping[str, Any]) -> Iterator[str]:
    figures, samples = result["figures"], result["samples"]
    yield _row(["", *TITLES.values()])
    yield _row(["---"] * (len(TITLES) + 1))
    yield _row(["training: tensor, pipeline, expert", *(_split(PAIRS[name].train, "pipeline") for name in TITLES)])
    yield _row(["serving: tensor, expert", *(_split(PAIRS[name].serve) for name in TITLES)])
    for figure, title in ROWS.items():
        yield _row([title, *(_shown(figures.get(f"{figure}{_suffix(name)}")) for name in TITLES)])
        if figure == "makespan_over_bound":
            in_flight = [samples[name]["makespan_over_bound_in_flight"] for name in TITLES]
            few = [{int(number): over for number, over in spans.items()}[FEW_IN_FLIGHT] for spans in in_flight]
            yield _row([f"the same with {FEW_IN_FLIGHT} in flight", *map(_shown, few)])


def _growth(figures: Mapping[str, float]) -> Iterator[str]:
    sizes = sorted(int(name.rpartition("_")[2]) for name in figures if name.removeprefix("plan_seconds_").isdigit())
    yield _row(["ranks of each side", *(f"{size:,}" for size in sizes)])
    yield _row(["---"] * (len(sizes) + 1))
    yield _row(["`plan_seconds`", *(_shown(figures[f"plan_seconds_{size}"]) for size in sizes)])


def _split(parallel: Parallel, *more: str) -> str:
    return ", ".join(str(getattr(parallel, name)) for name in ("tensor", *more, "expert"))


def _suffix(name: str) -> str:
    return "" if name == "k2" else f"_{name}"


def _shown(number: float | None) -> str:
    """Return a figure: seconds and ratios to two digits behind the point, those near 1 to three."""
    if number is None:
        return "-"
    return (
        f"{number:.3f}" if 1.0 <= number < 1.1 or number < 0.1 else f"{number:.2f}" if number < 10 else f"{number:.1f}"
    )


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
