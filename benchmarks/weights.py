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

import os.path
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # was this folder

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks.report.document import document_of, publish
from benchmarks.report.options import add_samples, option_parser
from benchmarks.report.parts import Report
from benchmarks.report.result import Result
from benchmarks.weights_bench.export import measure_export
from benchmarks.weights_bench.pairs import measure_pairs
from benchmarks.weights_bench.transfer import MEBIBYTES, QUICK_MEBIBYTES, measure_transfer

SAMPLES, QUICK_SAMPLES = 5, 3
Part = Callable[[int, bool], Result]
PARTS: Mapping[str, Part] = {
    "export": lambda num_samples, quick: measure_export(num_samples),
    "pairs": lambda num_samples, quick: measure_pairs(),
    "transfer": lambda num_samples, quick: measure_transfer(num_samples, QUICK_MEBIBYTES if quick else MEBIBYTES),
}
"""By name, in the order in which they are measured; each is given how many samples to take, and whether quickly."""
PACKAGES = ("torch", "aiohttp", "uvicorn", "mooncake-transfer-engine-non-cuda")


def run(names: Sequence[str], num_samples: int, *, quick: bool) -> dict[str, Any]:
    """Measure the parts that are named, or all; return the result."""
    report = Report()
    for name in names or PARTS:
        report.add(name, partial(PARTS[name], num_samples, quick))
    return document_of(report, PACKAGES, {"of_each": num_samples})


def parse_options() -> Namespace:
    """Return the options."""
    quick = f"{QUICK_SAMPLES} samples, fewer bytes"
    parser = option_parser("move weights, and compare with what cannot be avoided", quick=quick, parts=PARTS)
    add_samples(parser)
    return parser.parse_args()


def main() -> int:
    """Measure, print the figures, write them down; 1 where a part has failed."""
    options = parse_options()
    num_samples = options.samples or (QUICK_SAMPLES if options.quick else SAMPLES)
    return publish(run(options.only, num_samples, quick=options.quick), options.json)


if __name__ == "__main__":
    sys.exit(main())
