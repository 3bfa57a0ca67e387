"""tandem validate: every mistake of a manifest, without starting anything."""

from pathlib import Path

import click

from tandem_cli.checks import check_job, doubts_about
from tandem_cli.errors import CommandError
from tandem_cli.manifest import read_job


@click.command()
@click.option("-f", "--file", "path", type=click.Path(path_type=Path), required=True, help="The RLJob's YAML file.")
@click.option("--schema-only", is_flag=True, help="Do not look at the policy, the data and this machine.")
def validate(path: Path, schema_only: bool) -> None:
    """Check an RLJob: each mistake is one line that names the field and the fix. Exit code 2 where there is one."""
    try:
        job = read_job(path)
        if not schema_only:
            check_job(job)
            for text in doubts_about(job):
                click.echo(f"warning: {text}", err=True)
    except CommandError as error:
        plural = "s" if len(error.lines) > 1 else ""
        raise type(error)(*error.lines, f"{len(error.lines)} problem{plural}, nothing was started") from None
    click.echo(f"{path}: {job.metadata.name} is valid")
