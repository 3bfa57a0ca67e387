"""Measure what bringing up many small jobs costs: our operator beside JobSet's controller, interleaved in one run.

    python benchmarks/operator.py [--quick] [--jobs N] [--repeats 3] [--json OUT]

Each job is four pods (a master and three hybrid pods), once as an RLJob and once as a JobSet. The control plane is real
(etcd, API server, controllers, scheduler); its 100 nodes are kwok's: a pod is Ready as soon as it has a node.
`--quick` brings up 200 jobs; without it 200 and 1000. Figures: `seconds_to_all_ready`, `speedup_vs_jobset`,
`cpu_ms_per_job` and more; `--json` writes every sample too. `tools/control-plane/build.py bench` builds the programs.
"""

# ruff: noqa: A005 - named after what it measures; the next lines keep it from being taken for Python's own module
import os.path
import sys

if __name__ == "__main__":
    # was this folder, whose operator.py every library would import
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import asyncio
import json
import os
import signal
import subprocess
import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import monotonic

from benchmarks.operator_bench.api import Api, ApiAnswerError, open_api
from benchmarks.operator_bench.cluster import NUM_NODES, BenchCluster, make_nodes, run_cluster
from benchmarks.operator_bench.contenders import JOBSET, OUR_PROGRAM, OURS
from benchmarks.operator_bench.figures import combine
from benchmarks.operator_bench.phase import Sample, measure
from benchmarks.report.document import write_document
from benchmarks.report.machine import describe_machine, versions_of
from benchmarks.report.options import option_parser, whole
from tests.ground.fixtures import CRDS
from tests.ground.processes import ProgramError
from tests.ground.programs import BUILD, ROOT, GroundError, locate

JOBSET_MODULE = BUILD.parent / "jobset"
JOBSET_CRD = "config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml"
QUICK_SIZES, SIZES = (200,), (200, 1000)
DOWNLOAD_SECONDS = 300.0
PACKAGES = ("kopf", "kubernetes", "aiohttp", "orjson")
FAILURES = (GroundError, ProgramError, ApiAnswerError, TimeoutError, subprocess.TimeoutExpired)
"""What the machine or a program can do to the benchmark."""


def jobset_definition() -> Path:
    """Return JobSet's CustomResourceDefinition, out of the Go module that its controller is built from."""
    go = _output([sys.executable, str(BUILD), "--find-go"], ROOT).strip()
    module = json.loads(_output([go, "mod", "download", "-json", "sigs.k8s.io/jobset"], JOBSET_MODULE))
    return Path(module["Dir"]) / JOBSET_CRD


def _output(command: Sequence[str], folder: Path | str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
    if done.returncode != 0:
        raise GroundError(done.stderr.strip())
    return done.stdout


async def measure_all(
    cluster: BenchCluster, programs: Mapping[str, Path], sizes: Sequence[int], repeats: int
) -> list[Sample]:
    """Return a sample of each operator, size and repetition; who comes first changes with each repetition."""
    async with open_api(cluster.access) as api:
        await make_nodes(api)
        return [
            await _one(cluster, api, programs, number, size, whose)
            for number in range(repeats)
            for size in sizes
            for whose in ((0, 1) if number % 2 == 0 else (1, 0))
        ]


async def _one(
    cluster: BenchCluster, api: Api, programs: Mapping[str, Path], number: int, size: int, whose: int
) -> Sample:
    """Return one sample; its minute of idling belongs to the first repetition."""
    contender, began = (OURS, JOBSET)[whose], monotonic()
    namespace = f"{contender.user}-{size}-{number + 1}"
    sample = await measure(cluster, api, contender, programs, namespace, size, with_idle=number == 0)
    told = f"{sample.seconds_to_all_ready:.1f} s to all Ready, {sample.cpu_ms_per_job:.0f} ms of CPU a job"
    print(f"{namespace}: {told} ({monotonic() - began:.0f} s in all)", file=sys.stderr, flush=True)
    return sample


def run(sizes: Sequence[int], repeats: int, folder: Path) -> dict[str, object]:
    """Run everything in a folder and return the result. GroundError where a program is missing."""
    programs = {**locate("bench"), OURS.name: OUR_PROGRAM}
    load_before = os.getloadavg()[0]
    with run_cluster(folder, programs, (*CRDS, jobset_definition()), (OURS.user, JOBSET.user)) as cluster:
        samples = asyncio.run(measure_all(cluster, programs, sizes, repeats))
    etcd = subprocess.run([programs["etcd"], "--version"], capture_output=True, text=True, timeout=30, check=True)
    return {
        "figures": combine(samples),
        "machine": {**describe_machine(load_before), "fake_nodes": NUM_NODES},
        "versions": {
            **versions_of(PACKAGES),
            **{module: _pinned(module) for module in ("k8s.io/kubernetes", "sigs.k8s.io/kwok", "sigs.k8s.io/jobset")},
            "etcd": etcd.stdout.split()[2],
        },
        "samples": [asdict(sample) for sample in samples],
    }


def _pinned(module: str) -> str:
    """Return the version of a Go module that one of the programs is built from."""
    words = [line.split() for file in BUILD.parent.glob("*/go.mod") for line in file.read_text().splitlines()]
    return next(line[line.index(module) + 1] for line in words if module in line[:-1])


def explain(error: Exception) -> str:
    """Return why it ended; a mistake of the benchmark's own is raised again."""
    if isinstance(error, ExceptionGroup):
        known, unknown = error.split(FAILURES)
        if unknown is not None:
            raise error
        reasons = [explain(each) for each in (known.exceptions if known else ())]
    else:
        reasons = [str(error)]
    return "\n".join([*reasons, *getattr(error, "__notes__", [])])


def parse_options() -> Namespace:
    """Return the options."""
    parser = option_parser("measure what bringing up many small jobs costs", quick="200 jobs; without it 200 and 1000")
    most = NUM_NODES * 25
    parser.add_argument("--jobs", type=whole(1, most), metavar="N", help="so many jobs instead")
    repeats = "samples of each operator (default: 3)"
    parser.add_argument("--repeats", type=whole(1), default=3, metavar="N", help=repeats)
    return parser.parse_args()


def main() -> int:
    """Measure, print the figures, write them down."""
    options = parse_options()
    sizes = (options.jobs,) if options.jobs else QUICK_SIZES if options.quick else SIZES
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # on the way out every program is ended
    try:
        with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
            result = run(sizes, options.repeats, Path(folder))
    except (*FAILURES, ExceptionGroup) as error:
        print(explain(error), file=sys.stderr)
        return 1
    print(json.dumps(result["figures"], indent=2))
    if options.json:
        write_document(result, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
