"""What containers show others, and etcd, to say who they are: certificates and logins, mounted from Secrets."""

from dataclasses import replace

import pytest

from tests.tandem_operator.jobs import SURROUNDINGS, container_of, env_of, mounts_of, plan_with, pod_of


def test_without_certificates_no_container_hears_of_any() -> None:
    trainer = container_of(pod_of(plan_with(), "math-8b-hybrid-0"), "trainer")

    assert not [name for name in env_of(trainer) if name.startswith("TANDEM_TLS")]
    assert set(mounts_of(trainer)) >= {"/etc/tandem/config", "/etc/tandem/secret"}
    assert "/etc/tandem/tls" not in mounts_of(trainer)


@pytest.mark.parametrize(
    ("pod", "container"),
    [
        ("math-8b-master", "master"),
        ("math-8b-hybrid-0", "trainer"),
        ("math-8b-hybrid-0", "rollout"),
        ("math-8b-rollout-0", "rollout"),
    ],
)
def test_the_jobs_certificates_are_mounted_where_somebody_speaks(pod: str, container: str) -> None:
    found = pod_of(plan_with(tls={"secretName": "keys"}, rollout={"elastic": {"replicas": 1}}), pod)
    variables = env_of(container_of(found, container))

    assert mounts_of(container_of(found, container))["/etc/tandem/tls"] == "tls"
    assert [volume.secret.secret_name for volume in found.spec.volumes if volume.secret and volume.name == "tls"] == [
        "keys"
    ]
    assert (variables["TANDEM_TLS_CERT"], variables["TANDEM_TLS_KEY"], variables["TANDEM_TLS_CA"]) == (
        "/etc/tandem/tls/tls.crt",
        "/etc/tandem/tls/tls.key",
        "/etc/tandem/tls/ca.crt",
    )


@pytest.mark.parametrize(
    ("pod", "container"),
    [("math-8b-master", "master"), ("math-8b-hybrid-0", "trainer"), ("math-8b-hybrid-0", "rollout")],
)
def test_who_the_job_is_to_etcd_is_mounted_from_the_operators_secret(pod: str, container: str) -> None:
    found = pod_of(plan_with(around=replace(SURROUNDINGS, etcd_secret="etcd-login")), pod)

    assert mounts_of(container_of(found, container))["/etc/tandem/etcd"] == "etcd"
    assert env_of(container_of(found, container))["TANDEM_ETCD_CREDENTIALS"] == "/etc/tandem/etcd"
    assert [volume.secret.secret_name for volume in found.spec.volumes if volume.secret and volume.name == "etcd"] == [
        "etcd-login"
    ]
