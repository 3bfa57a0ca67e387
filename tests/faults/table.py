"""docs/faults.md: what a campaign writes about itself."""

from collections.abc import Sequence

from tests.faults.outcome import PROGRESS_SECONDS, Line, Outcome, Recovery, Result, blame, summarize
from tests.faults.stages import PAUSE_SECONDS

HEAD = """# Faults

A campaign hurts a real job (example 01's policy, etcd, Megatron-Core, vLLM, by `tandem up`) again and again: processes
are killed and stopped, leases end, etcd goes away or loses everything, bytes of exported weights flip, `/dev/shm` is
full, peers cannot be reached, stale masters write, clocks jump. Each injection is aimed at a stage of a switch or at a
phase. From outside everything is recorded: each change of the registry, who holds the token, which engines run, the
buffer, the diary. A [pure checker](../tests/faults/invariants/judge.py) judges the record against the seven invariants.

    python -m tests.faults.campaign --seed {seed} --injections {num} --docs docs/faults.md
    python -m tests.faults.campaign --replay {seed}:INDEX

It brings its own `/dev/shm` and network (`unshare`), so nothing else on the machine is hurt. This page is written by
the campaign; the figures are of one run.

"""
EXPLANATION = """
`kill` is SIGKILL; `stop` is SIGSTOP and, 3 s later, SIGCONT; `past its lease`: 13 s later. An engine is the first
process of a container. "In place": the job went on by itself.
"By restart": the command ended and was started again with `--resume`, as an operator would. Seconds are from the
injection to progress, the time that the fault itself stayed included; progress is that an iteration commits for which
servers came to serve after the fault was undone. Its deadline is {deadline:.0f} s after that. A stage that is over in
a few milliseconds is stretched to {pause_milliseconds:.0f} ms while it is aimed at.
"""
COLUMNS = ("injections", "in place", "by restart", "without progress", "median s", "worst s", "violations")


def render_page(result: Result) -> str:
    """Return the page, in Markdown."""
    num = len(result.outcomes) + len(result.skipped)
    parts = [HEAD.format(seed=result.seed, num=num), _figures(result), _explanation()]
    parts.append("\n## By kind\n\n" + _table("kind", summarize(result, by_stage=False)))
    parts.append("\n## By the stage that was hit\n\n" + _table("stage", summarize(result, by_stage=True)))
    parts += [_violations(result), _stuck(result.outcomes), _leftovers(result), _skipped(result)]
    return "".join(parts)


def _explanation() -> str:
    return EXPLANATION.format(deadline=PROGRESS_SECONDS, pause_milliseconds=1000 * PAUSE_SECONDS)


def _figures(result: Result) -> str:
    verdict = "Every invariant held" if not result.violations else f"{len(result.violations)} violations"
    aborted = f" It ended early: {result.aborted}." if result.aborted else ""
    return (
        f"Seed {result.seed}, {len(result.outcomes)} injections of {len({one.kind for one in result.outcomes})} kinds, "
        f"{result.num_iterations} committed iterations, "
        f"{result.seconds / 60:.0f} minutes; {result.machine}. {verdict}.{aborted}\n"
    )


def _table(name: str, lines: Sequence[Line]) -> str:
    rows = [f"| {name} | {' | '.join(COLUMNS)} |", f"| --- |{' ---: |' * len(COLUMNS)}"]
    for line in lines:
        cells = (line.num, line.num_in_place, line.num_by_restart, line.num_stuck)
        seconds = f"{line.median_seconds:.1f} | {line.worst_seconds:.1f}"
        rows.append(f"| {line.name} | {' | '.join(map(str, cells))} | {seconds} | {line.num_violations} |")
    return "\n".join(rows) + "\n"


def _violations(result: Result) -> str:
    if not result.violations:
        return ""
    rows = [
        f"* invariant {violation.invariant}, {_after(result.seed, index)}: {violation.text}"
        for violation, index in zip(result.violations, blame(result.violations, result.outcomes), strict=True)
    ]
    return "\n## Violations\n\n" + "\n".join(rows) + "\n"


def _after(seed: int, index: int | None) -> str:
    return "before the first injection" if index is None else f"after injection {seed}:{index}"


def _stuck(outcomes: Sequence[Outcome]) -> str:
    rows = [f"* {one.index}: {one.kind}, hit {one.hit}" for one in outcomes if one.recovery is Recovery.STUCK]
    return "\n## Without progress\n\n" + "\n".join(rows) + "\n" if rows else ""


def _leftovers(result: Result) -> str:
    rows = [f"* {leftover}" for leftover in result.leftovers]
    return "\n## Left running by a command that ended\n\n" + "\n".join(rows) + "\n" if rows else ""


def _skipped(result: Result) -> str:
    rows = [f"* {one.index}: {one.kind}, at {one.aimed}: {one.reason}" for one in result.skipped]
    return "\n## Not done\n\n" + "\n".join(rows) + "\n" if rows else ""
