"""The CustomResourceDefinition says what the models say, in the dialect of an API server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, Field

from tandem_api.crd import Schema, crd_yaml, custom_resource_definition, structural_schema

FILE = Path(__file__).parents[2] / "crds" / "rljobs.tandem.dev.yaml"
STRUCTURAL_KEYWORDS = {
    "type", "description", "default", "nullable", "enum", "pattern", "properties", "required", "items",
    "additionalProperties", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength",
    "minItems", "maxItems", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
}  # fmt: skip


def root() -> Schema:
    """Return the schema of a whole RLJob."""
    schema: Schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def at(path: str) -> Schema:
    """Return the schema of a field by its path."""
    schema = root()
    for field in path.split("."):
        schema = schema["properties"][field]
    return schema


def nodes(schema: Schema) -> Iterator[Schema]:
    """Yield a schema and all schemas below it."""
    yield schema
    below = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
    for child in below:
        if child is not None:
            yield from nodes(child)


def test_the_file_is_what_the_models_say_today() -> None:
    assert FILE.read_text() == crd_yaml(), "run `python -m tandem_api.crd > crds/rljobs.tandem.dev.yaml`"


def test_the_file_stays_small_enough_for_kubectl_apply() -> None:
    assert FILE.stat().st_size < 200_000


@pytest.mark.parametrize("keyword", ["$ref", "$defs", "anyOf:", "oneOf:", "allOf:", "const:", "prefixItems:", "title:"])
def test_the_file_holds_no_keyword_that_an_api_server_refuses(keyword: str) -> None:
    assert keyword not in FILE.read_text()


def test_every_node_is_structural() -> None:
    every = list(nodes(root()))

    assert {keyword for node in every for keyword in node} <= STRUCTURAL_KEYWORDS
    assert [node for node in every if "type" not in node] == []
    assert [node for node in every if "properties" in node and "additionalProperties" in node] == []
    assert [node for node in every if node.get("exclusiveMinimum") not in (None, True)] == []
    assert [node for node in every if "default" in node and node["default"] is None] == []


def test_every_field_of_spec_and_status_is_described() -> None:
    fields = [node for part in ("spec", "status") for node in nodes(at(part)) if "properties" in node]

    undescribed = [name for node in fields for name, field in node["properties"].items() if "description" not in field]

    assert undescribed == []


def test_the_names_are_those_of_kubectl() -> None:
    definition = custom_resource_definition()

    assert definition["metadata"]["name"] == "rljobs.tandem.dev"
    assert definition["spec"]["scope"] == "Namespaced"
    assert definition["spec"]["names"] == {
        "kind": "RLJob",
        "listKind": "RLJobList",
        "plural": "rljobs",
        "singular": "rljob",
        "shortNames": ["rlj"],
        "categories": ["tandem"],
    }


def test_status_and_scale_are_subresources_of_fields_that_exist() -> None:
    version = custom_resource_definition()["spec"]["versions"][0]

    assert (version["name"], version["served"], version["storage"]) == ("v1alpha1", True, True)
    assert version["subresources"] == {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.rollout.elastic.replicas",
            "statusReplicasPath": ".status.elastic.ready",
        },
    }
    assert at("spec.rollout.elastic.replicas")["type"] == "integer"
    assert at("status.elastic.ready")["type"] == "integer"


def test_kubectl_get_shows_columns_of_fields_that_exist() -> None:
    columns = custom_resource_definition()["spec"]["versions"][0]["additionalPrinterColumns"]

    assert [column["name"] for column in columns] == ["Phase", "Iteration", "Generation", "Reward", "Ready", "Age"]
    assert [at(column["jsonPath"][1:])["type"] for column in columns[:-1]] == [
        column["type"] for column in columns[:-1]
    ]


def test_of_metadata_only_the_name_is_restricted() -> None:
    metadata = at("metadata")

    assert list(metadata["properties"]) == ["name"]
    assert metadata["properties"]["name"]["maxLength"] == 50


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("spec.hybrid.gpu.sharing", {"enum": ["DRA", "VisibleAll", "None"], "default": "DRA", "type": "string"}),
        ("spec.hybrid.sharedMemory", {"nullable": True, "type": "string"}),
        ("spec.hybrid.rdma", {"nullable": True, "type": "object"}),
        ("spec.recipe.temperature", {"minimum": 0, "exclusiveMinimum": True, "default": 1.0, "type": "number"}),
        ("spec.rollout.parallelism.tensor", {"minimum": 1, "maximum": 1, "default": 1, "type": "integer"}),
        ("spec.trainer.optimizer.betas", {"minItems": 2, "maxItems": 2, "items": {"type": "number"}}),
        ("spec.podTemplate", {"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
        ("spec.rollout.engineArgs", {"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
        ("spec.rewards", {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "minItems": 1}),
        ("status.switches", {"maxItems": 10, "type": "array"}),
        ("spec", {"required": ["policy", "data", "rewards"]}),
    ],
)
def test_a_field_keeps_its_constraints(path: str, expected: Schema) -> None:
    field = at(path)

    assert {keyword: field.get(keyword) for keyword in expected} == expected


def test_a_default_is_written_once_at_the_field_itself() -> None:
    assert at("spec.hybrid")["default"] == {}
    assert at("spec.hybrid.gpu")["default"] == {}
    assert at("spec.hybrid.replicas")["default"] == 1


def test_a_default_that_differs_from_the_fields_own_is_kept() -> None:
    class Inner(BaseModel):
        width: int = 1
        height: int = 1

    class Outer(BaseModel):
        inner: Inner = Inner(width=2)

    assert structural_schema(Outer)["properties"]["inner"]["default"] == {"width": 2}


class Union(BaseModel):
    value: int | str


class MixedTuple(BaseModel):
    value: tuple[int, str]


class Multiple(BaseModel):
    value: int = Field(multiple_of=2)


@pytest.mark.parametrize(
    ("model", "message"),
    [(Union, "a union of 2 types"), (MixedTuple, "a tuple of different types"), (Multiple, "keyword multipleOf")],
)
def test_what_has_no_structural_form_is_refused_not_dropped(model: type[BaseModel], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        structural_schema(model)


def test_the_manifest_is_plain_yaml() -> None:
    document: dict[str, Any] = yaml.safe_load(crd_yaml())

    assert document == custom_resource_definition()
