"""Ways into the schema of a CustomResourceDefinition."""

from collections.abc import Iterator

from tandem_api.crd import Schema


def root(definition: Schema) -> Schema:
    """Return the schema of a whole object."""
    schema: Schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def at(schema: Schema, path: str) -> Schema:
    """Return the schema of a field by its path."""
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
