"""Whether an object that exists is still the one that is wanted: hashes, kept as annotations.

A pod is compared by what its user wrote, never by what this version of the planner would make of it: a new version of
the operator must leave running pods alone. Every other child is compared by the whole of what would be applied.
"""

import hashlib
import json
from collections.abc import Mapping

from pydantic import JsonValue

from tandem_api.job import RLJob

ANNOTATION_SPEC_HASH = "tandem.dev/spec-hash"
"""On pods: `spec_hash` of the job they were made for."""
ANNOTATION_ATTEMPT = "tandem.dev/attempt"
"""On pods: how often all pods of the job had been started anew before."""
ANNOTATION_APPLIED_HASH = "tandem.dev/applied-hash"
"""On every other child: `applied_hash` of what was applied last."""
OWNED_ANNOTATIONS = frozenset({ANNOTATION_SPEC_HASH, ANNOTATION_ATTEMPT, ANNOTATION_APPLIED_HASH})
"""Annotations that only the operator sets."""

HASH_LENGTH = 16
"""Hexadecimal digits of a hash: 64 bits tell the few revisions of one object apart."""

Path = tuple[str, ...]

NOT_OF_PODS: tuple[Path, ...] = (
    ("suspend",),
    ("ttlSecondsAfterFinished",),
    ("activeDeadlineSeconds",),
    ("failurePolicy",),
    ("rollout", "elastic", "replicas"),
    ("rollout", "elastic", "minReplicas"),
    ("rollout", "elastic", "maxReplicas"),
    ("scheduling", "priorityClassName"),
)
"""Fields of the spec that may change while pods run: they say what the operator does, or, as the priority, hold for
pods that are made from then on."""
KEPT_AT_DEFAULT: tuple[Path, ...] = (("trainer", "image"), ("rollout", "image"))
"""Fields whose defaults change from release to release. The API server has stored the one of the day, so it is part of
what the user has; all other defaults stay as they are within a version of the API."""


def spec_hash(job: RLJob) -> str:
    """Return the hash of what the user has written about pods.

    Fields at their defaults are left out, so that a version of the API with more fields gives the same hash.
    """
    document: dict[str, JsonValue] = job.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    document |= {".".join(path): _value_at(job, path) for path in KEPT_AT_DEFAULT}
    for path in (*NOT_OF_PODS, *KEPT_AT_DEFAULT):
        document = _without(document, path)
    return _hash(document)


def applied_hash(manifest: Mapping[str, JsonValue]) -> str:
    """Return the hash of a manifest that is to be applied, whether it carries its own hash already or not."""
    return _hash(_without(dict(manifest), ("metadata", "annotations", ANNOTATION_APPLIED_HASH)))


def stamped(manifest: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return a manifest with its own hash among its annotations, by which the next reconcile knows it."""
    metadata = _map(manifest.get("metadata"))
    annotations = {**_map(metadata.get("annotations")), ANNOTATION_APPLIED_HASH: applied_hash(manifest)}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def _value_at(job: RLJob, path: Path) -> JsonValue:
    """Return the value of a field of the spec, its default where the user has not written it."""
    value: JsonValue = job.spec.model_dump(mode="json", by_alias=True)
    for step in path:
        value = _map(value)[step]
    return value


def _without(document: dict[str, JsonValue], path: Path) -> dict[str, JsonValue]:
    """Return the document without one field, nor what the field was alone in."""
    name, *below = path
    if name not in document:
        return document
    rest = {key: value for key, value in document.items() if key != name}
    left = _without(_map(document[name]), tuple(below)) if below else {}
    return {**rest, name: left} if left else rest


def _map(value: JsonValue) -> dict[str, JsonValue]:
    """Return a map of a document; empty where there is none."""
    return value if isinstance(value, dict) else {}


def _hash(document: JsonValue) -> str:
    """Return the hash of a JSON document, whatever the order of its keys."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]
