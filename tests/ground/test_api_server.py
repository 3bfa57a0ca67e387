"""The API server is a real one: it checks, it refuses, and it tidies up after owners."""

import ssl
import urllib.error
import urllib.request

import pytest

from tests.ground.access import KubectlError, until
from tests.ground.api_server import ApiServer

pytestmark = pytest.mark.api_server

COLLECT_SECONDS = 60.0


def config_map(name: str, namespace: str, **metadata: object) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace, **metadata}}


def names(server: ApiServer, kind: str, namespace: str) -> str:
    return server.kubectl("get", kind, "-n", namespace, "-o", "jsonpath={.items[*].metadata.name}")


def test_the_definition_of_rljobs_is_established(api_server: ApiServer) -> None:
    path = ".status.conditions[?(@.type=='Established')].status"

    established = api_server.value("customresourcedefinition", "rljobs.tandem.dev", path)

    assert established == "True"


def test_it_has_the_version_of_the_pinned_modules(api_server: ApiServer) -> None:
    assert "Server Version: v1.36.3" in api_server.kubectl("version")


def test_a_request_without_a_token_is_refused(api_server: ApiServer) -> None:
    context = ssl.create_default_context(cafile=str(api_server.ca_file))

    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{api_server.url}/api/v1/pods", timeout=10, context=context)

    assert refused.value.code == 401
    refused.value.close()


def test_a_stranger_may_not_list_pods(api_server: ApiServer, api_namespace: str) -> None:
    with pytest.raises(KubectlError, match='User "stranger" cannot list resource "pods"'):
        api_server.kubectl("get", "pods", "-n", api_namespace, "--as=stranger")


def test_what_an_owner_leaves_is_collected(api_server: ApiServer, api_namespace: str) -> None:
    api_server.apply(config_map("owner", api_namespace))
    uid = api_server.value("configmap", "owner", ".metadata.uid", api_namespace)
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
    api_server.apply(config_map("child", api_namespace, ownerReferences=[owner]))

    api_server.kubectl("delete", "configmap", "owner", "-n", api_namespace)

    until(
        lambda: "child" not in names(api_server, "configmaps", api_namespace),
        COLLECT_SECONDS,
        "the child of a deleted owner is collected",
    )


def test_a_namespace_has_a_service_account_to_run_as(api_server: ApiServer, api_namespace: str) -> None:
    until(
        lambda: "default" in names(api_server, "serviceaccounts", api_namespace),
        COLLECT_SECONDS,
        "the namespace has its service account",
    )


def test_a_deleted_namespace_takes_its_objects_along(api_server: ApiServer) -> None:
    api_server.kubectl("create", "namespace", "short-lived")
    api_server.apply(config_map("inside", "short-lived"))

    api_server.kubectl("delete", "namespace", "short-lived", "--timeout=60s")

    with pytest.raises(KubectlError, match="not found"):
        api_server.kubectl("get", "namespace", "short-lived")
