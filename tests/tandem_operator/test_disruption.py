"""What a drain of nodes must leave of a job."""

from hypothesis import given, settings

from tandem_api.job import RLJob
from tandem_operator.plan.job import plan_job
from tests.tandem_operator.jobs import JOBS, SURROUNDINGS, plan_with


def test_all_pods_must_stay_and_one_that_is_not_ready_may_go() -> None:
    plan = plan_with(hybrid={"replicas": 2}, rollout={"elastic": {"replicas": 1}})

    assert plan.disruption_budget.manifest()["spec"] == {
        "selector": {"matchLabels": {"tandem.dev/job": "math-8b"}},
        "minAvailable": 4,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }


@settings(max_examples=40)
@given(job=JOBS)
def test_the_budget_counts_the_pods_of_the_plan(job: RLJob) -> None:
    plan = plan_job(job, SURROUNDINGS)

    assert plan.disruption_budget.spec.min_available == len(plan.pods)
