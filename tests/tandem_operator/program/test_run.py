"""The whole program, as a process against a real API server."""

import asyncio
import json
import signal
from pathlib import Path

import pytest

from tandem_api.registry import Keys
from tandem_checkpoint.registry.etcd import connect
from tests.ground.api_server import ApiServer
from tests.tandem_operator.program.jobs import manifest
from tests.tandem_operator.program.operator_process import OperatorProcess, operator

pytestmark = pytest.mark.api_server

LEASE = "tandem-operator"


def holder(server: ApiServer, namespace: str) -> str:
    """Return who holds the lease; empty for nobody."""
    return server.value("lease", LEASE, ".spec.holderIdentity", namespace)


def test_sigterm_ends_a_leader_with_0_and_frees_its_lease(
    api_server: ApiServer, api_namespace: str, tmp_path: Path
) -> None:
    with operator(api_server, api_namespace, tmp_path, "only") as replica:
        replica.until_ready("leader")
        assert holder(api_server, api_namespace).startswith("only")

        code = replica.end(signal.SIGTERM)

    assert code == 0
    assert holder(api_server, api_namespace) == ""


def test_sigint_ends_it_the_same_way(api_server: ApiServer, api_namespace: str, tmp_path: Path) -> None:
    with operator(api_server, api_namespace, tmp_path, "only") as replica:
        replica.until_ready("leader")

        assert replica.end(signal.SIGINT) == 0


def test_every_line_of_the_log_is_json_and_none_holds_the_token(
    api_server: ApiServer, api_namespace: str, tmp_path: Path
) -> None:
    with operator(api_server, api_namespace, tmp_path, "only") as replica:
        replica.until_ready("leader")
        replica.end(signal.SIGTERM)

        records = replica.records()
        log = replica.log()

    assert {"time", "level", "logger", "message"} <= set.intersection(*(set(record) for record in records))
    assert not [record for record in records if record["level"] in ("error", "critical")]
    assert api_server.token not in log


def test_metrics_tell_who_leads(api_server: ApiServer, api_namespace: str, tmp_path: Path) -> None:
    with operator(api_server, api_namespace, tmp_path, "only") as replica:
        replica.until_ready("leader")

        status, text = replica.probe("/metrics")

    assert status == 200
    assert "tandem_operator_leader 1.0" in text
    assert 'tandem_operator_watch_age_seconds{kind="RLJob"}' in text
    assert 'tandem_operator_api_writes_total{kind="leases",verb="create"} 1.0' in text


def test_a_standby_takes_over_at_once_from_a_leader_that_ends_well(
    api_server: ApiServer, api_namespace: str, tmp_path: Path
) -> None:
    with operator(api_server, api_namespace, tmp_path, "first") as first:
        first.until_ready("leader")
        with operator(api_server, api_namespace, tmp_path, "second") as second:
            second.until_ready("standby")
            assert holder(api_server, api_namespace).startswith("first")

            assert first.end(signal.SIGTERM) == 0
            second.until_ready("leader")

            assert holder(api_server, api_namespace).startswith("second")


def test_a_standby_takes_over_from_a_leader_that_was_killed(
    api_server: ApiServer, api_namespace: str, tmp_path: Path
) -> None:
    with operator(api_server, api_namespace, tmp_path, "first") as first:
        first.until_ready("leader")
        with operator(api_server, api_namespace, tmp_path, "second") as second:
            second.until_ready("standby")

            first.end(signal.SIGKILL)
            second.until_ready("leader")

            assert holder(api_server, api_namespace).startswith("second")


def test_sigterm_ends_a_standby_with_0(api_server: ApiServer, api_namespace: str, tmp_path: Path) -> None:
    with operator(api_server, api_namespace, tmp_path, "first") as first:
        first.until_ready("leader")
        with operator(api_server, api_namespace, tmp_path, "second") as second:
            second.until_ready("standby")

            assert second.end(signal.SIGTERM) == 0

        assert holder(api_server, api_namespace).startswith("first")


def test_a_leader_that_loses_its_lease_ends_with_1_and_says_to_whom(
    api_server: ApiServer, api_namespace: str, tmp_path: Path
) -> None:
    with operator(api_server, api_namespace, tmp_path, "only") as replica:
        replica.until_ready("leader")
        stolen = json.dumps({"spec": {"holderIdentity": "thief"}})

        api_server.kubectl("patch", "lease", LEASE, "-n", api_namespace, "--type=merge", "-p", stolen)
        code = replica.process.wait(60)

        last = replica.records()[-1]
    assert code == 1
    assert last["message"].startswith("lease: lost to thief")
    assert holder(api_server, api_namespace) == "thief"


@pytest.mark.etcd
async def test_the_keys_of_a_deleted_job_go_from_etcd(
    api_server: ApiServer, api_namespace: str, etcd_endpoint: str, tmp_path: Path
) -> None:
    keys, other = Keys(api_namespace, "digits"), Keys(api_namespace, "digits-2")
    with operator(api_server, api_namespace, tmp_path, "only", "--etcd", etcd_endpoint) as replica:
        async with connect([etcd_endpoint]) as registry:
            await asyncio.to_thread(replica.until_ready, "leader")
            await asyncio.to_thread(api_server.apply, manifest("digits", api_namespace))
            await asyncio.to_thread(replica.until, lambda: num_looks(replica) > 0, "a first look at the job")
            await registry.put(keys.published, "3")
            await registry.put(other.published, "4")

            await asyncio.to_thread(api_server.kubectl, "delete", "rljob", "digits", "-n", api_namespace)
            async with asyncio.timeout(60):
                while await registry.get(keys.published) is not None:  # noqa: ASYNC110 - etcd is asked from outside
                    await asyncio.sleep(0.2)

            assert await registry.get(other.published) == "4"
            await registry.delete(other.prefix)


def num_looks(replica: OperatorProcess) -> float:
    """Return how many looks the replica has ended."""
    name = "tandem_operator_reconcile_duration_seconds_count "
    lines = replica.probe("/metrics")[1].splitlines()
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))
