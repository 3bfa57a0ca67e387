"""What a drain of nodes must leave of a job: all of it."""

from tandem_api.job import RLJob
from tandem_operator.plan import names
from tandem_operator.plan.objects import LabelSelector, PodDisruptionBudget, PodDisruptionBudgetSpec


def disruption_budget(job: RLJob) -> PodDisruptionBudget:
    """Return the budget that keeps every pod of the job where it is: without one of them all others wait.

    It counts pods with `minAvailable`. `maxUnavailable: 0` says the same but is computed from the owner's scale
    subresource, and an RLJob's counts the rollout-only pods alone: two of four pods would be free to go. A pod that is
    not ready may always be evicted: it holds a drain up for nothing.
    """
    num_pods = 1 + job.spec.hybrid.replicas + job.spec.rollout.elastic.replicas
    return PodDisruptionBudget(
        metadata=names.metadata(job, names.disruption_budget(job)),
        spec=PodDisruptionBudgetSpec(
            selector=LabelSelector(match_labels=names.selector(job)),
            min_available=num_pods,
            unhealthy_pod_eviction_policy="AlwaysAllow",
        ),
    )
