"""tandem up: run a job on this machine, without a cluster."""

from pathlib import Path

import click
from rich.console import Console

from tandem_cli.checks import check_job, doubts_about
from tandem_cli.display import Display
from tandem_cli.errors import MachineError
from tandem_cli.local.network import choose_network
from tandem_cli.local.run_folder import Start, run_folder
from tandem_cli.manifest import read_job
from tandem_cli.outcome import write_outcome
from tandem_cli.session import Session, memory_folder, run


@click.command()
@click.option("-f", "--file", "path", type=click.Path(path_type=Path), required=True, help="The RLJob's YAML file.")
@click.option("--run-dir", type=click.Path(path_type=Path), help="Folder for logs and results. [default: runs/NAME]")
@click.option("--resume", is_flag=True, help="Go on with the run that the folder holds.")
@click.option("--fresh", is_flag=True, help="Delete the run that the folder holds and start over.")
@click.option("--summary", type=click.Path(path_type=Path), help="Also write the summary, as JSON, to this file.")
@click.option("--logs", is_flag=True, help="Print the log lines of all containers as they come.")
@click.option("--network", help="Loopback network of the run, such as 127.31.7.0/24. [default: from the run folder]")
@click.option(
    "--shared-memory",
    type=click.Path(path_type=Path),
    default=Path("/dev/shm"),
    show_default=True,
    help="The tmpfs that holds the weight segments.",
)
def up(
    path: Path,
    run_dir: Path | None,
    resume: bool,
    fresh: bool,
    summary: Path | None,
    logs: bool,
    network: str | None,
    shared_memory: Path,
) -> None:
    """Run an RLJob on this machine: the operator's own pods as processes, no cluster needed.

    Ctrl-C finishes cleanly and keeps everything for --resume; a second Ctrl-C ends at once.
    Exit codes: 0 completed, 1 the machine or the job failed, 2 something to correct, 130 stopped.
    """
    if resume and fresh:
        raise click.UsageError("--resume and --fresh exclude each other")
    job = read_job(path)
    check_job(job)
    for text in doubts_about(job):
        click.echo(f"warning: {text}", err=True)
    start = Start.RESUME if resume else Start.FRESH if fresh else Start.REFUSE
    display = Display(Console())
    with run_folder(run_dir or Path("runs") / job.metadata.name, job.metadata.name, start) as folder:
        session = Session(job, folder, choose_network(network, folder), memory_folder(shared_memory, folder), logs)
        try:
            code = run(session, display)
        except MachineError:
            write_outcome(session, display, summary)
            raise
        write_outcome(session, display, summary)
    raise SystemExit(code)
