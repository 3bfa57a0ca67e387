"""Plan the way of huge models' weights from training to serving ranks, and play the plan in a model of the network.

    python benchmarks/reshard.py [--quick] [--json OUT] [--only PART ...] [--samples N] [--docs PAGE]

Parts, each of 256 training ranks to 256 serving ranks with other splits, in pods of 8; their figures end in:
  k2       nothing: 1 T parameters, 61 layers, 384 experts
  671b     `_671b`: DeepSeek-V3
  235b     `_235b`: Qwen3-235B-A22B, bfloat16
  hybrid   `_hybrid`: k2 with trainers and servers in the same pods
  growth   `plan_seconds_<ranks>`: k2's shape on 64 to 4,096 ranks of each side (--quick: to 1,024)
  fetch    `fetch_plan_seconds`: what a pod of a job takes to plan its fetch of 72,000 pieces, dealt out to 32 pods

Figures: `plan_seconds` for all ranks' plans; `pod_plan_seconds` for what one pod needs of it, on its own;
`makespan_over_bound`, the simulated time of the plan over the least that its bytes could take;
`speedup_vs_broadcast`, the simulated time of sending every byte to every serving GPU over the plan's;
`speedup_vs_pod_broadcast`, the same with a broadcast that uses all ports of a pod and brings each byte there once;
`network_bytes_over_needed`; `short_runs_share` of the bytes, in runs below 64 KiB, whose requests cost more than the
model says. Assumptions are listed in reshard_bench/network.py and schemes.py.

Medians of 5 samples (--quick: 3), one thread. A part that fails is named under `failed`, and the exit code is 1.
"""

import os
import os.path
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if __name__ == "__main__":
    sys.path[0] = ROOT  # was this folder
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is imported

import argparse  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from importlib.metadata import version  # noqa: E402
from pathlib import Path  # noqa: E402

from benchmarks.machine import describe_machine  # noqa: E402
from benchmarks.reshard_bench.fetch import measure_fetch  # noqa: E402
from benchmarks.reshard_bench.measure import PAIRS, measure_growth, measure_pair  # noqa: E402
from benchmarks.reshard_bench.table import render, replaced  # noqa: E402
from benchmarks.switch_bench.report import Report  # noqa: E402
from benchmarks.switch_bench.result import Result  # noqa: E402

SAMPLES, QUICK_SAMPLES = 5, 3
SIZES, QUICK_SIZES = (64, 128, 256, 512, 1024, 2048, 4096), (64, 256, 1024)
GROWTH, FETCH = "growth", "fetch"


def parts(sizes: Sequence[int], num_samples: int) -> dict[str, Callable[[], Result]]:
    """Return every part by its name, in the order in which they are measured."""

    def pair(name: str) -> Callable[[], Result]:
        return lambda: measure_pair(PAIRS[name], num_samples, "" if name == "k2" else f"_{name}")

    return {
        **{name: pair(name) for name in PAIRS},
        GROWTH: lambda: measure_growth(sizes, num_samples),
        FETCH: lambda: measure_fetch(num_samples),
    }


def run(names: Sequence[str], sizes: Sequence[int], num_samples: int) -> dict[str, object]:
    """Measure the parts that are named, or all; return the result."""
    load_before, every = os.getloadavg()[0], parts(sizes, num_samples)
    report = Report()
    for name in names or every:
        report.add(name, every[name])
    return {
        "figures": report.figures,
        "failed": report.failed,
        "machine": describe_machine(load_before),
        "versions": {"numpy": version("numpy"), "python": platform.python_version()},
        "samples": {"of_each": num_samples, **report.samples},
    }


def parse_options() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description="plan the way of huge models' weights, and simulate it")
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_SAMPLES} samples, growth to {QUICK_SIZES[-1]} ranks"
    )
    parser.add_argument(
        "--only", action="append", choices=(*PAIRS, GROWTH, FETCH), default=[], help="this part; may be repeated"
    )
    parser.add_argument("--samples", type=int, metavar="N", help="so many samples instead")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result to this file")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the tables into this page; not with --only")
    options = parser.parse_args()
    if options.docs and options.only:
        parser.error("--docs wants every part; leave --only out")
    if options.samples is not None and options.samples < 1:
        parser.error("--samples is at least 1")
    return options


def main() -> int:
    """Measure, print the figures, write them down; 1 where a part has failed."""
    options = parse_options()
    num_samples = options.samples or (QUICK_SAMPLES if options.quick else SAMPLES)
    result = run(options.only, QUICK_SIZES if options.quick else SIZES, num_samples)
    print(json.dumps({key: result[key] for key in ("figures", "failed")}, indent=2))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    if options.docs and not result["failed"]:
        options.docs.write_text(replaced(options.docs.read_text(), render(result)))
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
