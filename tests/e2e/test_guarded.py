"""A whole job whose pods speak TLS with each other, and whose etcd asks who they are."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

import httpx
import pytest
import yaml
from etcd3aio import Etcd3Client

from tandem_api.engine import ENGINE_PORT_ROLLOUT, ENGINE_PORT_TRAIN
from tandem_api.job import RLJob
from tandem_api.registry import Keys
from tandem_checkpoint.registry.credentials import read_credentials
from tandem_checkpoint.registry.etcd import connect
from tandem_checkpoint.tls import TlsFiles, service_name
from tandem_cli.checks import segment_bytes
from tandem_cli.local.cleanup import janitor
from tandem_cli.local.network import pod_addresses
from tandem_cli.local.node import Node
from tandem_cli.local.volumes import Folders
from tandem_cli.session import MANIFEST_BYTES, memory_folder
from tandem_master.client import pod_client
from tandem_master.members import MemberId, Membership, read_membership
from tandem_operator.plan.job import Plan, Surroundings, plan_job
from tests.e2e.jobs import iterations, leftovers, write_job
from tests.tandem_checkpoint.certificates import Authority
from tests.tandem_checkpoint.etcd_process import EtcdProcess
from tests.tandem_checkpoint.etcd_users import PASSWORD, USER, forbid_strangers

pytestmark = [pytest.mark.e2e, pytest.mark.megatron, pytest.mark.vllm, pytest.mark.etcd]

NAME, POD = "reverse-digits", "reverse-digits-hybrid-0"
NETWORK = IPv4Network("127.98.7.0/24")
TLS_SECRET, ETCD_SECRET = "job-tls", "job-etcd"
RUN_SECONDS = 240.0


@dataclass(frozen=True, slots=True)
class GuardedRun:
    """What a run looked like, from outside."""

    folder: Path
    code: int
    members: Membership
    """While the pods ran."""
    answers: Mapping[str, int | str]
    """To a question about health: the status, or the error."""


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """What the job's Secrets hold, as folders."""
    folder = tmp_path_factory.mktemp("secrets")
    authority = Authority(folder / "keys")
    pair = authority.issue("pods", [service_name("default", NAME)])
    contents = {
        TLS_SECRET: {"tls.crt": pair.cert.read_text(), "tls.key": pair.key.read_text()},
        ETCD_SECRET: {"username": USER, "password": PASSWORD},
    }
    contents[TLS_SECRET]["ca.crt"] = authority.cert.read_text()
    return {name: written(folder / name, files) for name, files in contents.items()}


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    """An etcd with users."""
    process = EtcdProcess(tmp_path_factory.mktemp("etcd"))
    process.start()
    asyncio.run(guard(process.endpoint))
    yield process
    process.kill()


@pytest.fixture(scope="module")
def run(
    toy: Path, secrets: Mapping[str, Path], etcd: EtcdProcess, tmp_path_factory: pytest.TempPathFactory
) -> GuardedRun:
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "run").mkdir()
    manifest = yaml.safe_load(write_job(folder, "01-reverse-digits", toy, iterations=2).read_text())
    manifest["spec"] |= {"tls": {"secretName": TLS_SECRET}, "checkpoints": {"claimName": NAME}}
    job = RLJob.model_validate(manifest)
    around = Surroundings(
        etcd_endpoints=(etcd.endpoint,),
        token="s3cret",
        shared_memory_bytes=2 * segment_bytes(job) + MANIFEST_BYTES,
        etcd_secret=ETCD_SECRET,
    )
    return asyncio.run(run_to_end(plan_job(job, around), etcd.endpoint, folder, secrets))


def written(folder: Path, files: Mapping[str, str]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


async def guard(endpoint: str) -> None:
    async with Etcd3Client([endpoint]) as client:
        await forbid_strangers(client)


async def run_to_end(plan: Plan, endpoint: str, folder: Path, secrets: Mapping[str, Path]) -> GuardedRun:
    """Run the pods of a plan until their master has ended, and look at them before they are stopped."""
    addresses = pod_addresses(NETWORK, (pod.metadata.name for pod in plan.pods))
    with janitor() as cleanup:
        memory = cleanup.add_folder(memory_folder(Path("/dev/shm"), folder))
        scratch = cleanup.add_folder(memory_folder(Path("/tmp"), folder))  # short: sockets are in it
        node = Node(cleanup, folder / "logs")
        try:
            await node.start_pods(plan, addresses, Folders(memory, scratch, folder / "run", secrets))
            healing = asyncio.create_task(node.heal(print))
            async with asyncio.timeout(RUN_SECONDS):
                code = await node.verdict()
            members = await members_of(endpoint, secrets[ETCD_SECRET])
            answers = await health_of(addresses[POD], secrets[TLS_SECRET], folder)
            node.begin_stop()
            healing.cancel()
        finally:
            await node.stop()
    return GuardedRun(folder / "run", code, members, answers)


async def members_of(endpoint: str, secret: Path) -> Membership:
    keys = Keys("default", NAME)
    credentials = read_credentials({"TANDEM_ETCD_CREDENTIALS": str(secret)})
    async with connect([endpoint], credentials) as registry:
        return read_membership({**await registry.list(keys.members)}, keys)


async def health_of(address: str, secret: Path, folder: Path) -> Mapping[str, int | str]:
    """Ask both engines of a pod for their health: as a pod of the job, as one of another authority, in the clear."""
    files = TlsFiles(secret / "tls.crt", secret / "tls.key", secret / "ca.crt")
    stranger = TlsFiles(files.cert, files.key, Authority(folder / "others", "other").cert)
    name = service_name("default", NAME)
    return {
        "trainer": await health(f"https://{address}:{ENGINE_PORT_TRAIN}", files, name),
        "rollout": await health(f"https://{address}:{ENGINE_PORT_ROLLOUT}", files, name),
        "another authority": await health(f"https://{address}:{ENGINE_PORT_TRAIN}", stranger, name),
        "another name": await health(f"https://{address}:{ENGINE_PORT_TRAIN}", files, "other.default.svc"),
        "in the clear": await health(f"http://{address}:{ENGINE_PORT_TRAIN}", files, name),
    }


async def health(url: str, files: TlsFiles, name: str) -> int | str:
    async with pod_client("no token", files.trust(name)) as client:
        try:
            return (await client.get(f"{url}/healthz")).status_code
        except httpx.TransportError as error:
            return type(error).__name__


def test_the_job_completes_its_iterations(run: GuardedRun) -> None:
    assert run.code == 0
    assert [record.iteration for record in iterations(run.folder)] == [1, 2]


def test_every_engine_and_every_server_speaks_tls(run: GuardedRun) -> None:
    trainer, rollout = (run.members.records[MemberId(POD, role)] for role in ("train", "rollout"))

    assert (trainer.scheme, rollout.scheme) == ("https", "https")
    assert [server.partition(":")[0] for server in rollout.servers] == ["https"]


def test_only_pods_of_the_job_are_believed(run: GuardedRun) -> None:
    assert (run.answers["trainer"], run.answers["rollout"]) == (200, 200)
    assert (run.answers["another authority"], run.answers["another name"]) == ("ConnectError", "ConnectError")
    assert run.answers["in the clear"] in ("RemoteProtocolError", "ReadError")


def test_nothing_is_left_of_it(run: GuardedRun) -> None:
    assert leftovers(run.folder) == []
