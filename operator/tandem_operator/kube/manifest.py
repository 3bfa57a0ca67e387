"""A Kubernetes object as the API server sends it, and how its fields are read."""

from typing import cast

from pydantic import JsonValue

Manifest = dict[str, JsonValue]
"""One Kubernetes object: JSON as it is on the wire. Treat one from a cache as immutable."""


def section(manifest: Manifest, *keys: str) -> Manifest:
    """Return the map at a path; an empty one where it is absent or no map."""
    value: JsonValue = manifest
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def sections(manifest: Manifest, *keys: str) -> tuple[Manifest, ...]:
    """Return the maps of the list at a path; none where it is absent or no list."""
    value = section(manifest, *keys[:-1]).get(keys[-1])
    return tuple(item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()


def text(manifest: Manifest, *keys: str) -> str:
    """Return the string at a path; an empty one where it is absent or no string."""
    value = section(manifest, *keys[:-1]).get(keys[-1])
    return value if isinstance(value, str) else ""


def number(manifest: Manifest, *keys: str) -> int:
    """Return the integer at a path; 0 where it is absent or no integer."""
    value = section(manifest, *keys[:-1]).get(keys[-1])
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def name_of(manifest: Manifest) -> str:
    """Return metadata.name."""
    return text(manifest, "metadata", "name")


def namespace_of(manifest: Manifest) -> str:
    """Return metadata.namespace; empty for an object outside namespaces."""
    return text(manifest, "metadata", "namespace")


def uid_of(manifest: Manifest) -> str:
    """Return metadata.uid; empty before the API server has given one."""
    return text(manifest, "metadata", "uid")


def resource_version_of(manifest: Manifest) -> str:
    """Return metadata.resourceVersion; empty before the API server has given one."""
    return text(manifest, "metadata", "resourceVersion")


def labels_of(manifest: Manifest) -> dict[str, str]:
    """Return metadata.labels."""
    return cast("dict[str, str]", section(manifest, "metadata", "labels"))


def annotations_of(manifest: Manifest) -> dict[str, str]:
    """Return metadata.annotations."""
    return cast("dict[str, str]", section(manifest, "metadata", "annotations"))
