"""Load the master with many trajectories.

    python benchmarks/master.py [--quick] [--json OUT] [--only PART ...]

The master's own code is measured, from the lines of a server's stream to the buffer on disk and the request to the
trainer: plan, dispatch, pool, parsing, reward (a built-in rule), group commits in SQLite, complete groups, batch,
commit. In place of httpx, and of all beyond it, there are servers that answer in the same process by ready-made lines;
their part counts too. Every trajectory has a prompt and a first segment already, and waits to go on; all in flight are
requests of one sample.

Figures, with 100,000 live trajectories besides those that finish; first 2,000 finish a second:
  `dispatch_p99_ms`, `dispatch_p50_ms`, `dispatch_max_ms`: from the last byte of an answer to the next request at the
  same server; `paced_per_second`: finished and durable; `paced_cpu_ms`: CPU time of the process for each of them, the
  servers' part included; `plan_seconds`: the phase's requests made from the buffer; `fill_seconds`: from there until
  all seats at the servers are taken; `bytes_per_trajectory`: what the process grew by when they were planned
then others finish as fast as it goes:
  `finished_per_second`: sampled, scored, durable, batched, sent to the trainer and committed; `sampled_per_second`,
  `batched_per_second`: of the two halves

One run. A part that fails is named under `failed`, and the exit code is 1.
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
import sqlite3  # noqa: E402
from collections.abc import Callable, Mapping, Sequence  # noqa: E402
from functools import partial  # noqa: E402
from importlib.metadata import PackageNotFoundError, version  # noqa: E402
from pathlib import Path  # noqa: E402

from benchmarks.machine import describe_machine  # noqa: E402
from benchmarks.master_bench.measure import measure_live  # noqa: E402
from benchmarks.switch_bench.report import Report  # noqa: E402
from benchmarks.switch_bench.result import Result  # noqa: E402

Part = Callable[[bool], Result]
PARTS: Mapping[str, Part] = {
    "live": lambda quick: measure_live(quick=quick),
}
"""By name, in the order in which they are measured."""
PACKAGES = ("pydantic", "numpy", "tokenizers")


def run(names: Sequence[str], *, quick: bool) -> dict[str, object]:
    """Measure the parts that are named, or all; return the result."""
    load_before = os.getloadavg()[0]
    report = Report()
    for name in names or PARTS:
        report.add(name, partial(PARTS[name], quick))
    return {
        "figures": report.figures,
        "failed": report.failed,
        "left_out": report.left_out,
        "machine": describe_machine(load_before),
        "versions": {**_versions(), "python": platform.python_version(), "sqlite": sqlite3.sqlite_version},
        "samples": report.samples,
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
    parser = argparse.ArgumentParser(description="load the master with many trajectories")
    parser.add_argument("--quick", action="store_true", help="fewer trajectories finish")
    parser.add_argument("--only", action="append", choices=tuple(PARTS), default=[], help="this part; may be repeated")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result to this file")
    return parser.parse_args()


def main() -> int:
    """Measure, print the figures, write them down; 1 where a part has failed."""
    options = parse_options()
    result = run(options.only, quick=options.quick)
    print(json.dumps({key: result[key] for key in ("figures", "failed", "left_out")}, indent=2))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
