"""Settings from options."""

from pathlib import Path
from typing import Any

import pytest

from tandem_checkpoint.registry.credentials import NOBODY
from tandem_operator.program.errors import SettingsError
from tandem_operator.program.settings import Address, parse_address, parse_settings

GIVEN: dict[str, Any] = {
    "kubeconfig": None,
    "namespace": (),
    "etcd": ("etcd:2379",),
    "etcd_credentials": None,
    "etcd_secret": None,
    "lease_namespace": "tandem",
    "lease_name": "tandem-operator",
    "identity": "me",
    "metrics_address": "127.0.0.1:8081",
    "workers": 8,
    "writes_per_second": 200,
    "log_format": "json",
    "master_image": None,
}


def test_repeatable_options_take_commas_and_drop_doubles() -> None:
    settings = parse_settings(**GIVEN | {"etcd": ("a:1,b:2", "a:1"), "namespace": ("x", "y,x")})

    assert settings.etcd == ("a:1", "b:2")
    assert settings.namespaces == ("x", "y")


def test_two_replicas_on_one_host_get_different_identities() -> None:
    first = parse_settings(**GIVEN | {"identity": None})
    second = parse_settings(**GIVEN | {"identity": None})

    assert first.lease.identity != second.lease.identity


def test_outside_a_pod_the_lease_is_in_the_default_namespace() -> None:
    settings = parse_settings(**GIVEN | {"lease_namespace": None})

    assert settings.lease.namespace == "default"


def test_a_kubeconfig_is_kept_as_a_path(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.touch()

    assert parse_settings(**GIVEN | {"kubeconfig": str(file)}).kubeconfig == file


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8081", Address("127.0.0.1", 8081)),
        ("127.9.9.9:0", Address("127.9.9.9", 0)),
        ("0.0.0.0:80", Address("0.0.0.0", 80)),
        ("[::1]:80", Address("::1", 80)),
        ("[::]:80", Address("::", 80)),
    ],
)
def test_metrics_are_served_on_loopback_or_on_every_interface(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["192.168.1.1:80", "[2001:db8::1]:80", ":80", "127.0.0.1", "localhost:80"])
def test_any_other_address_for_metrics_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--metrics-address"):
        parse_address(text)


def test_without_credentials_the_operator_is_nobody_to_etcd() -> None:
    settings = parse_settings(**GIVEN)

    assert (settings.etcd_credentials, settings.etcd_secret) == (NOBODY, None)


def test_credentials_are_the_files_of_a_mounted_secret(tmp_path: Path) -> None:
    (tmp_path / "username").write_text("tandem\n")
    (tmp_path / "password").write_text("correct horse\n")

    settings = parse_settings(**GIVEN | {"etcd_credentials": str(tmp_path), "etcd_secret": "etcd-login"})

    assert (settings.etcd_credentials.user, settings.etcd_credentials.password()) == ("tandem", "correct horse")
    assert settings.etcd_secret == "etcd-login"


def test_credentials_that_say_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^--etcd-credentials: .* has none of username, password, ca\.crt"):
        parse_settings(**GIVEN | {"etcd_credentials": str(tmp_path)})


def test_a_secret_must_have_a_name_of_kubernetes() -> None:
    with pytest.raises(SettingsError, match=r"^--etcd-secret: 'My Secret' is no Kubernetes name"):
        parse_settings(**GIVEN | {"etcd_secret": "My Secret"})
