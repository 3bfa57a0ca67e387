"""The environment of the master container."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tandem_master.errors import SettingsError
from tandem_master.settings import parse_settings
from tests.tandem_checkpoint.certificates import Authority
from tests.tandem_master.conftest import job_config

ROOT = Path(__file__).parents[2]


def environment(folder: Path) -> dict[str, str]:
    """A container's environment with its files."""
    (folder / "config.json").write_text(job_config(folder).model_dump_json())
    (folder / "token").write_text("secret\n")
    return {
        "TANDEM_CONFIG": str(folder / "config.json"),
        "TANDEM_TOKEN_FILE": str(folder / "token"),
        "TANDEM_ETCD": "10.0.0.1:2379, 10.0.0.2:2379",
        "TANDEM_STATE": str(folder / "state"),
        "POD_NAME": "toy-master",
        "POD_IP": "127.0.0.9",
    }


def test_the_environment_is_parsed_once(tmp_path: Path) -> None:
    settings = parse_settings(environment(tmp_path))

    assert settings.etcd_endpoints == ("10.0.0.1:2379", "10.0.0.2:2379")
    assert (settings.token, settings.pod, settings.keys.job) == ("secret", "toy-master", "toy")
    assert "'secret'" not in repr(settings)


@pytest.mark.parametrize("name", ["TANDEM_CONFIG", "TANDEM_TOKEN_FILE", "TANDEM_ETCD", "TANDEM_STATE", "POD_NAME"])
def test_a_missing_variable_is_named(tmp_path: Path, name: str) -> None:
    incomplete = environment(tmp_path)
    del incomplete[name]

    with pytest.raises(SettingsError, match=f"{name}: not set"):
        parse_settings(incomplete)


def test_an_empty_token_is_refused(tmp_path: Path) -> None:
    variables = environment(tmp_path)
    (tmp_path / "token").write_text("\n")

    with pytest.raises(SettingsError, match="TANDEM_TOKEN_FILE: the file is empty"):
        parse_settings(variables)


def test_a_mistake_in_the_configuration_is_named_by_its_field(tmp_path: Path) -> None:
    variables = environment(tmp_path)
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text().replace('"toy"', "7", 1))

    with pytest.raises(SettingsError, match="TANDEM_CONFIG: name: Input should be a valid string"):
        parse_settings(variables)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    variables = environment(tmp_path) | {"TANDEM_CONFIG": str(tmp_path / "nowhere.json")}

    with pytest.raises(SettingsError, match=r"TANDEM_CONFIG: .*nowhere.json cannot be read"):
        parse_settings(variables)


def test_the_process_tells_a_mistake_in_one_line_and_exits_with_1() -> None:
    path = os.pathsep.join(str(ROOT / part) for part in ("api", "checkpoint_engine", "master"))
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": path}

    done = subprocess.run(
        [sys.executable, "-m", "tandem_master"], env=variables, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "TANDEM_ETCD: not set" in done.stderr


def test_the_attempt_is_the_pods_and_the_first_where_none_is_named(tmp_path: Path) -> None:
    variables = environment(tmp_path)

    assert parse_settings(variables).attempt == 0
    assert parse_settings(variables | {"TANDEM_ATTEMPT": "3"}).attempt == 3


def test_certificates_and_the_login_to_etcd_are_those_of_the_engines(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "keys")
    pair = authority.issue("pods", ["toy.default.svc"])
    (tmp_path / "password").write_text("correct horse")
    tls = {"TANDEM_TLS_CERT": str(pair.cert), "TANDEM_TLS_KEY": str(pair.key), "TANDEM_TLS_CA": str(authority.cert)}
    login = {"TANDEM_ETCD_USER": "tandem", "TANDEM_ETCD_PASSWORD_FILE": str(tmp_path / "password")}

    settings = parse_settings(environment(tmp_path) | tls | login)

    assert settings.trust is not None
    assert settings.trust.name == "toy.default.svc"
    assert settings.etcd_credentials.user == "tandem"


def test_without_certificates_pods_are_spoken_to_in_the_clear(tmp_path: Path) -> None:
    assert parse_settings(environment(tmp_path)).trust is None


@pytest.mark.parametrize("name", ["TANDEM_TLS_CERT", "TANDEM_ETCD_USER"])
def test_half_of_it_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match=rf"{name} is; |{name}: is set"):
        parse_settings(environment(tmp_path) | {name: "x"})


@pytest.mark.parametrize(("given", "port"), [({}, None), ({"TANDEM_METRICS_PORT": "8703"}, 8703)])
def test_nobody_gets_metrics_unless_a_port_is_named(tmp_path: Path, given: dict[str, str], port: int | None) -> None:
    assert parse_settings(environment(tmp_path) | given).metrics_port == port
