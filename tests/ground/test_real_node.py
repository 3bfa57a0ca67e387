"""The node is a real one: pods run, share devices, heal, find each other by name, and nothing is left of it."""

from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
from pydantic import JsonValue

from tests.ground.access import until
from tests.ground.pods import await_ready, container, output_of, pod, status_of
from tests.ground.real_node import RealNode, kill_container, run_node

pytestmark = pytest.mark.node

RESTART_SECONDS = 60.0
TELL_GPUS = "import os, time; print('gpus', os.environ.get('FAKE_GPUS', 'none'), flush=True); time.sleep(3600)"
TELL_ADDRESS = """
import socket, time
while True:
    try:
        print(socket.gethostbyname("alpha.team"), flush=True)
        break
    except OSError:
        time.sleep(0.2)
time.sleep(3600)
"""

ASK_API = """
import ssl, time, urllib.error, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount"
request = urllib.request.Request("https://kubernetes.default.svc/api/v1/nodes")
request.add_header("Authorization", "Bearer " + open(folder + "/token").read())
context = ssl.create_default_context(cafile=folder + "/ca.crt")
while True:
    try:
        urllib.request.urlopen(request, context=context, timeout=5)
    except urllib.error.HTTPError as refused:
        print(refused.code, refused.read().decode(), flush=True)
        break
    except OSError:
        time.sleep(0.2)
time.sleep(3600)
"""


def test_a_pod_runs_the_python_of_this_environment(real_node: RealNode, node_namespace: str) -> None:
    code = "import sys, pydantic, time; print(sys.prefix, flush=True); time.sleep(3600)"

    real_node.apply(pod(real_node, "one", node_namespace, [container(real_node, "main", code)]))

    assert output_of(real_node, "one", node_namespace, "main") == str(real_node.python.parents[1])


def test_two_containers_share_a_claim_of_two_gpus_and_a_third_sees_none(
    real_node: RealNode, node_namespace: str
) -> None:
    request = {"name": "gpus", "exactly": {"deviceClassName": "gpu.nvidia.com", "count": 2}}
    template = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": "two", "namespace": node_namespace},
        "spec": {"spec": {"devices": {"requests": [request]}}},
    }
    claims: JsonValue = {"claims": [{"name": "gpus"}]}
    sharers = [container(real_node, name, TELL_GPUS, resources=claims) for name in ("trainer", "rollout")]
    bystander = container(real_node, "bystander", TELL_GPUS)
    gang = pod(
        real_node,
        "gang",
        node_namespace,
        [*sharers, bystander],
        resourceClaims=[{"name": "gpus", "resourceClaimTemplateName": "two"}],
    )

    real_node.apply(template, gang)

    seen = output_of(real_node, "gang", node_namespace, "trainer")
    assert seen.count("gpu-") == 2
    assert output_of(real_node, "gang", node_namespace, "rollout") == seen
    assert output_of(real_node, "gang", node_namespace, "bystander") == "gpus none"


def test_sigkill_of_one_container_restarts_that_one_only(real_node: RealNode, node_namespace: str) -> None:
    real_node.apply(
        pod(real_node, "pair", node_namespace, [container(real_node, name) for name in ("first", "second")])
    )
    await_ready(real_node, "pair", node_namespace)
    victim = status_of(real_node, "pair", node_namespace, "first", ".containerID")

    kill_container(real_node, victim)

    until(
        lambda: status_of(real_node, "pair", node_namespace, "first", ".restartCount") == "1",
        RESTART_SECONDS,
        "the killed container is started again",
    )
    assert status_of(real_node, "pair", node_namespace, "first", ".lastState.terminated.exitCode") == "137"
    assert status_of(real_node, "pair", node_namespace, "second", ".restartCount") == "0"


def test_pods_of_a_headless_service_find_each_other_by_name(real_node: RealNode, node_namespace: str) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "team", "namespace": node_namespace},
        "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {"app": "alpha"}},
    }
    alpha = pod(real_node, "alpha", node_namespace, [container(real_node, "main")], hostname="alpha", subdomain="team")
    asker = pod(real_node, "asker", node_namespace, [container(real_node, "main", TELL_ADDRESS)])

    real_node.apply(service, alpha, asker)

    found = output_of(real_node, "asker", node_namespace, "main")
    assert found == real_node.value("pod", "alpha", ".status.podIP", node_namespace)


def interfaces() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


def test_a_pod_reaches_the_api_server_as_its_service_account(real_node: RealNode, node_namespace: str) -> None:
    real_node.apply(pod(real_node, "client", node_namespace, [container(real_node, "main", ASK_API)]))

    answer = output_of(real_node, "client", node_namespace, "main")

    assert answer.startswith("403")
    assert f"system:serviceaccount:{node_namespace}:default" in answer


def command_lines() -> str:
    return "\n".join(" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))


def test_nothing_is_left_of_a_node_that_is_down(node_programs: Mapping[str, Path], tmp_path: Path) -> None:
    sysctl = Path("/proc/sys/vm/overcommit_memory").read_text()

    with run_node(tmp_path / "node", node_programs, num_gpus=2) as node:
        node.apply(pod(node, "last", "default", [container(node, "main")]))
        await_ready(node, "last", "default")
        interface = node.settings.network.interface
        assert interface in interfaces()

    assert str(tmp_path) not in command_lines()
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert not any(folder.exists() for folder in node.cgroups)
    assert interface not in interfaces()
    assert Path("/proc/sys/vm/overcommit_memory").read_text() == sysctl
