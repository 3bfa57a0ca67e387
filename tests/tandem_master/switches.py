"""Switches as the master records them."""

from tandem_api.history import SwitchRecord
from tandem_api.job.status import Direction
from tests.tandem_api import switches
from tests.tandem_api.switches import PodTimes, to_infer


def switch_record(epoch: int = 3, num_pods: int = 2) -> SwitchRecord:
    """Return the record of one complete change to inference."""
    stages, seconds = to_infer([PodTimes()] * num_pods)
    return switches.switch_record(stages, seconds, Direction.TRAIN_TO_INFER, epoch=epoch, iteration=2, generation=1)
