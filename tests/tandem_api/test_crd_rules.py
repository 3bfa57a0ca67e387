"""The CustomResourceDefinition on a real API server: what it takes, what it refuses, and in which words."""

import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import yaml
from hypothesis import given, settings

from tandem_api.problems import InvalidJob, parse_job
from tests.ground.access import Access, KubectlError
from tests.tandem_api.any_manifest import SPECS
from tests.tandem_api.bad_fields import FIELDS, REPEATED, UNKNOWN
from tests.tandem_api.manifests import BASE, GOOD, RELATIONS, Bad, manifest, patched
from tests.tandem_api.updates import ALWAYS_ALLOWED, JOB, NEVER_ALLOWED, REFUSED_WHILE_RUNNING, WHILE_SUSPENDED_ONLY

pytestmark = pytest.mark.api_server
GROUP = "tandem.dev"
WAIT_SECONDS = "60s"
CREATED, OK, INVALID = 201, 200, 422


@dataclass(frozen=True, slots=True)
class Judge:
    """The RLJobs of one namespace; everything is a dry run, as `kubectl --dry-run=server` asks for it."""

    http: httpx.Client
    namespace: str

    def create(self, document: object) -> httpx.Response:
        return self.http.post(self._path, json=document, params=self._dry_run)

    def create_yaml(self, text: str) -> httpx.Response:
        content_type = {"Content-Type": "application/yaml"}
        return self.http.post(self._path, content=text, headers=content_type, params=self._dry_run)

    def patch(self, name: str, patch: object) -> httpx.Response:
        content_type = {"Content-Type": "application/merge-patch+json"}
        path = f"{self._path}/{name}"
        return self.http.patch(path, content=json.dumps(patch), headers=content_type, params=self._dry_run)

    @property
    def _dry_run(self) -> dict[str, str]:
        return {"dryRun": "All", "fieldValidation": "Strict"}

    @property
    def _path(self) -> str:
        return f"/apis/{GROUP}/v1alpha1/namespaces/{self.namespace}/rljobs"


@pytest.fixture(scope="module")
def judge(api_server: Access) -> Iterator[Judge]:
    """One session for all manifests, in a namespace with a job that runs and one that is suspended."""
    context = ssl.create_default_context(cafile=str(api_server.ca_file))
    token = {"Authorization": f"Bearer {api_server.token}"}
    namespace = "crd-rules"
    api_server.kubectl("create", "namespace", namespace)
    running = named(yaml.safe_load(JOB), "running", namespace)
    suspended = named(yaml.safe_load(JOB), "suspended", namespace)
    suspended["spec"]["suspend"] = True
    api_server.apply(running, suspended)
    with httpx.Client(base_url=api_server.url, verify=context, headers=token, timeout=30) as http:
        yield Judge(http, namespace)
    api_server.kubectl("delete", "namespace", namespace, "--wait=false")


def named(document: dict[str, Any], name: str, namespace: str) -> dict[str, Any]:
    """Return the manifest under another name."""
    return {**document, "metadata": {"name": name, "namespace": namespace}}


def problems(document: object) -> tuple[str, ...]:
    """Return what parse_job says of a document."""
    try:
        parse_job(document)
    except InvalidJob as error:
        return error.problems
    return ()


def message(response: httpx.Response) -> str:
    """Return what the API server says of a refused request."""
    text: str = response.json()["message"]
    return text


@pytest.mark.parametrize("patch", GOOD)
def test_a_good_manifest_is_accepted(judge: Judge, patch: str) -> None:
    response = judge.create(manifest(patch))

    assert response.status_code == CREATED, response.text


@pytest.mark.parametrize("row", [*RELATIONS, *FIELDS], ids=lambda row: row.patch)
def test_a_bad_manifest_is_refused_with_its_field_and_the_fix(judge: Judge, row: Bad) -> None:
    response = judge.create(manifest(row.patch))

    assert response.status_code == INVALID
    assert f"{row.field}: " in message(response)
    assert row.words in message(response)


