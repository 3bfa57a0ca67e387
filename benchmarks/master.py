"""Load the master with many trajectories.

    python benchmarks/master.py [--quick] [--json OUT] [--only PART ...] [--docs docs/results.md]

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
then, apart from the rest, the same answers over HTTP on loopback, from a process of its own, 64 at once:
  `http_cpu_ms`: CPU time of the master for a request; `http_requests_per_second`

One run; medians of rounds over HTTP. A part that fails is named under `failed`, and the exit code is 1.
"""

import os.path
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # was this folder

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.master_bench import page
from benchmarks.master_bench.measure import measure_live
from benchmarks.master_bench.over_http import measure_over_http
from benchmarks.page import put_section
from benchmarks.report.document import document_of, publish
from benchmarks.report.options import option_parser
from benchmarks.report.parts import Report
from benchmarks.report.result import Result

Part = Callable[[bool], Result]
PARTS: Mapping[str, Part] = {
    "live": lambda quick: measure_live(quick=quick),
    "http": lambda quick: measure_over_http(quick=quick),
}
"""By name, in the order in which they are measured."""
PACKAGES = ("pydantic", "msgspec", "httpx", "numpy", "tokenizers")


def run(names: Sequence[str], *, quick: bool) -> dict[str, Any]:
    """Measure the parts that are named, or all; return the result."""
    report = Report()
    for name in names or PARTS:
        report.add(name, partial(PARTS[name], quick))
    document = document_of(report, PACKAGES, {})
    document["versions"]["sqlite"] = sqlite3.sqlite_version
    return document


def main() -> int:
    """Measure, print the figures, write them down; 1 where a part has failed."""
    parser = option_parser("load the master with many trajectories", quick="fewer trajectories finish", parts=PARTS)
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the section of this page, from both parts")
    options = parser.parse_args()
    if options.docs and options.only:
        parser.error("--docs wants both parts: leave out --only")
    result = run(options.only, quick=options.quick)
    code = publish(result, options.json)
    if options.docs and not result["failed"]:
        put_section(options.docs, page.NAME, page.section(result))
    return code


if __name__ == "__main__":
    sys.exit(main())
