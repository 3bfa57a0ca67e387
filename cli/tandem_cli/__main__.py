"""The tandem command."""

import sys
from importlib.metadata import version

import click

from tandem_cli.errors import CommandError
from tandem_cli.rollouts import rollouts
from tandem_cli.trace import trace
from tandem_cli.up import up
from tandem_cli.validate import validate


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("tandem-rl"), prog_name="tandem")
def cli() -> None:
    """Train and serve one policy on the same devices, in turns."""


cli.add_command(rollouts)
cli.add_command(trace)
cli.add_command(up)
cli.add_command(validate)


def main() -> None:
    """Run one command; what goes wrong is one line a problem, never a stack trace."""
    try:
        cli()
    except CommandError as error:
        for line in error.lines:
            click.echo(line, err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
