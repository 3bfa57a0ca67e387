"""The user's part of a PodTemplate, merged into every pod of a job (`spec.podTemplate`).

Maps are merged by key, and null removes a key; containers, volumes and environment variables are merged by name, volume
mounts by mountPath; every other list is replaced. A volume, a variable and a mount keep only what the template names,
because they are unions: a claim in place of an emptyDir must not leave the emptyDir beside it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence

from pydantic import JsonValue, ValidationError

from tandem_operator.plan.errors import SpecError
from tandem_operator.plan.names import OWNED_LABELS
from tandem_operator.plan.objects import Pod
from tandem_operator.plan.revision import OWNED_ANNOTATIONS

Map = dict[str, JsonValue]

FIELD = "podTemplate"
OWNED_FIELDS = frozenset({"restartPolicy", "hostname", "subdomain"})
"""Fields of a pod spec that only the planner sets: healing and the pods' names in DNS rest on them."""
UNIONS_OF_POD = {"volumes": "name"}
UNIONS_OF_CONTAINER = {"env": "name", "volumeMounts": "mountPath"}
"""Lists whose items are unions, with the field that identifies an item."""


def merged_pods(pods: tuple[Pod, ...], template: Map) -> tuple[Pod, ...]:
    """Return the pods with the template merged into each. SpecError names the field of the template that is wrong."""
    if not template:
        return pods
    _check_fields(template)
    _check_containers(pods, template)
    return tuple(_merged_pod(pod, template) for pod in pods)


def _check_fields(template: Map) -> None:
    """Refuse what a template may not say: other fields, another identity, what the operator finds and heals pods by."""
    _check_keys(template, FIELD, ("metadata", "spec"))
    metadata = _mapping(template.get("metadata", {}), f"{FIELD}.metadata")
    _check_keys(metadata, f"{FIELD}.metadata", ("annotations", "labels"))
    _check_owned(metadata, "labels", OWNED_LABELS, "by which the job's pods are found")
    _check_owned(metadata, "annotations", OWNED_ANNOTATIONS, "by which the operator knows its pods")
    owned = sorted(OWNED_FIELDS & _pod_spec(template).keys())
    if owned:
        problem = "is the operator's to decide"
        raise SpecError(f"{FIELD}.spec.{owned[0]}", problem, "remove it")


def _check_owned(metadata: Map, kind: str, owned: frozenset[str], purpose: str) -> None:
    """Refuse labels or annotations that only the planner sets."""
    field = f"{FIELD}.metadata.{kind}"
    used = sorted(owned & _mapping(metadata.get(kind, {}), field).keys())
    if used:
        raise SpecError(field, f"sets {used[0]}, {purpose}", "remove it")


def _check_keys(mapping: Map, field: str, known: Sequence[str]) -> None:
    """Refuse a key that is none of the known ones."""
    unknown = sorted(set(mapping) - set(known))
    if unknown:
        raise SpecError(f"{field}.{unknown[0]}", "is no field of a pod template here", f"use {' or '.join(known)}")


def _check_containers(pods: tuple[Pod, ...], template: Map) -> None:
    """Refuse a container that no pod of the job has; one that only some pods have is merged into those."""
    names = list(dict.fromkeys(container.name for pod in pods for container in pod.spec.containers))
    for container in _template_items(_pod_spec(template), "containers", "name", f"{FIELD}.spec"):
        if container["name"] not in names:
            problem = "is no container of this job"
            raise SpecError(f"{FIELD}.spec.containers[{container['name']}]", problem, f"use {' or '.join(names)}")


def _pod_spec(template: Map) -> Map:
    """Return the pod spec of the template."""
    return _mapping(template.get("spec", {}), f"{FIELD}.spec")


def _merged_pod(pod: Pod, template: Map) -> Pod:
    """Return one pod with the template merged into it."""
    manifest = pod.manifest()
    merged: Map = {
        **manifest,
        "metadata": _merged_maps(_map(manifest["metadata"]), _map(template.get("metadata", {}))),
        "spec": _merged_spec(_map(manifest["spec"]), _pod_spec(template)),
    }
    try:
        result = Pod.model_validate(merged, by_alias=True, by_name=False)
    except ValidationError as error:
        raise _unfit(error, merged) from None
    _check_mounts(_map(merged["spec"]))
    return result


