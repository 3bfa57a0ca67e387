"""A pod's volumes as folders, its containers' environment, and mount paths translated."""

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from tandem_cli.errors import MachineError
from tandem_cli.local.environment import PASSED_ON, container_environment
from tandem_cli.local.volumes import Folders, make_volumes, translate
from tandem_operator.plan.configuration import CONFIG_KEY, TOKEN_KEY
from tandem_operator.plan.objects import Container, EnvVar, VolumeMount
from tests.tandem_operator.jobs import container_of, plan_with, pod_of

PLAN = plan_with(name="math", checkpoints={"claimName": "math"})
HYBRID = pod_of(PLAN, "math-hybrid-0")
TRAINER = container_of(HYBRID, "trainer")
ADDRESS = "127.31.7.11"


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(memory=tmp_path / "memory", scratch=tmp_path / "scratch", state=tmp_path / "state")


def container_with(*mounts: tuple[str, str], env: tuple[EnvVar, ...] = ()) -> Container:
    """Return a container with volumes mounted at paths."""
    volume_mounts = tuple(VolumeMount(name=name, mount_path=path) for name, path in mounts)
    return Container(name="c", image="i", command=("true",), env=env, volume_mounts=volume_mounts)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_each_kind_of_volume_has_its_place(folders: Folders) -> None:
    assert make_volumes(PLAN, HYBRID, folders) == {
        "config": folders.scratch / "math-hybrid-0" / "config",
        "secret": folders.scratch / "math-hybrid-0" / "secret",
        "shared": folders.memory / "math-hybrid-0" / "shared",
        "state": folders.state,
    }


def test_configuration_and_token_are_written_for_their_owner_alone(folders: Folders) -> None:
    volumes = make_volumes(PLAN, HYBRID, folders)

    config, token = volumes["config"] / CONFIG_KEY, volumes["secret"] / TOKEN_KEY
    assert config.read_text() == PLAN.config_map.data[CONFIG_KEY]
    assert token.read_text() == PLAN.secret.string_data[TOKEN_KEY]
    assert (mode_of(config), mode_of(token), mode_of(volumes["shared"])) == (0o600, 0o600, 0o700)


def test_pods_share_their_state_and_nothing_else(folders: Folders) -> None:
    hybrid = make_volumes(PLAN, HYBRID, folders)
    master = make_volumes(PLAN, pod_of(PLAN, "math-master"), folders)

    assert set(hybrid.values()) & set(master.values()) == {folders.state}


def test_a_volume_that_cannot_be_made_is_the_machines_problem(folders: Folders) -> None:
    folders.memory.touch()

    with pytest.raises(MachineError, match=r"/shared: cannot be written \(Not a directory\); free space or permit it$"):
        make_volumes(PLAN, HYBRID, folders)


@pytest.mark.parametrize(
    ("value", "translated"),
    [
        ("/data", "/here/data"),
        ("/data/train.jsonl", "/here/data/train.jsonl"),
        ("/database/rows", "/database/rows"),
        ("/etc/data", "/etc/data"),
        ("data", "data"),
        ("--path=/data", "--path=/data"),
        ("", ""),
    ],
)
def test_only_a_leading_mount_path_is_translated(value: str, translated: str) -> None:
    container = container_with(("files", "/data"))

    assert translate(container, {"files": Path("/here/data")}, value) == translated


def test_a_container_sees_its_own_variables_by_its_own_paths(folders: Folders, tmp_path: Path) -> None:
    volumes = make_volumes(PLAN, HYBRID, folders)

    environment = container_environment(HYBRID, TRAINER, volumes, ADDRESS, tmp_path)

    assert environment["TANDEM_CONFIG"] == str(volumes["config"] / CONFIG_KEY)
    assert environment["TANDEM_TOKEN_FILE"] == str(volumes["secret"] / TOKEN_KEY)
    assert environment["TANDEM_SHARED"] == str(volumes["shared"])
    assert environment["TANDEM_STATE"] == str(folders.state)
    assert environment["TANDEM_ETCD"] == "etcd-0:2379,etcd-1:2379"


def test_fields_of_the_pod_are_filled_in(tmp_path: Path) -> None:
    volumes = {"config": tmp_path, "secret": tmp_path, "shared": tmp_path, "state": tmp_path}

    environment = container_environment(HYBRID, TRAINER, volumes, ADDRESS, tmp_path)

    fields = [environment[name] for name in ("POD_NAME", "POD_NAMESPACE", "POD_IP")]
    assert fields == ["math-hybrid-0", "research", ADDRESS]


def test_of_the_callers_environment_only_what_an_image_would_hold_gets_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VLLM_PORT", "1")
    monkeypatch.setenv("MASTER_ADDR", "elsewhere")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    monkeypatch.setenv("LANG", "C.UTF-8")

    environment = container_environment(HYBRID, container_with(), {}, ADDRESS, tmp_path)

    assert set(environment) <= {"PATH", "TMPDIR", *PASSED_ON}
    assert environment["LANG"] == "C.UTF-8"
    assert environment["TMPDIR"] == str(tmp_path)


def test_this_installations_programs_are_found_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")

    environment = container_environment(HYBRID, container_with(), {}, ADDRESS, tmp_path)

    programs, _, rest = environment["PATH"].partition(":")
    assert (Path(programs) / "tandem-engine").exists()
    assert rest == "/usr/bin"


def test_the_pod_has_the_last_word_on_a_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LANG", "C")
    container = container_with(env=(EnvVar(name="LANG", value="de_DE.UTF-8"), EnvVar(name="EMPTY")))

    environment = container_environment(HYBRID, container, {}, ADDRESS, tmp_path)

    assert (environment["LANG"], environment["EMPTY"]) == ("de_DE.UTF-8", "")


def test_a_secret_that_others_have_made_is_a_folder_of_this_machine(folders: Folders, tmp_path: Path) -> None:
    plan = plan_with(name="math", checkpoints={"claimName": "math"}, tls={"secretName": "keys"})
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "ca.crt").write_text("authority")

    volumes = make_volumes(plan, pod_of(plan, "math-hybrid-0"), replace(folders, secrets={"keys": tmp_path / "keys"}))

    assert (volumes["tls"] / "ca.crt").read_text() == "authority"
    assert (volumes["secret"] / TOKEN_KEY).read_text() == plan.secret.string_data[TOKEN_KEY]


def test_a_secret_that_is_not_on_this_machine_is_named(folders: Folders) -> None:
    plan = plan_with(name="math", checkpoints={"claimName": "math"}, tls={"secretName": "keys"})

    with pytest.raises(MachineError, match="Secret keys: this machine has none of that name"):
        make_volumes(plan, pod_of(plan, "math-hybrid-0"), folders)