@settings(max_examples=150)
@given(spec=SPECS)
def test_both_judges_always_agree(judge: Judge, spec: dict[str, Any]) -> None:
    document = patched(yaml.safe_load(BASE), spec)

    response = judge.create(document)
    lines = problems(document)

    assert (response.status_code == CREATED) == (lines == ()), f"{lines} {response.text}"
    assert [line for line in lines if line.split(": ", 1)[1] not in message(response)] == []


@pytest.mark.parametrize("row", UNKNOWN, ids=lambda row: row.patch)
def test_an_unknown_field_is_refused_where_strictness_is_asked_for_as_kubectl_does(judge: Judge, row: Bad) -> None:
    response = judge.create(manifest(row.patch))

    assert response.is_client_error
    assert f'unknown field "{row.field}"' in message(response)


@pytest.mark.parametrize(("patch", "_", "words"), REPEATED)
def test_a_name_that_is_used_twice_is_refused(judge: Judge, patch: str, _: str, words: str) -> None:
    response = judge.create(manifest(patch))

    assert response.status_code == INVALID
    assert words in message(response)


@pytest.mark.parametrize(
    ("name", "words"), [("m" * 51, "may not be more than 50"), ("8b", "should match"), ("math.8b", "should match")]
)
def test_a_name_that_gives_no_names_to_pods_is_refused(judge: Judge, name: str, words: str) -> None:
    response = judge.create({**yaml.safe_load(BASE), "metadata": {"name": name}})

    assert response.status_code == INVALID
    assert "metadata.name" in message(response)
    assert words in message(response)


@pytest.mark.parametrize(("patch", "field", "words"), REFUSED_WHILE_RUNNING)
def test_an_update_of_a_running_job_is_refused_with_the_way_out(
    judge: Judge, patch: str, field: str, words: str
) -> None:
    response = judge.patch("running", {"spec": yaml.safe_load(patch)})

    assert response.status_code == INVALID, response.text
    assert f"spec.{field}: " in message(response)
    assert words in message(response)


@pytest.mark.parametrize("patch", ALWAYS_ALLOWED)
def test_what_is_free_may_change_while_the_job_runs(judge: Judge, patch: str) -> None:
    response = judge.patch("running", {"spec": yaml.safe_load(patch)})

    assert response.status_code == OK, response.text


@pytest.mark.parametrize("patch", [patch for patch, _ in WHILE_SUSPENDED_ONLY if "minReplicas: 1" not in patch])
def test_nearly_everything_may_change_while_the_job_is_suspended(judge: Judge, patch: str) -> None:
    response = judge.patch("suspended", {"spec": yaml.safe_load(patch)})

    assert response.status_code == OK, response.text


def test_a_change_may_come_with_the_end_of_the_suspension(judge: Judge) -> None:
    response = judge.patch("suspended", {"spec": {"suspend": False, "recipe": {"iterations": 7}}})

    assert response.status_code == OK, response.text


@pytest.mark.parametrize(("patch", "field"), NEVER_ALLOWED)
def test_what_the_state_belongs_to_never_changes(judge: Judge, patch: str, field: str) -> None:
    response = judge.patch("suspended", {"spec": yaml.safe_load(patch)})

    assert response.status_code == INVALID
    assert f"spec.{field}: " in message(response)
    assert "make another job" in message(response)


def test_defaults_are_filled_in_and_nulls_are_absent(judge: Judge) -> None:
    spec = judge.create(manifest("hybrid: {rdma: null, sharedMemory: null}")).json()["spec"]

    assert spec["recipe"]["samplesPerProblem"] == 8
    assert spec["ttlSecondsAfterFinished"] == 604_800
    assert spec["suspend"] is False
    assert spec["hybrid"]["gpu"] == {"sharing": "DRA", "deviceClassName": "gpu.nvidia.com", "selectors": []}
    assert not {"rdma", "sharedMemory"} & spec["hybrid"].keys()


