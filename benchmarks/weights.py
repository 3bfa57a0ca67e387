"""Move weights, and compare with what cannot be avoided.

    python benchmarks/weights.py [--quick] [--json OUT] [--only PART ...] [--samples N]

Parts and their figures:
  export    `export_over_memcpy`: the trainer's export by one rank over a plain memcpy of the same bytes into the same
            shared memory, by one thread a rank; `_tp2`: by two ranks; `_moe`, `_moe_tp2`: of a policy with experts;
            `export_over_memcpy_worst`: the largest; `export_in_two_passes_over_memcpy`: as without a C compiler;
            `checksum_over_memcpy`; `export_over_memcpy_by_threads`: over a memcpy by as many threads as the export has
  pairs     `bytes_moved_over_needed`: bytes over the network from a trainer's pod to a serving pod, over the distinct
            bytes that this needs, of the worst of all `layout_pairs`
  transfer  `transfer_over_link`: a fetch by HTTP from two pods over a plain stream of the same bytes, in three
            network namespaces whose links are held to one rate; `transfer_over_link_mooncake`: the same by Mooncake

Medians of 5 samples (--quick: 3; of export 10 at least), taken in turns. A part that fails is named under `failed`, and
the exit code is 1.
"""

import os
import os.path
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if __name__ == "__main__":
    sys.path[0] = ROOT  # was this folder

import argparse  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
from collections.abc import Callable, Mapping, Sequence  # noqa: E402
from functools import partial  # noqa: E402
from importlib.metadata import PackageNotFoundError, version  # noqa: E402
from pathlib import Path  # noqa: E402

from benchmarks.machine import describe_machine  # noqa: E402
from benchmarks.switch_bench.report import Report  # noqa: E402
from benchmarks.switch_bench.result import Result  # noqa: E402
from benchmarks.weights_bench.export import measure_export  # noqa: E402
from benchmarks.weights_bench.pairs import measure_pairs  # noqa: E402
from benchmarks.weights_bench.transfer import MEBIBYTES, QUICK_MEBIBYTES, measure_transfer  # noqa: E402

SAMPLES, QUICK_SAMPLES = 5, 3
Part = Callable[[int, bool], Result]
PARTS: Mapping[str, Part] = {
    "export": lambda num_samples, quick: measure_export(num_samples),
    "pairs": lambda num_samples, quick: measure_pairs(),
    "transfer": lambda num_samples, quick: measure_transfer(num_samples, QUICK_MEBIBYTES if quick else MEBIBYTES),
}
"""By name, in the order in which they are measured; each is given how many samples to take, and whether quickly."""
PACKAGES = ("torch", "aiohttp", "uvicorn", "mooncake-transfer-engine-non-cuda")


def run(names: Sequence[str], num_samples: int, *, quick: bool) -> dict[str, object]:
    """Measure the parts that are named, or all; return the result."""
    load_before = os.getloadavg()[0]
    report = Report()
    for name in names or PARTS:
        report.add(name, partial(PARTS[name], num_samples, quick))
    return {
        "figures": report.figures,
        "failed": report.failed,
        "left_out": report.left_out,
        "machine": describe_machine(load_before),
        "versions": {**_versions(), "python": platform.python_version()},
        "samples": {"of_each": num_samples, **report.samples},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def parse_options() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description="move weights, and compare with what cannot be avoided")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SAMPLES} samples, fewer bytes")
    parser.add_argument("--only", action="append", choices=tuple(PARTS), default=[], help="this part; may be repeated")
    parser.add_argument("--samples", type=int, metavar="N", help="so many samples instead")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result to this file")
    options = parser.parse_args()
    if options.samples is not None and options.samples < 1:
        parser.error("--samples is at least 1")
    return options


def main() -> int:
    """Measure, print the figures, write them down; 1 where a part has failed."""
    options = parse_options()
    num_samples = options.samples or (QUICK_SAMPLES if options.quick else SAMPLES)
    result = run(options.only, num_samples, quick=options.quick)
    print(json.dumps({key: result[key] for key in ("figures", "failed", "left_out")}, indent=2))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
