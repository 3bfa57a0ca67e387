"""RLJobs for the API server."""

from pathlib import Path
from typing import Any

import yaml

EXAMPLE = Path(__file__).parents[3] / "examples" / "01-reverse-digits" / "rljob.yaml"


def manifest(name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    """Return the first example under another name, with some fields of its spec replaced."""
    document: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    document["metadata"] = {"name": name, "namespace": namespace}
    document["spec"] |= spec
    return document
