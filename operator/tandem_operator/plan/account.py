"""The ServiceAccount of a job's pods."""

from tandem_api.job import RLJob
from tandem_operator.plan import names
from tandem_operator.plan.objects import ServiceAccount

ACCOUNT_FIELDS = ("serviceAccountName", "serviceAccount")
"""Fields of a pod spec that name an account; the second is the first one's old name."""


def service_account(job: RLJob) -> ServiceAccount | None:
    """Return the account that the job's pods run as; None where the template names another.

    It has no Role: no container of a job talks to the API server. It stands in for the namespace's `default` account,
    which others may have given rights, so that a job has none whatever is done to that one.
    """
    if names_account(job):
        return None
    return ServiceAccount(metadata=names.metadata(job, names.service_account(job)))


def names_account(job: RLJob) -> bool:
    """Return whether the user's template says as whom pods run."""
    spec = job.spec.pod_template.get("spec")
    return isinstance(spec, dict) and any(field in spec for field in ACCOUNT_FIELDS)
