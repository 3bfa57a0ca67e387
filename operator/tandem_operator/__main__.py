"""`tandem-operator`: the operator of RLJobs, in a pod or beside one."""

import asyncio
import logging
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click
from prometheus_client import disable_created_metrics

from tandem_operator.program.assembly import assemble
from tandem_operator.program.errors import ProgramError
from tandem_operator.program.logs import configure_logging
from tandem_operator.program.run import run_operator
from tandem_operator.program.settings import Settings, options, parse_settings, usage_line

logger = logging.getLogger("tandem_operator")

USER_MISTAKE = 2
BUG = 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the operator and exit: 0 after SIGTERM, 1 where the machine or the lease ends it, 2 for a user's mistake."""
    try:
        given = None if arguments is None else list(arguments)
        code = command.main(args=given, prog_name="tandem-operator", standalone_mode=False)
    except ProgramError as error:
        click.echo(str(error), err=True)
        code = error.exit_code
    except click.ClickException as error:
        click.echo(usage_line(error), err=True)
        code = USER_MISTAKE
    sys.exit(code)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tandem-rl")
@options
def command(**given: Any) -> int:
    """Watch RLJobs and keep their pods, services and status as they should be.

    Each option may be given by a variable too: --metrics-address by TANDEM_OPERATOR_METRICS_ADDRESS.
    """
    settings = parse_settings(**given)
    configure_logging(settings.log_format)
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, read by nobody
    return _run(settings)


def _run(settings: Settings) -> int:
    """Return the exit code; whatever ends the program is one record of its log."""
    try:
        asyncio.run(run_operator(settings, assemble(), _version()))
    except ProgramError as error:
        logger.error("%s", error)
        return error.exit_code
    except BaseExceptionGroup as group:
        return _told(group)
    except Exception:  # the top of the process: a bug must be in the log before the pod is started again
        logger.exception("the operator ended by a mistake of its own")
        return BUG
    return 0


def _told(group: BaseExceptionGroup[BaseException]) -> int:
    """Log the errors that tasks ended with; return the exit code."""
    known, unknown = group.split(ProgramError)
    if unknown is not None:
        logger.error("the operator ended by a mistake of its own", exc_info=unknown)
        return BUG
    codes = [_log(error) for error in _leaves(known)]
    return max(codes, default=BUG)


def _log(error: ProgramError) -> int:
    logger.error("%s", error)
    return error.exit_code


def _leaves(group: BaseExceptionGroup[ProgramError] | None) -> list[ProgramError]:
    """Return the errors themselves, out of however many task groups they went through."""
    found: list[ProgramError] = []
    for error in group.exceptions if group else ():
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _version() -> str:
    """Return the version of the distribution; `unknown` where the packages were copied without it."""
    try:
        return version("tandem-rl")
    except PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    main()
