"""The RLJob API, version v1alpha1."""

from tandem_api.job.spec import API_VERSION, RLJob, RLJobSpec
from tandem_api.job.status import Direction, Phase, RLJobStatus

__all__ = ["API_VERSION", "Direction", "Phase", "RLJob", "RLJobSpec", "RLJobStatus"]
