"""Switches as the master records them."""

from tandem_api.critical_path import critical_path
from tandem_api.history import SwitchRecord
from tandem_api.job.status import Direction
from tests.tandem_api.switches import STARTED_AT, PodTimes, to_infer


def switch_record(epoch: int = 3, num_pods: int = 2) -> SwitchRecord:
    """Return the record of one complete change to inference."""
    stages, seconds = to_infer([PodTimes()] * num_pods)
    return SwitchRecord(
        epoch=epoch,
        iteration=2,
        generation=1,
        direction=Direction.TRAIN_TO_INFER,
        started_at=STARTED_AT,
        seconds=seconds,
        stages=stages,
        critical_path=critical_path(stages, STARTED_AT, seconds),
    )
