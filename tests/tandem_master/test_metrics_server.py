"""`/metrics` of the master."""

import socket
import ssl
from pathlib import Path

import httpx
import pytest

from tandem_master.errors import SettingsError
from tandem_master.metrics import CONTENT_TYPE_LATEST
from tandem_master.metrics_server import metrics_port, metrics_served
from tests.tandem_checkpoint.certificates import Authority

ADDRESS = "127.0.0.1"
TOKEN = "the-jobs-token"


def text() -> bytes:
    return b"tandem_job_epoch 3.0\n"


async def test_who_has_the_token_reads_the_metrics() -> None:
    async with metrics_served(ADDRESS, 0, TOKEN, text) as at, httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"http://{ADDRESS}:{at.port}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})

    assert (answer.status_code, answer.content) == (200, text())
    assert answer.headers["Content-Type"] == CONTENT_TYPE_LATEST


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer another"}, {"Authorization": TOKEN}])
async def test_anybody_else_is_refused_with_a_structured_error(headers: dict[str, str]) -> None:
    async with metrics_served(ADDRESS, 0, TOKEN, text) as at, httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"http://{ADDRESS}:{at.port}/metrics", headers=headers)

    assert answer.status_code == 401
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["title"] == "Unauthorized"


async def test_with_a_certificate_the_metrics_are_served_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("pod", [ADDRESS])
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.cert, pair.key)
    trust = ssl.create_default_context(cafile=authority.cert)

    async with (
        metrics_served(ADDRESS, 0, TOKEN, text, tls) as at,
        httpx.AsyncClient(trust_env=False, verify=trust) as client,
    ):
        answer = await client.get(f"https://{ADDRESS}:{at.port}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})

    assert answer.content == text()


async def test_nobody_listens_any_more_when_it_is_over() -> None:
    async with metrics_served(ADDRESS, 0, TOKEN, text) as at:
        pass

    with pytest.raises(ConnectionRefusedError), socket.socket() as client:
        client.connect((ADDRESS, at.port))


async def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind((ADDRESS, 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(SettingsError, match=rf"TANDEM_METRICS_PORT: nobody can listen on 127\.0\.0\.1:{port} "):
            async with metrics_served(ADDRESS, port, TOKEN, text):
                pass


@pytest.mark.parametrize(
    ("environment", "port"),
    [({}, None), ({"TANDEM_METRICS_PORT": ""}, None), ({"TANDEM_METRICS_PORT": "8703"}, 8703)],
)
def test_there_are_metrics_where_a_port_is_named(environment: dict[str, str], port: int | None) -> None:
    assert metrics_port(environment) == port


@pytest.mark.parametrize("word", ["0", "65536", "http", "-1", "1.5"])
def test_what_is_no_port_is_refused(word: str) -> None:
    with pytest.raises(SettingsError, match=r"TANDEM_METRICS_PORT: is '.*'; use a port from 1 to 65535"):
        metrics_port({"TANDEM_METRICS_PORT": word})
