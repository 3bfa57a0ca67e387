"""The fault campaign: `python -m tests.faults.campaign --seed N --injections 200 --json OUT --docs docs/faults.md`.

A real job (example 01's policy, etcd, Megatron, vLLM, by `tandem up`) is hurt again and again, at every stage of both
directions; everything is recorded from outside and judged by the seven invariants. The seed decides what is injected.
Exit codes: 0 every invariant held and the job came back each time, 1 not so, 2 something to correct.
"""

import asyncio
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from tests.faults.history import write_history
from tests.faults.injections.catalogue import KINDS
from tests.faults.invariants.judge import judge
from tests.faults.invariants.violation import Violation
from tests.faults.isolation import current_isolation, enter_isolation
from tests.faults.job import facts_of, make_toy, place_job
from tests.faults.outcome import RESULT, Outcome, Recovery, Result, Skipped
from tests.faults.plan import Planned, plan_injections
from tests.faults.recording.recorder import recording
from tests.faults.runner import Unrecoverable, running
from tests.faults.stages import label
from tests.faults.table import render_page


@dataclass(slots=True)
class Tally:
    """What has come of the campaign so far."""

    outcomes: list[Outcome] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    num_iterations: int = 0
    num_late_restarts: int = 0
    leftovers: list[str] = field(default_factory=list)
    aborted: str = ""


@dataclass(frozen=True, slots=True)
class Orders:
    """What a campaign shall do."""

    seed: int
    planned: Sequence[Planned]
    folder: Path
    seconds: float
    """No injection begins later than this after the start."""
    tell: Callable[[str], None]


async def run_campaign(orders: Orders) -> Result:
    """Run the injections: first those of a job with one hybrid pod, then those that need a rollout-only pod."""
    began = time.monotonic()
    toy = await asyncio.to_thread(make_toy, orders.folder / "toy")
    tally = Tally()
    for is_elastic in (False, True):
        ours = [one for one in orders.planned if KINDS[one.kind].is_elastic is is_elastic]
        if ours and not tally.aborted:
            await _run_job(orders, toy, ours, tally, until=began + orders.seconds, is_elastic=is_elastic)
    return Result(
        seed=orders.seed,
        machine=f"{os.cpu_count()} CPUs, {platform.system()}, Python {platform.python_version()}",
        seconds=time.monotonic() - began,
        num_iterations=tally.num_iterations,
        outcomes=tuple(tally.outcomes),
        skipped=tuple(tally.skipped),
        violations=tuple(tally.violations),
        num_late_restarts=tally.num_late_restarts,
        leftovers=tuple(tally.leftovers),
        aborted=tally.aborted,
    )


async def _run_job(
    orders: Orders, toy: Path, planned: Sequence[Planned], tally: Tally, *, until: float, is_elastic: bool
) -> None:
    """Hurt one job; judge it when it is over."""
    if time.monotonic() > until:
        return
    place = place_job(orders.folder / ("elastic" if is_elastic else "plain"), toy, elastic=is_elastic)
    isolation = current_isolation()
    async with recording(place, facts_of(place)) as recorder:
        try:
            async with running(place, recorder, isolation, orders.tell) as runner:
                for one in planned:
                    if time.monotonic() > until:
                        break
                    orders.tell(f"{orders.seed}:{one.index} {one.kind}, at {label(one.stage)}")
                    _note(await runner.perform(one, KINDS[one.kind]), tally, orders.tell)
                tally.num_late_restarts += runner.num_late_restarts
            tally.leftovers += runner.leftovers
        except Unrecoverable as error:
            tally.aborted = str(error)
            orders.tell(f"given up: {error}")
    history = recorder.history()
    tally.num_iterations += len(recorder.diary.commits_since(0.0))
    tally.violations += judge(history)
    write_history(history, orders.folder / f"history-{'elastic' if is_elastic else 'plain'}.json")


def _note(came: Outcome | Skipped, tally: Tally, tell: Callable[[str], None]) -> None:
    if isinstance(came, Skipped):
        tally.skipped.append(came)
        tell(f"  not done: {came.reason}")
        return
    tally.outcomes.append(came)
    tell(f"  hit {came.hit}; {came.recovery} after {came.seconds:.1f} s")


@click.command()
@click.option("--seed", type=int, default=lambda: int(time.time()), help="Decides everything. [default: the time]")
@click.option("--injections", type=click.IntRange(1), default=200, show_default=True, help="Number of injections.")
@click.option("--seconds", type=float, help="Begin none after this time, and leave the long kinds out.")
@click.option("--replay", help="SEED:INDEX: only this injection.")
@click.option("--only", multiple=True, help="Only kinds whose name contains this; may be given again.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the result to this file.")
@click.option("--docs", type=click.Path(path_type=Path), help="Write the summary page to this file.")
@click.option("--work-dir", type=click.Path(path_type=Path), help="Folder of the jobs. [default: a temporary one]")
def main(
    seed: int,
    injections: int,
    seconds: float | None,
    replay: str | None,
    only: tuple[str, ...],
    json_path: Path | None,
    docs: Path | None,
    work_dir: Path | None,
) -> None:
    """Hurt a real job in every way and judge what is seen."""
    if replay is not None:
        seed, injections = _parse_replay(replay)
    planned = plan_injections(seed, injections, KINDS)
    if replay is not None:
        planned = planned[-1:]
    planned = tuple(one for one in planned if _is_wanted(one, only, is_short=seconds is not None))
    enter_isolation(
        ["-m", "tests.faults.campaign", *sys.argv[1:], *([] if "--seed" in sys.argv else ["--seed", str(seed)])]
    )
    isolation = current_isolation()
    click.echo(f"seed {seed}: {len(planned)} injections" + (f" ({isolation.reason})" if isolation.reason else ""))
    folder = work_dir or Path(tempfile.mkdtemp(prefix="faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    result = asyncio.run(
        run_campaign(Orders(seed, planned, folder.resolve(), seconds or float("inf"), lambda text: click.echo(text)))
    )
    _report(result, json_path, docs)
    if work_dir is None and result.is_good:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        click.echo(f"logs and histories: {folder}")
    raise SystemExit(0 if result.is_good else 1)


def _parse_replay(text: str) -> tuple[int, int]:
    """Return the seed and how many injections the plan must have for the wanted one to be its last."""
    try:
        seed, index = (int(word) for word in text.split(":"))
    except ValueError:
        raise click.UsageError(f"--replay: {text} is not SEED:INDEX") from None
    return seed, index + 1


def _is_wanted(one: Planned, only: Sequence[str], *, is_short: bool) -> bool:
    if is_short and KINDS[one.kind].is_long:
        return False
    return not only or any(part in one.kind for part in only)


def _report(result: Result, json_path: Path | None, docs: Path | None) -> None:
    for violation in result.violations:
        click.echo(f"violation of invariant {violation.invariant}: {violation.text}")
    for leftover in result.leftovers:
        click.echo(f"left running: {leftover}")
    stuck = sum(outcome.recovery is Recovery.STUCK for outcome in result.outcomes)
    click.echo(
        f"seed {result.seed}: {len(result.outcomes)} injections, {len(result.skipped)} not done, {stuck} without "
        f"progress, {len(result.violations)} violations, {result.num_iterations} iterations, {result.seconds:.0f} s"
    )
    if json_path is not None:
        json_path.write_bytes(RESULT.dump_json(result, indent=2))
    if docs is not None:
        docs.write_text(render_page(result))


if __name__ == "__main__":
    main()
