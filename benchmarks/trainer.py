"""Train on a batch with a long tail of lengths, packed and padded.

    python benchmarks/trainer.py [--quick] [--json OUT] [--samples N]

One rank on a CPU in float32, the whole of a training: the pass for the reference, and one optimizer step. Lengths are
drawn from a lognormal distribution, cut at the longest trajectory. Figures:
  packed_tokens_per_second   samples end to end in rows of at most `row_tokens` positions
  padded_tokens_per_second   the same samples in rectangles of at most as many positions, each as wide as its longest
                             sample, samples of like length together; padding is passed as tokens are
  packed_over_padded         the first over the second
  padding_share              of the positions of the rectangles

Medians of 5 samples (--quick: 3), packed and padded in turns in one process. Only the tokens of the samples count.
"""

import os.path
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # was this folder

import os
import random
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from benchmarks.report.document import publish
from benchmarks.report.machine import describe_machine, versions_of
from benchmarks.report.options import add_samples, option_parser
from benchmarks.report.result import rounded
from tests.families.policies import write_policy
from tests.tandem_checkpoint.jobs import job_config
from tests.tandem_sidecars.forge import Forge, RankProcess

from tandem_api.engine import Sample
from tandem_checkpoint.process.commands import Train, Trained

SAMPLES, QUICK_SAMPLES = 5, 3
NUM_RESPONSES, QUICK_RESPONSES = 96, 48
LONGEST, MEDIAN, SPREAD = 512, 48, 1.0
"""Tokens of the longest sample and of the one in the middle; the deviation of the lengths' logarithm."""
ROW_TOKENS = 2048
VOCABULARY = 1024
ANY = 1e6
"""Nats: what the log-probabilities of the server were is no matter here."""
SEED = 7
PACKAGES = ("torch", "megatron-core")


def responses(count: int) -> list[Sample]:
    """Return samples whose lengths have a long tail."""
    source = random.Random(SEED)
    lengths = [min(LONGEST, max(8, round(source.lognormvariate(0, SPREAD) * MEDIAN))) for _ in range(count)]
    return [_sample(source, length) for length in lengths]


def _sample(source: random.Random, length: int) -> Sample:
    return Sample(
        token_ids=tuple(source.randrange(3, VOCABULARY) for _ in range(length)),
        first_loss_token=4,
        sampled_logprobs=(-4.0,) * (length - 4),
        advantage=source.choice((-0.5, 0.5)),
    )


def rectangles(samples: Sequence[Sample], most: int) -> list[list[Sample]]:
    """Return samples side by side, those of like length together, in rectangles of at most so many positions."""
    found: list[list[Sample]] = []
    for sample in sorted(samples, key=lambda sample: len(sample.token_ids)):
        if found and (len(found[-1]) + 1) * (len(sample.token_ids) - 1) <= most:
            found[-1].append(sample)
        else:
            found.append([sample])
    return found


def padded(samples: Sequence[Sample], most: int) -> tuple[Sample, ...]:
    """Return the samples, each as long as the longest of its rectangle."""
    return tuple(
        _widened(sample, len(rectangle[-1].token_ids))
        for rectangle in rectangles(samples, most)
        for sample in rectangle
    )


def _widened(sample: Sample, length: int) -> Sample:
    missing = length - len(sample.token_ids)
    return sample.model_copy(
        update={
            "token_ids": sample.token_ids + (0,) * missing,
            "sampled_logprobs": sample.sampled_logprobs + (0.0,) * missing,
        }
    )


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of each training."""

    packed: list[float]
    padded: list[float]


def measure(rank: RankProcess, samples: Sequence[Sample], num_samples: int) -> Times:
    """Train in turns, once without looking at the clock."""
    times = Times([], [])
    ways = ((times.packed, tuple(samples)), (times.padded, padded(samples, ROW_TOKENS)))
    for turn in range(num_samples + 1):
        for seconds, batch in ways:
            command = Train(max_logprob_difference=ANY, steps=(batch,), samples_per_step=(len(batch),))
            began = perf_counter()
            rank.ask(command, Trained)
            if turn:
                seconds.append(perf_counter() - began)
    return times


def run(num_samples: int, *, quick: bool) -> dict[str, Any]:
    """Measure; return the result."""
    load_before = os.getloadavg()[0]
    samples = responses(QUICK_RESPONSES if quick else NUM_RESPONSES)
    with TemporaryDirectory() as folder, Forge() as forge:
        policy = write_policy(Path(folder) / "policy", "qwen2", vocab_size=VOCABULARY, max_position_embeddings=LONGEST)
        config = job_config(policy, micro_batch_tokens=ROW_TOKENS)
        times = measure(forge.start(config, Path(folder)), samples, num_samples)
    num_tokens = sum(len(sample.token_ids) for sample in samples)
    num_padded = sum(len(sample.token_ids) for sample in padded(samples, ROW_TOKENS))
    speeds = {name: num_tokens / median(getattr(times, name)) for name in ("packed", "padded")}
    return {
        "figures": rounded(
            {f"{name}_tokens_per_second": speed for name, speed in speeds.items()}
            | {
                "packed_over_padded": speeds["packed"] / speeds["padded"],
                "padding_share": 1 - num_tokens / num_padded,
                "row_tokens": ROW_TOKENS,
                "num_tokens": num_tokens,
            }
        ),
        "machine": describe_machine(load_before),
        "versions": versions_of(PACKAGES),
        "samples": {"of_each": num_samples, "packed_seconds": times.packed, "padded_seconds": times.padded},
    }


def parse_options() -> Namespace:
    """Return the options."""
    quick = f"{QUICK_SAMPLES} samples of {QUICK_RESPONSES} responses"
    parser = option_parser("train on a batch with a long tail of lengths, packed and padded", quick=quick)
    add_samples(parser)
    return parser.parse_args()


def main() -> int:
    """Measure, print the figures, write them down."""
    options = parse_options()
    num_samples = options.samples or (QUICK_SAMPLES if options.quick else SAMPLES)
    return publish(run(num_samples, quick=options.quick), options.json)


if __name__ == "__main__":
    sys.exit(main())
