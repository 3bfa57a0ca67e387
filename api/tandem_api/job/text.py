"""Kinds of text in a job, each with a longest length: an API server weighs rules by the most they may have to read."""

from decimal import Decimal
from typing import Annotated, Final

from pydantic import Field

QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi)?$"
Quantity = Annotated[str, Field(pattern=QUANTITY, max_length=32)]
"""An amount as Kubernetes writes it."""
FACTORS: Final = {
    "m": Decimal("0.001"),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("", "k", "M", "G", "T", "P"))},
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi"), start=1)},
}
Label = Annotated[str, Field(min_length=1, max_length=63)]
"""A name in metrics."""
FilePath = Annotated[str, Field(min_length=1, max_length=1024)]
"""A path as the containers see it."""
ENTRY_POINT = r"^[A-Za-z_][A-Za-z0-9_]*([.][A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$"
EntryPoint = Annotated[str, Field(pattern=ENTRY_POINT, max_length=253)]
"""A function in a module: `package.module:name`."""
WEB_ADDRESS = r"^https?://[^/?#\s]+([/?][^#\s]*)?$"
WebAddress = Annotated[str, Field(pattern=WEB_ADDRESS, max_length=1024)]
"""A URL of http or https."""
Image = Annotated[str, Field(min_length=1, max_length=1024)]
"""A container image."""

OBJECT_NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
ObjectName = Annotated[str, Field(pattern=OBJECT_NAME, min_length=1, max_length=253)]
"""Name of a Kubernetes object: a DNS subdomain."""
QUALIFIED_NAME = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
QualifiedName = Annotated[str, Field(pattern=QUALIFIED_NAME, min_length=1, max_length=317)]
"""A label key or a resource name, such as kubernetes.io/hostname or rdma/hca."""
REPO = r"^[A-Za-z0-9][-A-Za-z0-9_.]*/[A-Za-z0-9][-A-Za-z0-9_.]*$"
Repo = Annotated[str, Field(pattern=REPO, max_length=192)]
"""Owner and name of a Hugging Face repository."""
COMMIT = r"^[0-9a-f]{40}$"
Commit = Annotated[str, Field(pattern=COMMIT, max_length=40)]
"""A git commit in full."""


def amount(quantity: str) -> Decimal:
    """Return the number that a quantity stands for: 0.5 for 500m, 1024 for 1Ki."""
    number = quantity.rstrip("mkKMGTPi")
    return Decimal(number) * FACTORS[quantity.removeprefix(number)]
