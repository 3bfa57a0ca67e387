"""What ends a run before its time. The text of every error is one line for people."""


class MasterError(Exception):
    """The job cannot go on."""


class SettingsError(MasterError):
    """The container's environment or the job's configuration cannot be used."""


class DataError(MasterError):
    """A problem set or the policy's folder cannot be used."""


class RewardError(MasterError):
    """A reward function cannot be called at all."""


class BufferStateError(MasterError):
    """The state folder contradicts itself or this job."""


class ElectionError(MasterError):
    """Another master holds the job, or the registry cannot say."""


class MembersError(MasterError):
    """Members are missing, or wrote what nobody can read."""


class Recoverable(MasterError):  # noqa: N818 - what can be done about it, not whose mistake it is
    """What is left of the iteration can be run again: nothing of it counts before its commit."""


class SwitchError(Recoverable):
    """A switch failed or missed its deadline."""


class RolloutError(Recoverable):
    """The servers did not answer a request for samples."""


class TrainError(Recoverable):
    """A trainer did not answer, was in another phase, or could not save."""


class Disagreement(MasterError):  # noqa: N818 - what was found, not whose mistake it is
    """A server holds other weights than the trainer: the self-test has seen it, or a trainer has refused a batch of it.
    Trying again would hide it."""


class GenerationLost(MasterError):  # noqa: N818 - what has happened, not whose mistake it is
    """Nobody holds the weights that the iteration starts from: the job goes back to its newest checkpoint."""


class CheckpointsFailed(MasterError):  # noqa: N818 - what has happened, not whose mistake it is
    """Several checkpoints in a row could not be written: what is trained would be lost with the pods."""


class Stopped(Exception):  # noqa: N818 - an order that was followed, not an error
    """A stop was asked for, and the work in hand was finished or given up.

    `weights_known` is False where a Train phase was cut: what the trainer holds is then no generation.
    """

    def __init__(self, *, weights_known: bool = True) -> None:
        super().__init__("stopped")
        self.weights_known = weights_known
