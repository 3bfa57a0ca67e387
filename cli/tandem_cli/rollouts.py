"""tandem rollouts: what a job has sampled, from its replay buffer."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console

from tandem_api.trajectory import Trajectory, TrajectoryState
from tandem_cli.errors import MachineError, UserError
from tandem_cli.report.parquet import write_trajectories
from tandem_cli.report.trajectories import json_line, render_list, render_one
from tandem_cli.trace import RUNS
from tandem_master.buffer.query import Filter, Listed, Order, Reader, open_reader
from tandem_master.data.tokens import PolicyText, read_policy_text
from tandem_master.errors import BufferStateError, DataError

BUFFER = "buffer.sqlite"
MOST = 20
"""Trajectories of a list, where no other number is asked for."""


@click.command()
@click.argument("run", metavar="JOB_OR_RUN_DIR")
@click.argument("name", metavar="[TRAJECTORY]", required=False)
@click.option("--state", type=click.Choice([state.value for state in TrajectoryState], case_sensitive=False))
@click.option("--problem", help="Only those of this problem.")
@click.option("--iteration", type=click.IntRange(min=1), help="Only those that it drew or finished.")
@click.option("--correct/--wrong", "correct", default=None, help="Only those with full marks, or without.")
@click.option("--finish-reason", help="Only those that ended so: stop, length, …")
@click.option(
    "--sort", "order", type=click.Choice([item.value for item in Order]), default=Order.NEWEST.value, show_default=True
)
@click.option("--reverse", is_flag=True, help="The other way round.")
@click.option("--limit", type=click.IntRange(min=1), default=MOST, show_default=True, help="How many are listed.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option(
    "--export", "target", type=click.Path(path_type=Path), help="Write all that are meant to a .jsonl or .parquet file."
)
@click.option(
    "--policy",
    "policy_folder",
    type=click.Path(path_type=Path),
    help="Folder of the tokenizer. [default: the run's newest checkpoint]",
)
def rollouts(
    run: str,
    name: str | None,
    state: str | None,
    problem: str | None,
    iteration: int | None,
    correct: bool | None,
    finish_reason: str | None,
    order: str,
    reverse: bool,
    limit: int,
    as_json: bool,
    target: Path | None,
    policy_folder: Path | None,
) -> None:
    """List what a job has sampled, or show one TRAJECTORY in full, with its segments marked.

    JOB_OR_RUN_DIR is a run folder, a buffer.sqlite, or the name of a job: then the run folder is runs/NAME. The job may
    be running: its buffer is only read. Of a job in a cluster, the run folder is the volume of
    spec.checkpoints.claimName.
    """
    source = find_buffer(run)
    wanted = Filter(TrajectoryState(state) if state else None, problem, iteration, correct, finish_reason)
    try:
        with ExitStack() as stack:
            reader = stack.enter_context(open_reader(source))
            if name is not None:
                _show(reader, name, _policy_text(source, policy_folder))
            elif target is not None:
                _export(reader, wanted, Order(order), target, reverse=reverse)
            else:
                _list(reader, wanted, Order(order), limit, reverse=reverse, as_json=as_json)
    except (BufferStateError, DataError) as error:
        raise UserError(str(error)) from None


def find_buffer(run: str) -> Path:
    """Return the buffer that the argument names: itself, one in a folder, or one of a job in runs/."""
    given = Path(run)
    if given.is_file():
        return given
    for folder in (given, RUNS / run):
        if (folder / BUFFER).is_file():
            return folder / BUFFER
    if given.is_dir():
        raise UserError(f"{run}: holds no {BUFFER}; name the folder of a run that has started")
    raise UserError(f"{run}: no run folder, and {RUNS / run} is none either; name a folder, or a job that ran here")


def _list(reader: Reader, wanted: Filter, order: Order, limit: int, *, reverse: bool, as_json: bool) -> None:
    found = list(reader.listed(wanted, order, reverse=reverse, most=limit))
    if as_json:
        for item in found:
            click.echo(json_line(item))
        return
    Console().print(render_list(found, reader.count(wanted)))


def _show(reader: Reader, name: str, text: PolicyText | None) -> None:
    trajectory = reader.trajectory(name)
    if trajectory is None:
        raise UserError(f"TRAJECTORY: {name} is not in the buffer; take an id from the list")
    Console(highlight=False).print(render_one(trajectory, text))


def _export(reader: Reader, wanted: Filter, order: Order, target: Path, *, reverse: bool) -> None:
    rows = (
        (item, found) for item in reader.listed(wanted, order, reverse=reverse) if (found := reader.trajectory(item.id))
    )
    try:
        match target.suffix:
            case ".jsonl":
                number = _write_lines(rows, target)
            case ".parquet":
                number = write_trajectories(rows, target)
            case _:
                raise UserError(f"--export: {target} has no known ending; use .jsonl or .parquet")
    except OSError as error:
        raise MachineError(f"{target}: cannot be written ({error.strerror}); choose another with --export") from None
    counted = "1 trajectory" if number == 1 else f"{number:,} trajectories"
    click.echo(f"{target}: {counted}")


def _write_lines(rows: Iterable[tuple[Listed, Trajectory]], target: Path) -> int:
    """Write rows as JSON lines and return how many there were; the file is whole or not there."""
    aside, number = target.with_name(f".{target.name}.new"), 0
    with aside.open("w", encoding="utf-8") as file:
        for listed, trajectory in rows:
            file.write(json_line(listed, trajectory) + "\n")
            number += 1
    aside.replace(target)
    return number


def _policy_text(source: Path, given: Path | None) -> PolicyText | None:
    """Return the tokenizer of the run; None where it has not written a policy yet."""
    if given is not None:
        return read_policy_text(given)
    checkpoints = source.parent / "checkpoints"
    folders = [source.parent / "policy", *sorted(checkpoints.glob("*"), reverse=True)]
    found = next((folder for folder in folders if (folder / "tokenizer.json").is_file()), None)
    return read_policy_text(found) if found is not None else None
