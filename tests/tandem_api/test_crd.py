"""The CustomResourceDefinition says what the models say, in the dialect of an API server."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, Field

from tandem_api.crd import Schema, crd_yaml, custom_resource_definition, structural_schema
from tests.tandem_api.schemas import at as field_at
from tests.tandem_api.schemas import nodes, root

FILE = Path(__file__).parents[2] / "crds" / "rljobs.tandem.dev.yaml"
STRUCTURAL_KEYWORDS = {
    "type", "description", "default", "enum", "pattern", "properties", "required", "items",
    "additionalProperties", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength",
    "minItems", "maxItems", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys", "minProperties", "maxProperties", "x-kubernetes-validations",
}  # fmt: skip


def at(path: str) -> Schema:
    """Return the schema of a field of an RLJob by its path."""
    return field_at(root(custom_resource_definition()), path)


def test_the_file_is_what_the_models_say_today() -> None:
    assert FILE.read_text() == crd_yaml(), "run `python -m tandem_api.crd > crds/rljobs.tandem.dev.yaml`"


def test_the_file_stays_small_enough_for_kubectl_apply() -> None:
    assert FILE.stat().st_size < 200_000


@pytest.mark.parametrize("keyword", ["$ref", "$defs", "anyOf:", "oneOf:", "allOf:", "const:", "prefixItems:", "title:"])
def test_the_file_holds_no_keyword_that_an_api_server_refuses(keyword: str) -> None:
    assert keyword not in FILE.read_text()


def test_every_node_is_structural() -> None:
    every = list(nodes(root(custom_resource_definition())))

    assert {keyword for node in every for keyword in node} <= STRUCTURAL_KEYWORDS
    assert [node for node in every if "type" not in node and not node.get("x-kubernetes-preserve-unknown-fields")] == []
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
            "labelSelectorPath": ".status.elastic.selector",
        },
    }
    assert at("spec.rollout.elastic.replicas")["type"] == "integer"
    assert at("status.elastic.ready")["type"] == "integer"
    assert at("status.elastic.selector")["type"] == "string"


def test_kubectl_get_shows_columns_of_fields_that_exist() -> None:
    columns = custom_resource_definition()["spec"]["versions"][0]["additionalPrinterColumns"]
    wide = [column for column in columns if column.get("priority") == 1]
    mirrored = [
        column for column in columns if column["jsonPath"].startswith(".status.") and "?" not in column["jsonPath"]
    ]

    assert [column["name"] for column in columns if column not in wide] == [
        "Phase", "Iteration", "Generation", "Reward", "Switch p50", "Age",
    ]  # fmt: skip
    assert [column["name"] for column in wide] == [
        "Ready", "Rollout ready", "Tokens/s", "Restarts", "Attempt", "Suspended", "Started",
    ]  # fmt: skip
    assert [at(column["jsonPath"][1:])["type"] for column in mirrored] == [
        {"date": "string"}.get(column["type"], column["type"]) for column in mirrored
    ]


def test_every_text_list_and_map_is_bounded_so_that_the_cost_of_rules_is() -> None:
    every = list(nodes(at("spec")))

    assert [node for node in every if node.get("type") == "array" and "maxItems" not in node] == []
    assert [node for node in every if node.get("type") == "string" and not {"maxLength", "enum"} & node.keys()] == []
    assert [node for node in every if "additionalProperties" in node and "maxProperties" not in node] == []


def test_the_lists_of_a_status_are_bounded_so_that_a_job_stays_small() -> None:
    every = list(nodes(at("status")))

    assert [node for node in every if node.get("type") == "array" and "maxItems" not in node] == []
    assert [node for node in every if node.get("type") == "string" and not {"maxLength", "enum"} & node.keys()] == []


def test_a_null_is_nowhere_allowed_because_an_api_server_then_drops_it() -> None:
    assert "nullable" not in FILE.read_text()


def test_of_metadata_only_the_name_is_restricted() -> None:
    metadata = at("metadata")

    assert list(metadata["properties"]) == ["name"]
    assert metadata["properties"]["name"]["maxLength"] == 50


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("spec.hybrid.gpu.sharing", {"enum": ["DRA", "VisibleAll", "None"], "default": "DRA", "type": "string"}),
        ("spec.hybrid.sharedMemory", {"maxLength": 32, "type": "string"}),
        ("spec.hybrid.rdma", {"type": "object", "default": None}),
        ("spec.recipe.temperature", {"minimum": 0, "exclusiveMinimum": True, "default": 1.0, "type": "number"}),
        ("spec.trainer.parallelism.tensor", {"minimum": 1, "maximum": 64, "default": 1, "type": "integer"}),
        ("spec.rollout.parallelism.tensor", {"enum": [1, 2, 4, 8], "default": 1, "type": "integer"}),
        ("spec.trainer.optimizer.betas", {"minItems": 2, "maxItems": 2, "default": [0.9, 0.95]}),
        ("spec.podTemplate.spec", {"type": None, "x-kubernetes-preserve-unknown-fields": True}),
        ("spec.rollout.engineArgs", {"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
        ("spec.rewards", {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "minItems": 1}),
        ("status.switches", {"maxItems": 10, "type": "array"}),
        ("spec", {"required": ["policy", "data", "rewards"]}),
    ],
)
def test_a_field_keeps_its_constraints(path: str, expected: Schema) -> None:
    field = at(path)

    assert {keyword: field.get(keyword) for keyword in expected} == expected


def test_a_default_is_written_in_full_because_an_api_server_checks_its_relations_as_it_is() -> None:
    default = at("spec.hybrid")["default"]

    assert default["gpu"] == {"sharing": "DRA", "deviceClassName": "gpu.nvidia.com", "selectors": []}
    assert default["gpusPerPod"] == at("spec.hybrid.gpusPerPod")["default"]
    assert "rdma" not in default


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
