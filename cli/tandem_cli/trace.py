"""tandem trace: what every pod did in a run, for Perfetto."""  # noqa: A005 - always imported by its full name

from pathlib import Path

import click

from tandem_cli.errors import MachineError, UserError
from tandem_cli.local.run_folder import HISTORY
from tandem_cli.report.history import History, HistoryError, read_history
from tandem_cli.report.quantity import plural_text
from tandem_cli.tracing.build import build_trace
from tandem_cli.tracing.event import Trace

OUTPUT = "trace.json"
RUNS = Path("runs")


@click.command()
@click.argument("run", metavar="JOB_OR_RUN_DIR")
@click.option("--epoch", type=click.IntRange(min=1), help="Only the switch of this number, with the phase after it.")
@click.option("--last", is_flag=True, help="Only the last switch.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write. [default: trace.json in the run]")
def trace(run: str, epoch: int | None, last: bool, output: Path | None) -> None:
    """Write a run as a Chrome trace: pods, containers, stages, waits, and arrows along each critical path.

    Open the file at https://ui.perfetto.dev or in chrome://tracing; nothing is sent anywhere by this command.

    JOB_OR_RUN_DIR is a run folder, a metrics.jsonl, or the name of a job: then the run folder is runs/NAME. Of a job in
    a cluster, the run folder is the volume of spec.checkpoints.claimName. It cannot be read from outside: copy the file
    from the master's pod first (kubectl exec POD -- cat /var/lib/tandem/metrics.jsonl > metrics.jsonl), then give it.
    """
    if epoch is not None and last:
        raise click.UsageError("--epoch and --last exclude each other")
    source = find_history(run)
    history = _chosen(_read(source), source, epoch, last)
    target = output or (source.parent / OUTPUT if source.name == HISTORY else source.with_suffix(".trace.json"))
    job = history.runs[0].started.job if history.runs else run
    made = build_trace(job, history.switches, history.phases)
    _write(made, target)
    num_pods = len({stage.pod for switch in history.switches for stage in switch.stages})
    click.echo(
        f"{target}: {plural_text(len(history.switches), 'switch')} of {plural_text(num_pods, 'pod')}; "
        "open it at https://ui.perfetto.dev"
    )


def find_history(run: str) -> Path:
    """Return the records' file that the argument names: itself, one in a folder, or one of a job in runs/."""
    given = Path(run)
    if given.is_file():
        return given
    for folder in (given, RUNS / run):
        if (folder / HISTORY).is_file():
            return folder / HISTORY
    if given.is_dir():
        raise UserError(f"{run}: holds no {HISTORY}; name the folder of a run that has started")
    raise UserError(f"{run}: no run folder, and {RUNS / run} is none either; name a folder, or a job that ran here")


def _read(source: Path) -> History:
    try:
        return read_history(source)
    except HistoryError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise MachineError(f"{source}: cannot be read ({error.strerror}); permit it") from None


def _chosen(history: History, source: Path, epoch: int | None, last: bool) -> History:
    """Return the history with one switch alone and the phase that it led into, or all of it."""
    if not history.switches:
        raise UserError(f"{source}: holds no switch; wait for the first one")
    if epoch is None and not last:
        return history
    # A resumed run may have used an epoch again: the later one is meant.
    switch = next((item for item in reversed(history.switches) if last or item.epoch == epoch), None)
    if switch is None:
        epochs = [item.epoch for item in history.switches]
        raise UserError(f"--epoch: {epoch} is not in {source}; use one from {min(epochs)} to {max(epochs)}")
    ended_at = switch.started_at + switch.seconds
    later = (item.started_at for item in history.switches if item.started_at > switch.started_at)
    until = next(later, float("inf"))
    phases = tuple(
        item for item in history.phases if item.epoch == switch.epoch and ended_at <= item.started_at < until
    )
    return History(runs=history.runs, switches=(switch,), phases=phases)


def _write(made: Trace, target: Path) -> None:
    aside = target.with_name(f".{target.name}.new")
    try:
        aside.write_text(made.model_dump_json(), encoding="utf-8")
        aside.replace(target)
    except OSError as error:
        raise MachineError(f"{target}: cannot be written ({error.strerror}); choose another with -o") from None
