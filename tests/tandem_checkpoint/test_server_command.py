"""How vLLM's servers are started, and what a server's engine registers of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tandem_checkpoint.architectures.split import SplitRefused
from tandem_checkpoint.conflict import Conflict
from tandem_checkpoint.gpu_token import GpuToken
from tandem_checkpoint.registry.mirror import Mirror
from tandem_checkpoint.settings import Settings
from tandem_checkpoint.switch.rollout import RolloutSide, server_command
from tandem_checkpoint.switch.side import Surroundings
from tandem_checkpoint.tls import TlsFiles
from tests.fakes.registry import FakeRegistry
from tests.tandem_checkpoint.jobs import job_config, settings_of
from tests.tandem_checkpoint.policies import write_config


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_of(job_config(write_config(tmp_path / "policy"), num_ranks=2), tmp_path)


def option(command: Sequence[str], name: str) -> str:
    return command[command.index(name) + 1]


def split(settings: Settings, num_tensor: int, num_stages: int = 1) -> Settings:
    """Return the settings of the same job with servers of so many devices."""
    rollout = settings.config.spec.rollout
    parallelism = rollout.parallelism.model_copy(update={"tensor": num_tensor, "pipeline": num_stages})
    spec = settings.config.spec.model_copy(update={"rollout": rollout.model_copy(update={"parallelism": parallelism})})
    return replace(settings, config=settings.config.model_copy(update={"spec": spec}))


def side(settings: Settings) -> RolloutSide:
    around = Surroundings(settings, FakeRegistry(), Mirror(), 1, "incarnation")
    return RolloutSide(around, GpuToken(settings.shared / "gpu.token"))


def test_a_servers_routes_are_closed_to_those_without_the_token(settings: Settings) -> None:
    command = server_command(settings, 8000)

    assert option(command, "--middleware") == "tandem_checkpoint.bearer.ServerGuard"


def test_without_a_token_nobody_is_asked_for_one(settings: Settings) -> None:
    assert "--middleware" not in server_command(replace(settings, token=""), 8000)


def test_a_deterministic_server_has_one_sequence_and_no_prefix_cache_whatever_its_arguments_say(
    settings: Settings,
) -> None:
    asked = {"max_num_seqs": 256, "enable_prefix_caching": True}
    rollout = settings.config.spec.rollout.model_copy(update={"engine_args": asked, "deterministic": True})
    spec = settings.config.spec.model_copy(update={"rollout": rollout})
    settings = replace(settings, config=settings.config.model_copy(update={"spec": spec}))

    command = server_command(settings, 8000)

    words = [command.index("--max-num-seqs"), command.index("--enable-prefix-caching")]
    last = command[max(words) + 1 :]
    assert option(last, "--max-num-seqs") == "1"
    assert "--no-enable-prefix-caching" in last


@pytest.mark.parametrize(("num_tensor", "executor"), [(1, "uni"), (2, "mp")])
def test_a_server_on_several_devices_has_a_process_for_each(settings: Settings, num_tensor: int, executor: str) -> None:
    command = server_command(split(settings, num_tensor), 8000)

    assert option(command, "--tensor-parallel-size") == str(num_tensor)
    assert option(command, "--distributed-executor-backend") == executor


def test_a_server_of_two_stages_has_a_process_for_each(settings: Settings) -> None:
    command = server_command(split(settings, 1, num_stages=2), 8000)

    assert option(command, "--pipeline-parallel-size") == "2"
    assert option(command, "--distributed-executor-backend") == "mp"


def on_gpus(settings: Settings) -> Settings:
    """Return the settings of the same job on GPUs."""
    return replace(settings, config=settings.config.model_copy(update={"device": "cuda"}))


@pytest.mark.parametrize(
    ("num_tensor", "num_stages", "devices"),
    [(1, 1, ["0", "1", "2", "3"]), (2, 1, ["0,1", "2,3"]), (1, 2, ["0,1", "2,3"])],
    ids=["one each", "two each", "two stages each"],
)
def test_the_servers_of_a_pod_share_its_gpus(
    tmp_path: Path, num_tensor: int, num_stages: int, devices: list[str]
) -> None:
    four = settings_of(job_config(write_config(tmp_path / "policy"), num_ranks=4), tmp_path)
    settings = on_gpus(split(four, num_tensor, num_stages))

    commands = [server_command(settings, 8000 + place) for place in range(len(devices))]

    assert [option(command, "--device-ids") for command in commands] == devices


def test_a_server_that_has_all_devices_of_its_pod_is_not_told_which(settings: Settings) -> None:
    assert "--device-ids" not in server_command(on_gpus(split(settings, 2)), 8000)
    assert "--device-ids" not in server_command(settings, 8000)


def test_a_pod_registers_a_server_for_as_many_devices_as_one_takes(settings: Settings) -> None:
    assert side(split(settings, 2)).record().servers == ("http://127.0.0.1:8000",)


def test_a_policy_that_cannot_be_split_so_is_refused_before_anything_is_started(settings: Settings) -> None:
    with pytest.raises(SplitRefused, match=r"parallelism\.tensor: 8 does not divide 4 query heads; use 1, 2 or 4"):
        side(split(settings, 8))


def test_servers_of_a_job_with_certificates_speak_tls(settings: Settings) -> None:
    tls = TlsFiles(Path("/tls/tls.crt"), Path("/tls/tls.key"), Path("/tls/ca.crt"))
    with_tls = replace(settings, tls=tls)

    command = server_command(with_tls, 8000)

    assert (option(command, "--ssl-certfile"), option(command, "--ssl-keyfile")) == ("/tls/tls.crt", "/tls/tls.key")
    assert side(with_tls).record().scheme == "https"
    assert side(with_tls).record().servers == ("https://127.0.0.1:8000", "https://127.0.0.1:8001")


async def test_the_servers_engine_of_a_hybrid_pod_fetches_nothing(settings: Settings) -> None:
    with pytest.raises(Conflict, match="this pod's own trainer writes its segments"):
        await side(settings).fetch(3)
