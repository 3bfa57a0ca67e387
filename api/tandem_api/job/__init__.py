"""The RLJob API, version v1alpha1."""

from tandem_api.job.spec import API_VERSION, RLJob, RLJobSpec
from tandem_api.job.status import Condition, ConditionType, Direction, Phase, RLJobStatus

__all__ = ["API_VERSION", "Condition", "ConditionType", "Direction", "Phase", "RLJob", "RLJobSpec", "RLJobStatus"]
