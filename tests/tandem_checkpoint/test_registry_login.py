"""A real etcd that asks who we are: users with passwords, certificates, and both."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from etcd3aio import Etcd3Client

from tandem_checkpoint.registry.credentials import EtcdCredentials
from tandem_checkpoint.registry.errors import Fenced, RegistryRefused, RegistryUnreachable
from tandem_checkpoint.registry.etcd import connect
from tandem_checkpoint.registry.mirror import mirrored
from tandem_checkpoint.registry.store import Absent, Put
from tests.tandem_checkpoint.certificates import Authority, Pair
from tests.tandem_checkpoint.etcd_process import EtcdProcess, free_address
from tests.tandem_checkpoint.etcd_users import PASSWORD, PREFIX, USER, forbid_strangers

pytestmark = pytest.mark.etcd

SOON = 20.0
LEASE_SECONDS = 3


async def change_password(endpoint: str, password: str) -> None:
    async with Etcd3Client([endpoint]) as client, client.token_refresher("root", "root"):
        assert client.auth is not None
        await client.auth.user_change_password(USER, password)


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[EtcdProcess]:
    """An etcd with users."""
    process = EtcdProcess(tmp_path / "etcd")
    process.data.mkdir()
    process.start()
    async with Etcd3Client([process.endpoint]) as client:
        await forbid_strangers(client)
    yield process
    process.kill()


@pytest.fixture
def credentials(tmp_path: Path) -> EtcdCredentials:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    return EtcdCredentials(user=USER, password_file=tmp_path / "password")


async def test_a_user_with_the_right_password_may_do_everything_a_job_needs(
    guarded: EtcdProcess, credentials: EtcdCredentials
) -> None:
    async with (
        connect([guarded.endpoint], credentials) as registry,
        mirrored(registry, PREFIX) as mirror,
        registry.lease(30) as lease,
    ):
        await registry.put(f"{PREFIX}member", "x", lease=lease.id)
        await registry.transact([Absent(f"{PREFIX}layout")], [Put(f"{PREFIX}layout", "y")])
        with pytest.raises(Fenced):
            await registry.transact([Absent(f"{PREFIX}layout")], [Put(f"{PREFIX}layout", "z")])
        async with asyncio.timeout(SOON):
            await mirror.wait(lambda seen: seen.values.get(f"{PREFIX}layout"))
        await registry.delete(f"{PREFIX}layout")

        assert dict(await registry.list(PREFIX)) == {f"{PREFIX}member": "x"}


async def test_without_a_user_the_variable_to_set_is_named(guarded: EtcdProcess) -> None:
    async with connect([guarded.endpoint]) as registry:
        with pytest.raises(
            RegistryRefused, match=r"^etcd: get /tandem was refused \(.*user.*\); look at TANDEM_ETCD_USER"
        ):
            await registry.get("/tandem")


async def test_a_wrong_password_is_refused_at_once(guarded: EtcdProcess, credentials: EtcdCredentials) -> None:
    assert credentials.password_file is not None
    credentials.password_file.write_text("wrong")

    async with connect([guarded.endpoint], credentials) as registry:
        with pytest.raises(
            RegistryRefused, match=r"^etcd: put /tandem/v1/a was refused \(.*invalid user ID or password"
        ):
            await registry.put(f"{PREFIX}a", "1")


async def test_keys_of_others_are_out_of_reach(guarded: EtcdProcess, credentials: EtcdCredentials) -> None:
    async with connect([guarded.endpoint], credentials) as registry:
        with pytest.raises(RegistryRefused, match=r"put /registry/pods was refused .*permission denied.*role in etcd"):
            await registry.put("/registry/pods", "1")


async def test_a_login_is_renewed_when_etcd_comes_back_and_remembers_none(
    guarded: EtcdProcess, credentials: EtcdCredentials
) -> None:
    async with (
        connect([guarded.endpoint], credentials) as registry,
        mirrored(registry, PREFIX) as mirror,
        registry.lease(LEASE_SECONDS) as lease,
    ):
        await registry.put(f"{PREFIX}member", "1", lease=lease.id)
        guarded.kill()
        await asyncio.to_thread(guarded.start)

        await registry.put(f"{PREFIX}member", "2", lease=lease.id)
        async with asyncio.timeout(SOON):
            await mirror.wait(lambda seen: True if seen.values.get(f"{PREFIX}member") == "2" else None)
        await asyncio.sleep(2 * LEASE_SECONDS)

        assert lease.alive
        assert await registry.get(f"{PREFIX}member") == "2"


async def test_a_password_that_changes_is_read_again(guarded: EtcdProcess, credentials: EtcdCredentials) -> None:
    assert credentials.password_file is not None
    async with connect([guarded.endpoint], credentials) as registry:
        await registry.put(f"{PREFIX}a", "1")

        await change_password(guarded.endpoint, "another")
        credentials.password_file.write_text("another")

        await registry.put(f"{PREFIX}a", "2")
        assert await registry.get(f"{PREFIX}a") == "2"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "keys")


def etcd_with_tls(folder: Path, authority: Authority, *arguments: str, names: tuple[str, ...] = ()) -> EtcdProcess:
    """Return an etcd whose certificate holds for its address and `names`."""
    address = free_address()
    pair = authority.issue("etcd", [address, *names])
    folder.mkdir()
    url = f"https://{address}:2379"
    tls = ("--cert-file", str(pair.cert), "--key-file", str(pair.key))
    urls = ("--listen-client-urls", url, "--advertise-client-urls", url)
    return EtcdProcess(folder, address, (*urls, *tls, *arguments))


@pytest.fixture
def closed(tmp_path: Path, authority: Authority) -> Iterator[EtcdProcess]:
    """An etcd that takes only connections with a certificate of the authority."""
    trust = ("--client-cert-auth", "--trusted-ca-file", str(authority.cert))
    process = etcd_with_tls(tmp_path / "etcd", authority, *trust)
    process.start()
    yield process
    process.kill()


def certified(authority: Authority, pair: Pair) -> EtcdCredentials:
    return EtcdCredentials(ca=authority.cert, cert=pair.cert, key=pair.key)


async def test_a_client_certificate_opens_an_etcd_that_asks_for_one(closed: EtcdProcess, authority: Authority) -> None:
    credentials = certified(authority, authority.issue(USER))

    async with connect([closed.endpoint], credentials) as registry:
        await registry.put("/a", "1")
        assert await registry.get("/a") == "1"


async def test_etcd_takes_the_name_in_the_certificate_for_the_user(closed: EtcdProcess, authority: Authority) -> None:
    credentials, root = certified(authority, authority.issue(USER)), authority.issue("root")
    async with Etcd3Client(
        [closed.endpoint],
        ca_cert=authority.cert.read_bytes(),
        cert_key=root.key.read_bytes(),
        cert_chain=root.cert.read_bytes(),
    ) as client:
        await forbid_strangers(client)

    async with connect([closed.endpoint], credentials) as registry:
        await registry.put(f"{PREFIX}a", "1")
        with pytest.raises(RegistryRefused, match="permission denied"):
            await registry.put("/b", "1")


async def test_without_a_client_certificate_nobody_gets_in(closed: EtcdProcess, authority: Authority) -> None:
    async with connect([closed.endpoint], EtcdCredentials(ca=authority.cert), patience_seconds=1) as registry:
        with pytest.raises(RegistryUnreachable):
            await registry.get("/a")


@pytest.fixture
def sealed(tmp_path: Path, authority: Authority) -> Iterator[EtcdProcess]:
    """An etcd with TLS and a certificate that also holds for a name."""
    process = etcd_with_tls(tmp_path / "etcd", authority, names=("localhost",))
    process.start()
    yield process
    process.kill()


async def test_with_the_authoritys_certificate_etcd_is_spoken_to_over_tls(
    sealed: EtcdProcess, authority: Authority
) -> None:
    async with connect([sealed.endpoint], EtcdCredentials(ca=authority.cert)) as registry:
        await registry.put("/a", "1")
        assert await registry.get("/a") == "1"


async def test_an_etcd_of_another_authority_is_not_believed(sealed: EtcdProcess, tmp_path: Path) -> None:
    other = Authority(tmp_path / "others", "other")

    async with connect([sealed.endpoint], EtcdCredentials(ca=other.cert), patience_seconds=1) as registry:
        with pytest.raises(RegistryUnreachable):
            await registry.get("/a")


async def test_a_certificate_for_another_host_is_not_believed(tmp_path: Path, authority: Authority) -> None:
    process = etcd_with_tls(tmp_path / "etcd", authority, names=("localhost",))
    authority.issue("etcd", ["etcd.somewhere.else"])  # in the place of the one that holds for its address
    process.start()
    try:
        async with connect([process.endpoint], EtcdCredentials(ca=authority.cert), patience_seconds=1) as registry:
            with pytest.raises(RegistryUnreachable):
                await registry.get("/a")
    finally:
        process.kill()
