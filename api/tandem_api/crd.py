"""The CustomResourceDefinition of RLJob: `python -m tandem_api.crd > crds/rljobs.tandem.dev.yaml`.

An API server takes a narrower dialect than pydantic writes (a *structural schema* in OpenAPI v3.0): no `$ref`, no
`anyOf` with null, no `const`, `exclusiveMinimum` as a flag. `structural_schema` translates and refuses what it cannot.
"""

import sys
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from tandem_api.invariant import VALIDATIONS
from tandem_api.job.spec import API_VERSION, RLJob

Schema = dict[str, Any]
"""One node of a schema: an open JSON document by nature."""

GROUP, VERSION = API_VERSION.split("/")
PLURAL = "rljobs"
PRESERVE = "x-kubernetes-preserve-unknown-fields"
COPIED_KEYWORDS = (
    "type",
    "format",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
    VALIDATIONS,
)
TRANSLATED_KEYWORDS = (
    "description",
    "default",
    "const",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "properties",
    "additionalProperties",
    "items",
    "prefixItems",
    "title",
)
LISTS_BY_KEY = (
    (("spec", "data", "train"), "name"),
    (("spec", "rewards"), "name"),
    (("status", "conditions"), "type"),
)
"""Lists that are maps by one field of their items: the API server keeps the key unique and merges item by item."""
COLUMNS = (
    ("Phase", "string", ".status.phase"),
    ("Iteration", "integer", ".status.iteration"),
    ("Generation", "integer", ".status.generation"),
    ("Reward", "number", ".status.reward.mean"),
    ("Switch p50", "number", ".status.switchSecondsMedian"),
    ("Age", "date", ".metadata.creationTimestamp"),
)
"""What `kubectl get` shows: is the job well?"""
WIDE_COLUMNS = (
    ("Ready", "integer", ".status.hybrid.ready"),
    ("Rollout ready", "integer", ".status.elastic.ready"),
    ("Tokens/s", "number", ".status.tokensPerSecond"),
    ("Restarts", "integer", ".status.restarts"),
    ("Attempt", "integer", ".status.attempt"),
    ("Suspended", "string", '.status.conditions[?(@.type=="Suspended")].status'),
    ("Started", "date", ".status.startTime"),
)
"""What `kubectl get -o wide` adds."""
HEADER = "# Generated from tandem_api by `python -m tandem_api.crd`; a test fails when it is stale.\n"


def structural_schema(model: type[BaseModel]) -> Schema:
    """Return the model's schema as an API server takes it. TypeError names what has no such form."""
    document = model.model_json_schema()
    return _structural(document, document.get("$defs", {}))


def _structural(raw: Mapping[str, Any], definitions: Mapping[str, Schema]) -> Schema:
    """Return one node translated, with everything below it."""
    node = _resolved(raw, definitions)
    unknown = sorted(set(node) - {*COPIED_KEYWORDS, *TRANSLATED_KEYWORDS, "$defs"})
    if unknown:
        raise TypeError(f"the schema keyword {unknown[0]} has no structural form: {node}")
    if "type" not in node:
        return {**_description(node), PRESERVE: True}
    schema: Schema = {**_description(node), **{word: node[word] for word in COPIED_KEYWORDS if word in node}}
    if "const" in node:
        schema["enum"] = [node["const"]]
    schema |= _exclusive_bounds(node) | _children(node, definitions)
    if node.get("default") is not None:
        schema["default"] = _whole_default(node["default"])
    return schema


def _resolved(raw: Mapping[str, Any], definitions: Mapping[str, Schema]) -> Schema:
    """Return the node with its reference replaced by the definition, and `anyOf` with null by the other member.

    An API server drops a null where the schema does not allow one: null is absent, as in a core type.
    """
    node = dict(raw)
    while "$ref" in node or "anyOf" in node:
        if "$ref" in node:
            name = node.pop("$ref").removeprefix("#/$defs/")
            node = {**definitions[name], **node}
            continue
        members = [member for member in node["anyOf"] if member.get("type") != "null"]
        if len(members) != 1:
            raise TypeError(f"a union of {len(members)} types has no structural form: {node}")
        del node["anyOf"]
        node = {**members[0], **node}
    return node


