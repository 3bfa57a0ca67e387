"""What the container tells the engine, and who is told when it is wrong."""

from pathlib import Path

import pytest

from tandem_checkpoint.settings import Settings, SettingsError
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
