"""The engine's API over TLS: who is believed, and certificates that change while it listens."""

import asyncio
import os
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from tandem_checkpoint.http import serve
from tandem_checkpoint.tls import TlsError, TlsFiles, Trust, read_tls, service_name
from tandem_checkpoint.transfer.exports import Exports
from tandem_checkpoint.transfer.http import http_reader
from tandem_checkpoint.transfer.plan import Source
from tandem_checkpoint.transfer.reader import SourceFailed
from tandem_checkpoint.transfer.runs import Runs
from tandem_master.client import pod_client
from tests.tandem_checkpoint.api_member import TOKEN, ApiMember, app_of
from tests.tandem_checkpoint.certificates import Authority, Pair
from tests.tandem_checkpoint.etcd_process import free_address
from tests.tandem_checkpoint.transfer.pods import GENERATION, LAYOUT, content, export

NAME = service_name("default", "toy")
PORT = 8701
SOON = 20.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "keys")


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> TlsFiles:
    """What is mounted into a pod."""
    files = TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "ca.crt")
    put(authority.issue("pods", [NAME]), files)
    shutil.copy(authority.cert, files.ca)
    return files


def put(pair: Pair, files: TlsFiles) -> None:
    shutil.copy(pair.cert, files.cert)
    shutil.copy(pair.key, files.key)


@asynccontextmanager
async def listening(app: FastAPI, files: TlsFiles, renewal_seconds: float = 30.0) -> AsyncIterator[str]:
    """Serve an app and yield its base URL."""
    address = free_address()
    task = asyncio.create_task(serve(app, address, PORT, files, renewal_seconds=renewal_seconds))
    async with asyncio.timeout(SOON):
        while not await is_open(address):  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0.02)
    try:
        yield f"https://{address}:{PORT}"
    finally:
        task.cancel()
        await asyncio.wait({task})


async def is_open(address: str) -> bool:
    try:
        _, writer = await asyncio.open_connection(address, PORT)
    except OSError:
        return False
    writer.close()
    return True


async def test_a_client_with_the_jobs_certificates_is_answered(files: TlsFiles) -> None:
    async with listening(app_of(ApiMember()), files) as url, pod_client(TOKEN, files.trust(NAME)) as client:
        response = await client.get(f"{url}/v1/status")

    assert response.status_code == 200


async def test_in_the_clear_nothing_is_answered(files: TlsFiles) -> None:
    async with listening(app_of(ApiMember()), files) as url, pod_client(TOKEN) as client:
        with pytest.raises(httpx.TransportError):
            await client.get(f"{url.replace('https', 'http')}/healthz")


async def test_a_pod_of_another_authority_is_not_believed(files: TlsFiles, tmp_path: Path) -> None:
    other = Authority(tmp_path / "others", "other")
    trust = Trust(ssl.create_default_context(cafile=other.cert), NAME)

    async with listening(app_of(ApiMember()), files) as url, pod_client(TOKEN, trust) as client:
        with pytest.raises(httpx.ConnectError, match=r"self-signed certificate|unable to get local issuer"):
            await client.get(f"{url}/healthz")


async def test_a_pod_of_another_job_is_not_believed(files: TlsFiles) -> None:
    trust = files.trust(service_name("default", "other"))

    async with listening(app_of(ApiMember()), files) as url, pod_client(TOKEN, trust) as client:
        with pytest.raises(httpx.ConnectError, match=r"certificate is not valid for 'other\.default\.svc'"):
            await client.get(f"{url}/healthz")


async def test_a_certificate_that_changes_is_taken_over(files: TlsFiles, authority: Authority) -> None:
    trust = files.trust("renewed.default.svc")
    async with listening(app_of(ApiMember()), files, renewal_seconds=0.05) as url:
        put(authority.issue("renewed", ["renewed.default.svc"]), files)
        os.utime(files.cert, (1, 1))

        async with asyncio.timeout(SOON):
            while not await believes(url, trust):  # noqa: ASYNC110 - a certificate has no event
                await asyncio.sleep(0.05)


async def test_half_a_changed_pair_leaves_the_old_one(files: TlsFiles, authority: Authority) -> None:
    async with listening(app_of(ApiMember()), files, renewal_seconds=0.05) as url:
        shutil.copy(authority.issue("renewed", ["renewed.default.svc"]).cert, files.cert)
        os.utime(files.cert, (1, 1))
        await asyncio.sleep(0.5)

        assert await believes(url, files.trust(NAME))


async def believes(url: str, trust: Trust) -> bool:
    async with pod_client(TOKEN, trust) as client:
        try:
            return (await client.get(f"{url}/healthz")).is_success
        except httpx.ConnectError:
            return False


async def test_weights_are_read_over_tls(files: TlsFiles, tmp_path: Path) -> None:
    exports = Exports(tmp_path / "pod")
    exports.add(GENERATION, [export(tmp_path / "pod")])
    into = bytearray(LAYOUT.num_bytes)

    async with (
        listening(app_of(ApiMember(), exports), files) as url,
        http_reader(TOKEN, files.trust(NAME)) as reader,
    ):
        await reader.read(Source("job-hybrid-0", url), GENERATION, [Runs(0, len(into))], memoryview(into))

    assert bytes(into) == content(tmp_path / "pod")


async def test_weights_of_another_jobs_pod_are_not_read(files: TlsFiles) -> None:
    trust = files.trust(service_name("default", "other"))

    async with listening(app_of(ApiMember()), files) as url, http_reader(TOKEN, trust) as reader:
        with pytest.raises(SourceFailed, match="Certificate"):
            await reader.read(Source("job-hybrid-0", url), GENERATION, [Runs(0, 1)], memoryview(bytearray(1)))


def variables(files: TlsFiles) -> dict[str, str]:
    return {"TANDEM_TLS_CERT": str(files.cert), "TANDEM_TLS_KEY": str(files.key), "TANDEM_TLS_CA": str(files.ca)}


def test_certificates_are_read_from_the_environment(files: TlsFiles) -> None:
    assert read_tls(variables(files)) == files
    assert read_tls({}) is None


@pytest.mark.parametrize("name", ["TANDEM_TLS_CERT", "TANDEM_TLS_KEY", "TANDEM_TLS_CA"])
def test_a_certificate_that_is_not_named_is_refused(files: TlsFiles, name: str) -> None:
    with pytest.raises(TlsError, match=f"^{name}: is not set, but TANDEM_TLS_"):
        read_tls({key: value for key, value in variables(files).items() if key != name})


@pytest.mark.parametrize("name", ["TANDEM_TLS_CERT", "TANDEM_TLS_KEY", "TANDEM_TLS_CA"])
def test_a_file_that_is_not_there_is_refused(files: TlsFiles, name: str) -> None:
    Path(variables(files)[name]).unlink()

    with pytest.raises(
        TlsError, match=rf"{name}.*: cannot be used \(No such file or directory\); mount the TLS Secret"
    ):
        read_tls(variables(files))


def test_a_key_of_another_certificate_is_refused(files: TlsFiles, authority: Authority) -> None:
    shutil.copy(authority.issue("other", [NAME]).key, files.key)

    with pytest.raises(TlsError, match=r"TANDEM_TLS_CERT, TANDEM_TLS_KEY: cannot be used"):
        read_tls(variables(files))