def _description(node: Schema) -> Schema:
    """Return the description on one line, as `kubectl explain` wraps it itself."""
    return {"description": " ".join(node["description"].split())} if "description" in node else {}


def _exclusive_bounds(node: Schema) -> Schema:
    """Return exclusive bounds in the form of OpenAPI v3.0: the bound, and a flag beside it."""
    bounds: Schema = {}
    if "exclusiveMinimum" in node:
        bounds |= {"minimum": node["exclusiveMinimum"], "exclusiveMinimum": True}
    if "exclusiveMaximum" in node:
        bounds |= {"maximum": node["exclusiveMaximum"], "exclusiveMaximum": True}
    return bounds


def _children(node: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """Return the translated fields, values or items of a node."""
    if node["type"] == "array":
        return {"items": _items(node, definitions)}
    if node["type"] != "object":
        return {}
    if "properties" in node:
        return {"properties": {key: _structural(item, definitions) for key, item in node["properties"].items()}}
    values = node.get("additionalProperties")
    if not isinstance(values, dict):
        return {PRESERVE: True}
    below = _structural(values, definitions)
    return {PRESERVE: True} if PRESERVE in below and "type" not in below else {"additionalProperties": below}


def _items(node: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """Return the one schema of all items; a tuple has a form only where its members are alike."""
    members: list[Schema] = node.get("prefixItems", [node["items"]] if "items" in node else [{}])
    translated = [_structural(member, definitions) for member in members]
    if any(member != translated[0] for member in translated):
        raise TypeError(f"a tuple of different types has no structural form: {node}")
    return translated[0]


def _whole_default(default: object) -> object:
    """Return the default without absent fields. It is written in full, although each field has its own default too:
    an API server checks that a default keeps the relations between its fields, and fills nothing in for that."""
    if not isinstance(default, dict):
        return default
    return {key: _whole_default(value) for key, value in default.items() if value is not None}


def custom_resource_definition() -> Schema:
    """Return the whole manifest."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}", "labels": {"app.kubernetes.io/name": "tandem"}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": "RLJob",
                "listKind": "RLJobList",
                "plural": PLURAL,
                "singular": "rljob",
                "shortNames": ["rlj"],
                "categories": ["tandem"],
            },
            "versions": [_version()],
        },
    }


def _version() -> Schema:
    """Return the served and stored version."""
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [
            *({"name": name, "type": kind, "jsonPath": path} for name, kind, path in COLUMNS),
            *({"name": name, "type": kind, "jsonPath": path, "priority": 1} for name, kind, path in WIDE_COLUMNS),
        ],
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.rollout.elastic.replicas",
                "statusReplicasPath": ".status.elastic.ready",
                "labelSelectorPath": ".status.elastic.selector",
            },
        },
        "schema": {"openAPIV3Schema": _root_schema()},
    }


def _root_schema() -> Schema:
    """Return the schema of a whole RLJob. Of metadata an API server lets us restrict the name, nothing else."""
    root = structural_schema(RLJob)
    fields = root["properties"]
    name = fields["metadata"]["properties"]["name"]
    for path, key in LISTS_BY_KEY:
        _at(root, path).update({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]})
    return {
        **_description(root),
        "type": "object",
        "required": ["metadata", "spec"],
        "properties": {
            "apiVersion": {"description": "Group and version.", "type": "string"},
            "kind": {"description": "Kind.", "type": "string"},
            "metadata": {"type": "object", "properties": {"name": name}},
            "spec": fields["spec"],
            "status": fields["status"],
        },
    }


def _at(root: Schema, path: tuple[str, ...]) -> Schema:
    """Return the node at a path of field names."""
    node = root
    for field in path:
        node = node["properties"][field]
    return node


def crd_yaml() -> str:
    """Return the manifest as the file in `crds/` holds it."""
    return HEADER + yaml.safe_dump(custom_resource_definition(), sort_keys=False, width=120)


if __name__ == "__main__":
    sys.stdout.write(crd_yaml())
