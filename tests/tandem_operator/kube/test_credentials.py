"""A kubeconfig or a pod's service account gives a session; anything else gives one line that says what to do."""

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from kubernetes.aio.config import incluster_config

from tandem_operator.kube.client import KubeClient
from tandem_operator.kube.credentials import CredentialsError, connect
from tandem_operator.kube.manifest import name_of
from tandem_operator.kube.resources import CONFIG_MAP, NAMESPACE
from tests.ground.api_server import ApiServer
from tests.tandem_operator.kube.fake_api import FakeApi


def kubeconfig(folder: Path, url: str, user: dict[str, object]) -> Path:
    """Write a kubeconfig with one user."""
    path = folder / "kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": url}}],
        "users": [{"name": "me", "user": user}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
    }
    path.write_text(json.dumps(content))
    return path


async def asked_with(fake: FakeApi, path: Path) -> str:
    """Return the Authorization header of a request by a kubeconfig."""
    connection = await connect(path)
    await KubeClient(connection).find(CONFIG_MAP, "research", "one")
    await connection.close()
    return fake.authorizations[-1]


async def test_a_token_of_the_kubeconfig_goes_with_each_request(fake: FakeApi, tmp_path: Path) -> None:
    assert await asked_with(fake, kubeconfig(tmp_path, fake.url, {"token": "s3cret"})) == "Bearer s3cret"


async def test_a_token_of_an_exec_plugin_goes_with_each_request(fake: FakeApi, tmp_path: Path) -> None:
    version = "client.authentication.k8s.io/v1"
    answer = {"apiVersion": version, "kind": "ExecCredential", "status": {"token": "fresh"}}
    plugin = {"apiVersion": version, "command": "echo", "args": [json.dumps(answer)]}

    assert await asked_with(fake, kubeconfig(tmp_path, fake.url, {"exec": plugin})) == "Bearer fresh"


async def test_a_proxy_without_credentials_is_asked_without_them(fake: FakeApi, tmp_path: Path) -> None:
    assert await asked_with(fake, kubeconfig(tmp_path, fake.url, {})) == ""


async def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match=r"^kubeconfig: .*absent is not a file; give the path of one$"):
        await connect(tmp_path / "absent")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", "clusters: 1", "apiVersion: v1\nkind: Config\n", '{"current-context": "none", "contexts": []}'],
    ids=["empty", "a list", "torn", "a number for clusters", "no context", "an unknown context"],
)
async def test_a_file_of_a_wrong_shape_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(content)

    with pytest.raises(CredentialsError) as refused:
        await connect(path)

    assert str(refused.value).startswith(f"kubeconfig: {path}: ")
    assert str(refused.value).endswith("; mend it, and try it with `kubectl --kubeconfig`")
    assert "\n" not in str(refused.value)


async def test_a_certificate_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, "https://127.0.0.1:1", {"client-certificate": "absent.pem"})

    with pytest.raises(CredentialsError, match=r"absent\.pem; mend it"):
        await connect(path)


@pytest.mark.parametrize(
    "user",
    [{}, {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "false"}}],
    ids=["no credentials", "a plugin that fails"],
)
async def test_a_user_without_usable_credentials_is_one_line(tmp_path: Path, user: dict[str, object]) -> None:
    path = kubeconfig(tmp_path, "https://127.0.0.1:1", user)

    with pytest.raises(CredentialsError, match="has no token and no certificate, or its exec plugin failed; try it"):
        await connect(path)


async def test_outside_a_pod_and_without_a_kubeconfig_it_says_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    with pytest.raises(CredentialsError, match=r"^kubeconfig: none given, and this is no pod .*; give one, or mount"):
        await connect(None)


@pytest.mark.api_server
async def test_in_a_pod_its_service_account_is_used(
    api_server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text(api_server.token)
    address = urlsplit(api_server.url)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(address.hostname))
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(address.port))
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(api_server.ca_file))

    connection = await connect(None)
    namespace = await KubeClient(connection).get(NAMESPACE, None, "default")
    await connection.close()

    assert name_of(namespace) == "default"
