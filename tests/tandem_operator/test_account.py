"""Who the pods of a job are to the API server: nobody."""

from typing import Any

import pytest

from tests.tandem_operator.jobs import plan_with


def test_pods_run_as_an_account_of_the_job_that_has_no_token() -> None:
    plan = plan_with()

    assert plan.service_account is not None
    assert plan.service_account.metadata.name == "math-8b-pods"
    assert plan.service_account.automount_service_account_token is False
    assert {pod.spec.service_account_name for pod in plan.pods} == {"math-8b-pods"}
    assert {pod.spec.automount_service_account_token for pod in plan.pods} == {False}


def test_nothing_of_a_job_gives_rights() -> None:
    assert [item.kind for item in plan_with().objects if "Role" in item.kind] == []


@pytest.mark.parametrize(
    ("spec", "account"),
    [({"serviceAccountName": "mine"}, "mine"), ({"serviceAccountName": None}, None)],
    ids=["one of the user's", "the namespace's default"],
)
def test_a_template_that_names_an_account_takes_its_place(spec: dict[str, Any], account: str | None) -> None:
    plan = plan_with(podTemplate={"spec": spec})

    assert plan.service_account is None
    assert {pod.spec.service_account_name for pod in plan.pods} == {account}
