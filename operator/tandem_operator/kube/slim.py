"""What the cache keeps of an object: the rest is dropped before it costs memory."""

from tandem_operator.kube.manifest import Manifest, section, sections

_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_POD_SPEC = ("nodeName", "schedulingGates", "restartPolicy", "resourceClaims")
_POD_STATUS = (
    "phase",
    "reason",
    "message",
    "conditions",
    "podIP",
    "startTime",
    "nominatedNodeName",
    "resourceClaimStatuses",
)
_CONTAINER_STATUS = ("name", "ready", "started", "restartCount", "state", "lastState")


def slim_metadata(manifest: Manifest) -> Manifest:
    """Return the identity of an object alone: enough for one that only has to be there, as a Secret."""
    metadata = _only(section(manifest, "metadata"), _METADATA)
    annotations = metadata.get("annotations")
    if isinstance(annotations, dict) and _LAST_APPLIED in annotations:
        metadata["annotations"] = {key: value for key, value in annotations.items() if key != _LAST_APPLIED}
    return {**_only(manifest, ("apiVersion", "kind")), "metadata": metadata}


def slim_status(manifest: Manifest) -> Manifest:
    """Return the identity of an object and its whole status."""
    return {**slim_metadata(manifest), **_only(manifest, ("status",))}


def slim_pod(manifest: Manifest) -> Manifest:
    """Return of a pod what its state can be judged by: node, gates, claims, conditions and container states."""
    status = section(manifest, "status")
    kept = _only(status, _POD_STATUS)
    for statuses in ("initContainerStatuses", "containerStatuses"):
        if statuses in status:
            kept[statuses] = [_only(container, _CONTAINER_STATUS) for container in sections(status, statuses)]
    return {**slim_metadata(manifest), "spec": _only(section(manifest, "spec"), _POD_SPEC), "status": kept}


def _only(whole: Manifest, keys: tuple[str, ...]) -> Manifest:
    """Return a map with some of its keys."""
    return {key: whole[key] for key in keys if key in whole}