def test_a_small_number_in_yaml_is_a_number(judge: Judge) -> None:
    response = judge.create_yaml(BASE + "  trainer: {optimizer: {learningRate: 1e-6}}\n")

    assert response.status_code == CREATED, response.text
    assert response.json()["spec"]["trainer"]["optimizer"]["learningRate"] == pytest.approx(1e-6)


def test_a_patch_template_keeps_every_field_of_a_pod(judge: Judge) -> None:
    template = {
        "spec": {"runtimeClassName": "nvidia", "containers": [{"name": "trainer", "lifecycle": {"preStop": {}}}]}
    }

    response = judge.create(manifest(json.dumps({"podTemplate": template})))

    assert response.json()["spec"]["podTemplate"] == template


def test_kubectl_get_answers_whether_a_job_is_well(api_server: Access, judge: Judge) -> None:
    status = {
        "phase": "Infer", "iteration": 41, "generation": 40, "reward": {"mean": 0.62}, "switchSecondsMedian": 9.5,
        "hybrid": {"ready": 2, "desired": 2}, "elastic": {"ready": 1, "desired": 1}, "tokensPerSecond": 48211.5,
        "restarts": 3, "attempt": 1,
        "conditions": [{"type": "Suspended", "status": "False", "reason": "Running", "message": "the job runs"}],
    }  # fmt: skip
    where = ("-n", judge.namespace)
    api_server.kubectl(
        "patch", "rlj", "running", *where, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status})
    )

    header, row = api_server.kubectl("get", "rlj", "running", *where).splitlines()
    wide = api_server.kubectl("get", "tandem", "running", *where, "-o", "wide", "--no-headers").split()

    assert header.split() == ["NAME", "PHASE", "ITERATION", "GENERATION", "REWARD", "SWITCH", "P50", "AGE"]
    assert row.split()[:-1] == ["running", "Infer", "41", "40", "0.62", "9.5"]
    assert wide[7:] == ["2", "1", "48211.5", "3", "1", "False"]


def test_kubectl_scale_writes_the_elastic_replicas_within_their_bounds(api_server: Access, judge: Judge) -> None:
    scale = ("scale", "rlj/suspended", "-n", judge.namespace)

    api_server.kubectl(*scale, "--replicas=3")

    assert api_server.value("rlj", "suspended", ".spec.rollout.elastic.replicas", judge.namespace) == "3"
    with pytest.raises(KubectlError, match="is more than maxReplicas; lower it or raise maxReplicas"):
        api_server.kubectl(*scale, "--replicas=5")


def test_the_scale_of_a_job_tells_how_many_elastic_pods_are_ready_and_by_which_labels_they_are_found(
    api_server: Access, judge: Judge
) -> None:
    selector = "tandem.dev/job=running,tandem.dev/role=rollout"
    patch = json.dumps({"status": {"elastic": {"ready": 1, "desired": 2, "selector": selector}}})
    where = ("running", "-n", judge.namespace)
    api_server.kubectl("patch", "rlj", *where, "--subresource=status", "--type=merge", "-p", patch)

    scale = json.loads(api_server.kubectl("get", "rlj", *where, "--subresource=scale", "-o", "json"))

    assert scale["status"] == {"replicas": 1, "selector": selector}


def test_a_status_with_an_unknown_condition_is_refused(api_server: Access, judge: Judge) -> None:
    conditions = [{"type": "Happy", "status": "True", "reason": "Sunny", "message": "it is"}]
    patch = json.dumps({"status": {"conditions": conditions}})

    with pytest.raises(KubectlError, match="Unsupported value"):
        api_server.kubectl(
            "patch", "rlj", "running", "-n", judge.namespace, "--subresource=status", "--type=merge", "-p", patch
        )


def test_kubectl_explain_tells_what_a_field_does(api_server: Access, judge: Judge) -> None:
    explained = api_server.kubectl("explain", "rljob.spec.hybrid.gpu.sharing")

    assert "Mechanism that gives both containers the same devices." in explained
