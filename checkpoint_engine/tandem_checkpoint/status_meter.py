"""What a member tells the registry, turned into metrics: switches, stages, what is held, what the time goes to."""

from collections.abc import Mapping, Sequence

from tandem_api.job.status import Direction, Phase
from tandem_api.metrics import Activity, Interruption, SwitchResult
from tandem_api.registry import FailureReason, MemberState, MemberStatus, StageSpan
from tandem_checkpoint.metrics import EngineMetrics
from tandem_checkpoint.switch.protocol import State

DIRECTION_INTO: Mapping[Phase, Direction] = {
    Phase.INFER: Direction.TRAIN_TO_INFER,
    Phase.TRAIN: Direction.INFER_TO_TRAIN,
}
ACTIVITIES: Mapping[MemberState, Activity] = {
    MemberState.TRAINING: Activity.TRAIN,
    MemberState.SERVING: Activity.INFER,
    MemberState.SWITCHING: Activity.SWITCHING,
}
"""Every other state is Idle."""


class StatusMeter:
    """Takes in every status of a member, in the order in which they come."""

    def __init__(self, metrics: EngineMetrics) -> None:
        self._metrics = metrics
        self._last: MemberStatus | None = None
        self._direction: Direction | None = None
        """Of the switch that runs; None while none does."""
        self._counted_epoch = 0
        """Epoch of the last switch that was counted; what is done again in it, as reviving a server, is no switch."""
        self._num_counted = 0
        """Stages of that epoch that were counted."""

    def told(self, status: MemberStatus, phase: Phase | None) -> None:
        """Take in a status. `phase`: of the word that the member acts on; None where there is none."""
        last, self._last = self._last, status
        self._metrics.phase(ACTIVITIES.get(status.state, Activity.IDLE))
        self._metrics.holds(epoch=status.epoch, generation=status.generation, device_bytes=status.device_bytes)
        if last is not None and _is_rejoining(status) and not _is_rejoining(last):
            self._metrics.lease_lost()
        if last is not None and status.epoch != last.epoch:
            self._leave_epoch(last, status)
        if status.state is not MemberState.SWITCHING:
            self._end(status)
        elif phase is not None:
            self._direction = DIRECTION_INTO[phase]

    def _leave_epoch(self, last: MemberStatus, status: MemberStatus) -> None:
        """Count a switch that never came to its end: a newer word, or a start anew, came in between."""
        direction, self._direction = self._direction, None
        if direction is not None and self._count(last, direction):
            if status.state is MemberState.SWITCHING:
                self._metrics.switch_ended(direction, SwitchResult.OVERTAKEN)
            else:
                reason = Interruption.LEASE_LOST if _is_rejoining(status) else FailureReason.CHILD
                self._metrics.switch_ended(direction, SwitchResult.FAILED, reason)
        if status.epoch < last.epoch:
            self._counted_epoch = 0  # from the start on, the same word is a switch again

    def _end(self, status: MemberStatus) -> None:
        direction, self._direction = self._direction, None
        if direction is None or not self._count(status, direction):
            return
        if status.state is MemberState.FAILED:
            self._metrics.switch_ended(direction, SwitchResult.FAILED, status.reason or Interruption.OTHER)
        else:
            self._metrics.switch_ended(direction, SwitchResult.DONE, seconds=_duration(status.stages))

    def _count(self, status: MemberStatus, direction: Direction) -> bool:
        """Count the stages that are new; return whether the switch of this epoch is to be counted too."""
        is_new = status.epoch != self._counted_epoch
        for span in status.stages[0 if is_new else self._num_counted :]:
            self._metrics.stage(direction, span.stage, span.seconds)
        self._counted_epoch, self._num_counted = status.epoch, len(status.stages)
        return is_new


def _is_rejoining(status: MemberStatus) -> bool:
    return status.stage == State.REJOINING


def _duration(stages: Sequence[StageSpan]) -> float:
    """Return the seconds from the first stage's start to the last one's end."""
    ends = [span.started_at + span.seconds for span in stages]
    return max(ends) - min(span.started_at for span in stages) if stages else 0.0
