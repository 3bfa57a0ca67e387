"""All objects of a job, from its spec alone."""

from dataclasses import dataclass

from tandem_api.job import RLJob
from tandem_operator.plan.claims import claim_templates
from tandem_operator.plan.configuration import config_map, secret
from tandem_operator.plan.objects import ConfigMap, Pod, ResourceClaimTemplate, Secret, Service
from tandem_operator.plan.pods import pods
from tandem_operator.plan.services import headless_service
from tandem_operator.plan.surroundings import Surroundings
from tandem_operator.plan.template import merged_pods

__all__ = ["Plan", "Surroundings", "plan_job"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The objects of one job."""

    config_map: ConfigMap
    secret: Secret
    services: tuple[Service, ...]
    claim_templates: tuple[ResourceClaimTemplate, ...]
    pods: tuple[Pod, ...]
    """Master first, then hybrid pods by ordinal, then rollout-only pods by ordinal."""

    @property
    def objects(self) -> tuple[ConfigMap | Secret | Service | ResourceClaimTemplate | Pod, ...]:
        """Return all objects in the order in which they are applied: what a pod names comes before it."""
        return (self.config_map, self.secret, *self.services, *self.claim_templates, *self.pods)


def plan_job(job: RLJob, surroundings: Surroundings) -> Plan:
    """Return every object that runs the job: equal input, equal plan.

    SpecError names the field of a spec that no objects can be made from.
    """
    return Plan(
        config_map=config_map(job),
        secret=secret(job, surroundings),
        services=(headless_service(job),),
        claim_templates=claim_templates(job),
        pods=merged_pods(pods(job, surroundings), job.spec.pod_template),
    )
