"""What ends a run before its time. The text of every error is one line for people."""


class MasterError(Exception):
    """The job cannot go on."""


class SettingsError(MasterError):
    """The container's environment or the job's configuration cannot be used."""


class DataError(MasterError):
    """A problem set or the policy's folder cannot be used."""


class BufferStateError(MasterError):
    """The state folder contradicts itself or this job."""


class ElectionError(MasterError):
    """Another master holds the job, or the registry cannot say."""


class MembersError(MasterError):
    """Members are missing, or wrote what nobody can read."""


class SwitchError(MasterError):
    """A switch failed or missed its deadline."""


class RolloutError(MasterError):
    """The servers did not answer a request for samples."""


class TrainError(MasterError):
    """A trainer refused a batch or could not save."""


class Stopped(Exception):  # noqa: N818 - an order that was followed, not an error
    """A stop was asked for, and the work in hand was finished or given up.

    `weights_known` is False where a Train phase was cut: what the trainer holds is then no generation.
    """

    def __init__(self, *, weights_known: bool = True) -> None:
        super().__init__("stopped")
        self.weights_known = weights_known
