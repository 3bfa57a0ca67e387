"""What ends the program with one line for people."""


class ProgramError(Exception):
    """`where: problem; fix`, and the exit code that goes with it."""

    exit_code = 1


class SettingsError(ProgramError):
    """The caller's mistake: an option or its environment variable."""

    exit_code = 2


class MachineError(ProgramError):
    """The machine's or the cluster's fault: a port that is taken, credentials that do not work."""


class LeaseLostError(ProgramError):
    """Another replica leads now, or this one could not say in time that it still does."""
