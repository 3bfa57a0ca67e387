"""What the container tells the engine, and who is told when it is wrong."""

from pathlib import Path

import pytest

from tandem_checkpoint.settings import Settings, SettingsError
from tests.tandem_checkpoint.certificates import Authority
from tests.tandem_checkpoint.jobs import job_config

VARIABLES = ("TANDEM_CONFIG", "TANDEM_TOKEN_FILE", "TANDEM_ETCD", "POD_NAME", "POD_IP", "TANDEM_SHARED")


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of a planner's container; returns the folder that its files are in."""
    (tmp_path / "config.json").write_text(job_config(tmp_path).model_dump_json())
    (tmp_path / "token").write_text("secret\n")
    monkeypatch.setenv("TANDEM_CONFIG", str(tmp_path / "config.json"))
    monkeypatch.setenv("TANDEM_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("TANDEM_ETCD", "10.0.0.1:2379,10.0.0.2:2379")
    monkeypatch.setenv("POD_NAME", "toy-hybrid-0")
    monkeypatch.setenv("POD_IP", "10.1.0.7")
    monkeypatch.setenv("TANDEM_SHARED", "/shared")
    monkeypatch.delenv("TANDEM_STATE", raising=False)
    monkeypatch.delenv("TANDEM_DEVICE", raising=False)
    return tmp_path


@pytest.fixture
def loopback(container: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same on an address that only this machine reaches."""
    monkeypatch.setenv("POD_IP", "127.94.0.3")
    return container


@pytest.mark.usefixtures("container")
def test_everything_is_read_once() -> None:
    settings = Settings.from_environment()

    assert settings.token == "secret"
    assert settings.etcd == ("10.0.0.1:2379", "10.0.0.2:2379")
    assert (settings.pod, settings.address) == ("toy-hybrid-0", "10.1.0.7")
    assert settings.keys.prefix == "/tandem/v1/default/toy/"
    assert settings.state is None


@pytest.mark.usefixtures("container")
@pytest.mark.parametrize("name", VARIABLES)
def test_a_missing_variable_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(name)

    with pytest.raises(SettingsError, match=f"{name}: is not set; start the engine by the planner's pods"):
        Settings.from_environment()


@pytest.mark.parametrize(("name", "file"), [("TANDEM_CONFIG", "config.json"), ("TANDEM_TOKEN_FILE", "token")])
def test_a_missing_file_is_named(name: str, file: str, container: Path) -> None:
    (container / file).unlink()

    with pytest.raises(SettingsError, match=rf"{name}: .*{file} cannot be read \(No such file or directory\)"):
        Settings.from_environment()


def test_a_configuration_of_another_version_is_refused_by_the_field_it_differs_in(container: Path) -> None:
    (container / "config.json").write_text('{"namespace": "default", "somethingNew": 1}')

    with pytest.raises(SettingsError, match=r"TANDEM_CONFIG: \w+: .*; are operator and engine of the same version\?"):
        Settings.from_environment()


def test_an_empty_token_is_refused_where_others_reach_the_pod(container: Path) -> None:
    (container / "token").write_text("\n")

    with pytest.raises(SettingsError) as caught:
        Settings.from_environment()

    assert str(caught.value) == (
        "TANDEM_TOKEN_FILE: holds no token, but others reach 10.1.0.7; mount the job's Secret there"
    )


def test_on_loopback_an_empty_token_is_none(loopback: Path) -> None:
    (loopback / "token").write_text("")

    assert Settings.from_environment().token == ""


@pytest.mark.usefixtures("loopback")
def test_on_loopback_no_token_need_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TANDEM_TOKEN_FILE")

    assert Settings.from_environment().token == ""


@pytest.mark.usefixtures("loopback")
def test_on_loopback_a_token_is_taken_all_the_same() -> None:
    assert Settings.from_environment().token == "secret"


@pytest.mark.usefixtures("container")
def test_the_token_is_in_no_log() -> None:
    assert "'secret'" not in repr(Settings.from_environment())


@pytest.mark.usefixtures("container")
def test_without_certificates_pods_are_spoken_to_in_the_clear() -> None:
    settings = Settings.from_environment()

    assert (settings.tls, settings.trust, settings.scheme) == (None, None, "http")


def test_with_certificates_pods_are_believed_by_the_name_of_the_jobs_service(
    container: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(container / "keys")
    pair = authority.issue("pods", ["toy.default.svc"])
    monkeypatch.setenv("TANDEM_TLS_CERT", str(pair.cert))
    monkeypatch.setenv("TANDEM_TLS_KEY", str(pair.key))
    monkeypatch.setenv("TANDEM_TLS_CA", str(authority.cert))

    settings = Settings.from_environment()

    assert settings.scheme == "https"
    assert settings.trust is not None
    assert settings.trust.name == "toy.default.svc"


@pytest.mark.usefixtures("container")
def test_half_of_the_certificates_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_TLS_CERT", "/etc/tandem/tls/tls.crt")

    with pytest.raises(SettingsError, match=r"^TANDEM_TLS_KEY: is not set, but TANDEM_TLS_CERT is"):
        Settings.from_environment()


def test_the_registry_is_told_who_we_are(container: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (container / "password").write_text("correct horse")
    monkeypatch.setenv("TANDEM_ETCD_USER", "tandem")
    monkeypatch.setenv("TANDEM_ETCD_PASSWORD_FILE", str(container / "password"))

    assert Settings.from_environment().etcd_credentials.user == "tandem"


@pytest.mark.usefixtures("container")
def test_a_user_without_a_password_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_ETCD_USER", "tandem")

    with pytest.raises(SettingsError, match=r"^TANDEM_ETCD_USER: is set without TANDEM_ETCD_PASSWORD_FILE"):
        Settings.from_environment()


@pytest.mark.usefixtures("container")
def test_the_device_is_the_configurations() -> None:
    assert Settings.from_environment().config.device == "cpu"


@pytest.mark.usefixtures("container")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_environment_may_name_another_device(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_DEVICE", device)

    assert Settings.from_environment().config.device == device


@pytest.mark.usefixtures("container")
@pytest.mark.parametrize("device", ["tpu", "CPU", ""])
def test_a_device_that_does_not_exist_is_refused_in_one_line(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_DEVICE", device)

    with pytest.raises(SettingsError, match=f"^TANDEM_DEVICE: is '{device}'; use cpu or cuda, or leave it unset$"):
        Settings.from_environment()


@pytest.mark.usefixtures("container")
def test_the_attempt_is_the_pods_and_the_first_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TANDEM_ATTEMPT", raising=False)
    first = Settings.from_environment().attempt
    monkeypatch.setenv("TANDEM_ATTEMPT", "3")

    assert (first, Settings.from_environment().attempt) == (0, 3)
