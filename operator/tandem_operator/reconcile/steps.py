"""Carrying out a decision: what is written to the API server, in which order."""

import asyncio
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from tandem_api.job import RLJob
from tandem_operator.kube.cache import ChildCache
from tandem_operator.kube.client import KubeClient
from tandem_operator.kube.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidError,
    NameTakenError,
    NotFoundError,
)
from tandem_operator.kube.manifest import Manifest, name_of
from tandem_operator.kube.recorder import EventRecorder, ObjectReference
from tandem_operator.kube.resources import POD, RLJOB, kind_of
from tandem_operator.reconcile.decision import Child, Decision, Note, Removal
from tandem_operator.reconcile.record import JobRecord

MADE_ANEW = frozenset({"ResourceClaimTemplate", "PodGroup"})
"""Kinds whose spec cannot be changed."""
Done = TypeVar("Done")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Through what a funnel reads and writes."""

    client: KubeClient
    cache: ChildCache
    recorder: EventRecorder


async def write_status(cluster: Cluster, record: JobRecord, decision: Decision) -> None:
    """Write the whole status, unless somebody has changed the RLJob since it was read (ConflictError)."""
    metadata = record.body["metadata"]
    body: Manifest = {
        "apiVersion": record.body["apiVersion"],
        "kind": record.body["kind"],
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "status": decision.status.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
    record.renew(await cluster.client.apply(body, subresource="status"))


async def change_children(cluster: Cluster, job: RLJob, decision: Decision) -> bool:
    """Remove, apply and create children, the master only after everything else; return whether all that was possible.

    A pod that exists unknown to the cache ends it: until it has been seen nobody knows whose it is.
    """
    await _all(_remove(cluster, job, removal) for removal in decision.remove)
    await _all(_apply(cluster, job, dict(manifest)) for manifest in decision.apply)
    for manifests in (decision.create[:1], decision.create[1:], () if decision.master is None else (decision.master,)):
        if not all(await _all(_create(cluster, dict(manifest)) for manifest in manifests)):
            return False
    await _all(_discard(cluster, job, child) for child in decision.discard)
    await _all(_report(cluster, job, child, dict(patch)) for child, patch in decision.report)
    return True


async def _all(steps: Iterable[Coroutine[None, None, Done]]) -> list[Done]:
    """Take steps side by side, end all of them, and return what they gave or raise what the first one met."""
    answers = await asyncio.gather(*steps, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return [answer for answer in answers if not isinstance(answer, BaseException)]


async def _remove(cluster: Cluster, job: RLJob, removal: Removal) -> None:
    """Ask a pod to go; if it has gone, or another one has come in its place, the next look sees it."""
    with suppress(NotFoundError, ConflictError):
        await cluster.client.delete(POD, job.metadata.namespace, removal.name, uid=removal.uid)


async def delete_job(cluster: Cluster, record: JobRecord) -> None:
    """Delete the RLJob and, by their owner references, its children."""
    metadata = record.body["metadata"]
    try:
        await cluster.client.delete(RLJOB, metadata["namespace"], metadata["name"], uid=metadata["uid"])
    except (NotFoundError, ConflictError):
        return


def tell(cluster: Cluster, record: JobRecord, notes: tuple[Note, ...]) -> None:
    """Record events about the job."""
    metadata = record.body["metadata"]
    about = ObjectReference(RLJOB, metadata["namespace"], metadata["name"], metadata["uid"])
    for note in notes:
        cluster.recorder.record(about, note.type, note.reason, note.message)


async def _discard(cluster: Cluster, job: RLJob, child: Child) -> None:
    """Delete a child; if it has gone, or another one has come in its place, the next look sees it."""
    with suppress(NotFoundError, ConflictError):
        await cluster.client.delete(child.kind, job.metadata.namespace, child.name, uid=child.uid)


async def _report(cluster: Cluster, job: RLJob, child: Child, patch: Manifest) -> None:
    """Write into the status of a child of somebody else's kind; where it has changed meanwhile, the next look does."""
    with suppress(NotFoundError, ConflictError):
        namespace = job.metadata.namespace
        changed = await cluster.client.merge_patch(child.kind, namespace, child.name, patch, subresource="status")
        cluster.cache.remember(changed)


async def _apply(cluster: Cluster, job: RLJob, manifest: Manifest) -> None:
    """Apply one child.

    One that the cache does not know is not taken by force: somebody else's object of that name is a NameTakenError.
    Where the spec of a kind cannot be changed, it is made anew; claims that came from a template stay as they are.
    """
    kind, name, namespace = kind_of(manifest), name_of(manifest), job.metadata.namespace
    known = cluster.cache.child(namespace, job.metadata.name, kind, name) is not None
    try:
        applied = await cluster.client.apply(manifest, force=known)
    except ConflictError as error:
        text = f"{kind.kind} {name} exists and belongs to somebody else; rename the job, or remove that object"
        raise NameTakenError(error.status, "NameTaken", text) from None
    except InvalidError:
        if kind.kind not in MADE_ANEW or not known:
            raise
        await cluster.client.delete(kind, namespace, name)
        applied = await cluster.client.apply(manifest)
    cluster.cache.remember(applied)


async def _create(cluster: Cluster, manifest: Manifest) -> bool:
    """Create one child and return whether it is known now. A token that exists already is left as it is."""
    try:
        created = await cluster.client.create(manifest)
    except AlreadyExistsError:
        return manifest["kind"] != "Pod"
    if manifest["kind"] == "Pod":
        cluster.cache.remember(created)
    return True
