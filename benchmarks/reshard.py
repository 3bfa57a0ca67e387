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

import os.path
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # was this folder
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is imported

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report.document import document_of, publish
from benchmarks.report.options import add_samples, option_parser
from benchmarks.report.parts import Part, Report
from benchmarks.reshard_bench.fetch import measure_fetch
from benchmarks.reshard_bench.measure import PAIRS, measure_growth, measure_pair
from benchmarks.reshard_bench.table import render, replaced

SAMPLES, QUICK_SAMPLES = 5, 3
SIZES, QUICK_SIZES = (64, 128, 256, 512, 1024, 2048, 4096), (64, 256, 1024)
GROWTH, FETCH = "growth", "fetch"
PACKAGES = ("numpy",)


def parts(sizes: Sequence[int], num_samples: int) -> dict[str, Part]:
    """Return every part by its name, in the order in which they are measured."""

    def pair(name: str) -> Part:
        return lambda: measure_pair(PAIRS[name], num_samples, "" if name == "k2" else f"_{name}")

    return {
        **{name: pair(name) for name in PAIRS},
        GROWTH: lambda: measure_growth(sizes, num_samples),
        FETCH: lambda: measure_fetch(num_samples),
    }


def run(names: Sequence[str], sizes: Sequence[int], num_samples: int) -> dict[str, Any]:
    """Measure the parts that are named, or all; return the result."""
    report, every = Report(), parts(sizes, num_samples)
    for name in names or every:
        report.add(name, every[name])
    return document_of(report, PACKAGES, {"of_each": num_samples})


def parse_options() -> Namespace:
    """Return the options."""
    parser = option_parser(
        "plan the way of huge models' weights, and simulate it",
        quick=f"{QUICK_SAMPLES} samples, growth to {QUICK_SIZES[-1]} ranks",
        parts=(*PAIRS, GROWTH, FETCH),
    )
    add_samples(parser)
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the tables into this page; not with --only")
    options = parser.parse_args()
    if options.docs and options.only:
        parser.error("--docs wants every part; leave --only out")
    return options


def main() -> int:
    """Measure, print the figures, write them down; 1 where a part has failed."""
    options = parse_options()
    num_samples = options.samples or (QUICK_SAMPLES if options.quick else SAMPLES)
    result = run(options.only, QUICK_SIZES if options.quick else SIZES, num_samples)
    code = publish(result, options.json)
    if options.docs and not result["failed"]:
        options.docs.write_text(replaced(options.docs.read_text(), render(result)))
    return code


if __name__ == "__main__":
    sys.exit(main())
