"""Carrying out a decision: what is written to the API server, in which order."""

from dataclasses import dataclass

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
from tandem_operator.kube.resources import POD, RESOURCE_CLAIM_TEMPLATE, RLJOB, kind_of
from tandem_operator.reconcile.decision import Decision, Note
from tandem_operator.reconcile.record import JobRecord


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
    for removal in decision.remove:
        try:
            await cluster.client.delete(POD, job.metadata.namespace, removal.name, uid=removal.uid)
        except (NotFoundError, ConflictError):  # it has gone, or another one has come in its place: look again
            continue
    for manifest in decision.apply:
        cluster.cache.remember(await _apply(cluster, job, dict(manifest)))
    for manifest in (*decision.create, *(() if decision.master is None else (decision.master,))):
        if not await _create(cluster, dict(manifest)):
            return False
    return True


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


async def _apply(cluster: Cluster, job: RLJob, manifest: Manifest) -> Manifest:
    """Apply one child and return it as stored.

    One that the cache does not know is not taken by force: somebody else's object of that name is a NameTakenError. The
    spec of a ResourceClaimTemplate cannot be changed, so it is made anew; claims that came from it stay as they are.
    """
    kind, name, namespace = kind_of(manifest), name_of(manifest), job.metadata.namespace
    known = cluster.cache.child(namespace, job.metadata.name, kind, name) is not None
    try:
        return await cluster.client.apply(manifest, force=known)
    except ConflictError as error:
        text = f"{kind.kind} {name} exists and belongs to somebody else; rename the job, or remove that object"
        raise NameTakenError(error.status, "NameTaken", text) from None
    except InvalidError:
        if kind is not RESOURCE_CLAIM_TEMPLATE or not known:
            raise
        await cluster.client.delete(kind, namespace, name)
        return await cluster.client.apply(manifest)


async def _create(cluster: Cluster, manifest: Manifest) -> bool:
    """Create one child and return whether it is known now. A token that exists already is left as it is."""
    try:
        created = await cluster.client.create(manifest)
    except AlreadyExistsError:
        return manifest["kind"] != "Pod"
    if manifest["kind"] == "Pod":
        cluster.cache.remember(created)
    return True
