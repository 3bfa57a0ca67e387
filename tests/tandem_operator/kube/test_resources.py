"""Kinds know their paths; a Status becomes the error that it tells of."""

import orjson
import pytest

from tandem_operator.kube.errors import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    ForbiddenError,
    GoneError,
    InvalidError,
    TooManyRequestsError,
    error_of_response,
    is_transient,
)
from tandem_operator.kube.manifest import Manifest
from tandem_operator.kube.resources import NODE, POD, RESOURCE_CLAIM, RLJOB, ResourceKind, kind_of
from tandem_operator.kube.slim import slim_pod


@pytest.mark.parametrize(
    ("kind", "namespace", "path"),
    [
        (POD, "research", "/api/v1/namespaces/research/pods/one"),
        (RESOURCE_CLAIM, "research", "/apis/resource.k8s.io/v1/namespaces/research/resourceclaims/one"),
        (NODE, None, "/api/v1/nodes/one"),
    ],
)
def test_the_path_of_an_object_has_its_group_namespace_and_plural(
    kind: ResourceKind, namespace: str | None, path: str
) -> None:
    assert kind.object_path(namespace, "one") == path


def test_the_path_of_a_subresource_goes_below_the_object() -> None:
    path = RLJOB.object_path("research", "math", "status")

    assert path == "/apis/tandem.dev/v1alpha1/namespaces/research/rljobs/math/status"


def test_without_a_namespace_a_collection_is_that_of_all_namespaces() -> None:
    assert POD.collection_path() == "/api/v1/pods"


def test_an_object_without_its_namespace_has_no_path() -> None:
    with pytest.raises(ValueError, match=r"Pod one: has no namespace; give metadata\.namespace"):
        POD.object_path(None, "one")


def test_a_manifest_names_its_kind_and_version() -> None:
    assert kind_of({"apiVersion": "v1", "kind": "Pod"}) is POD
    assert kind_of({"apiVersion": "tandem.dev/v1beta1", "kind": "RLJob"}).version == "v1beta1"


def test_a_manifest_of_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="manifest: apps/v1 Deployment is not known"):
        kind_of({"apiVersion": "apps/v1", "kind": "Deployment"})


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (409, "AlreadyExists", AlreadyExistsError),
        (409, "Conflict", ConflictError),
        (410, "Expired", GoneError),
        (422, "Invalid", InvalidError),
        (429, "TooManyRequests", TooManyRequestsError),
        (418, "Teapot", ApiError),
    ],
)
def test_a_status_becomes_the_error_that_it_tells_of(code: int, reason: str, expected: type[ApiError]) -> None:
    body = orjson.dumps({"kind": "Status", "code": code, "reason": reason, "message": "because\n of it"})

    error = error_of_response(body, http_status=code, request="POST /api/v1/pods")

    assert type(error) is expected
    assert str(error) == f"POST /api/v1/pods: because of it ({code} {reason})"


def test_an_answer_that_is_no_status_is_told_as_it_is() -> None:
    error = error_of_response(b"upstream is away", http_status=502, request="GET /api/v1/pods")

    assert str(error) == "GET /api/v1/pods: upstream is away (502 Unknown)"
    assert is_transient(error)


def test_causes_name_fields_or_the_reason() -> None:
    causes = [{"reason": "NamespaceTerminating", "message": "is being terminated", "field": "metadata.namespace"}]
    body = orjson.dumps({"code": 403, "reason": "Forbidden", "message": "no", "details": {"causes": causes}})

    error = error_of_response(body, http_status=403, request="POST /api/v1/pods")

    assert isinstance(error, ForbiddenError)
    assert error.is_namespace_terminating


def test_a_slim_pod_keeps_what_its_state_is_judged_by() -> None:
    state: Manifest = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    container: Manifest = {"name": "trainer", "ready": False, "restartCount": 2, "state": state, "imageID": "sha256:0"}

    slim = slim_pod(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "one", "managedFields": [{}], "annotations": {"tandem.dev/attempt": "1"}},
            "spec": {"nodeName": "node-1", "containers": [{"name": "trainer", "image": "big"}]},
            "status": {"phase": "Running", "containerStatuses": [container], "hostIPs": [{"ip": "10.0.0.1"}]},
        }
    )

    assert slim == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "one", "annotations": {"tandem.dev/attempt": "1"}},
        "spec": {"nodeName": "node-1"},
        "status": {
            "phase": "Running",
            "containerStatuses": [{"name": "trainer", "ready": False, "restartCount": 2, "state": state}],
        },
    }
