"""What the command line tells people: one line each, with an exit code."""


class CommandError(Exception):
    """A command cannot go on. `lines`: one problem each."""

    exit_code = 1

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class UserError(CommandError):
    """The user must change something: the manifest, an option, the data."""

    exit_code = 2


class MachineError(CommandError):
    """The machine lacks something: room, a program, a free port."""

    exit_code = 1