def _merged_spec(old: Map, new: Map) -> Map:
    """Return a pod spec merged."""
    field = f"{FIELD}.spec"
    merged = _merged_with_unions(old, new, UNIONS_OF_POD, field)
    containers = {str(container["name"]): container for container in _maps(old["containers"])}
    for container in _template_items(new, "containers", "name", field):
        name = str(container["name"])
        if name in containers:
            containers[name] = _merged_with_unions(
                containers[name], container, UNIONS_OF_CONTAINER, f"{field}.containers[{name}]"
            )
    merged["containers"] = list(containers.values())
    return merged


def _merged_with_unions(old: Map, new: Map, unions: Mapping[str, str], field: str) -> Map:
    """Return a map merged by key, with the lists named in `unions` merged by the field that identifies their items."""
    merged = _merged_maps(old, {key: value for key, value in new.items() if key not in unions})
    for name, key in unions.items():
        items = {str(item[key]): item for item in _maps(old.get(name, []))}
        for item in _template_items(new, name, key, field):
            items[str(item[key])] = _merged_union(items.get(str(item[key]), {}), item)
        if items:
            merged[name] = list(items.values())
    return merged


def _merged_maps(old: Map, new: Map) -> Map:
    """Return the old map with the new one's keys; maps below are merged, null removes, anything else is replaced."""
    merged = dict(old)
    for key, value in new.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged_value(merged.get(key), value)
    return merged


def _merged_union(old: Map, new: Map) -> Map:
    """Return a union merged: only the new one's members stay."""
    return {key: _merged_value(old.get(key), value) for key, value in new.items() if value is not None}


def _merged_value(old: JsonValue, new: JsonValue) -> JsonValue:
    """Return one value merged."""
    return _merged_maps(old, new) if isinstance(old, dict) and isinstance(new, dict) else new


def _template_items(parent: Map, name: str, key: str, field: str) -> list[Map]:
    """Return the items of a list of the template. SpecError where it is no list or an item lacks its key."""
    items = parent.get(name, [])
    place = f"{field}.{name}"
    if not isinstance(items, list):
        raise SpecError(place, "is no list", "begin each item with -")
    maps = [_mapping(item, f"{place}[{index}]") for index, item in enumerate(items)]
    for index, item in enumerate(maps):
        if not isinstance(item.get(key), str):
            raise SpecError(f"{place}[{index}]", f"has no {key}", f"add {key}: items are merged by it")
    return maps


def _mapping(value: JsonValue, field: str) -> Map:
    """Return a mapping of the template. SpecError where it is something else."""
    if not isinstance(value, dict):
        raise SpecError(field, "is no mapping", "write fields below it or remove it")
    return value


def _map(value: JsonValue) -> Map:
    """Return a map of a manifest; the planner's own manifests and checked templates hold one there."""
    return value if isinstance(value, dict) else {}


def _maps(value: JsonValue) -> list[Map]:
    """Return the maps of a list in a manifest."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _unfit(error: ValidationError, merged: Map) -> SpecError:
    """Return the first mistake that the types of our objects find in a merged pod, at its place in the template."""
    detail = error.errors(include_url=False)[0]
    place = "".join(_steps(detail["loc"], merged))
    if detail["type"] == "missing":
        return SpecError(f"{FIELD}{place}", "is missing", "add it")
    shown = json.dumps(detail["input"], default=str)
    return SpecError(f"{FIELD}{place}", f"is {shown}", f"use {detail['msg'].removeprefix('Input should be ')}")


def _steps(path: tuple[str | int, ...], merged: Map) -> Iterator[str]:
    """Yield the steps of a path: an item of a list goes by its name, since the template numbers items otherwise."""
    value: JsonValue = merged
    for part in path:
        if isinstance(part, int):
            value = value[part] if isinstance(value, list) else None
            name = _map(value).get("name")
            yield f"[{part if name is None else name}]"
        else:
            value = _map(value).get(part)
            yield f".{part}"


def _check_mounts(spec: Map) -> None:
    """Refuse a mount of a volume that the pod does not have."""
    volumes = {str(volume["name"]) for volume in _maps(spec.get("volumes"))}
    for kind in ("containers", "initContainers"):
        for container in _maps(spec.get(kind)):
            _check_mounts_of(container, f"{FIELD}.spec.{kind}[{container.get('name')}]", volumes)


def _check_mounts_of(container: Map, field: str, volumes: set[str]) -> None:
    """Refuse a mount of one container that names none of the volumes."""
    for mount in _maps(container.get("volumeMounts")):
        if mount.get("name") not in volumes:
            place = f"{field}.volumeMounts[{mount.get('mountPath')}]"
            raise SpecError(
                place, f"names no volume of its pod ({mount.get('name')})", f"add it to spec.{FIELD}.spec.volumes"
            )
