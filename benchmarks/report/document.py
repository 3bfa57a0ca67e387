"""The document that a benchmark hands out: its figures, and all that they depend on."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report.machine import describe_machine, versions_of
from benchmarks.report.parts import Report

Document = Mapping[str, Any]
PRINTED = ("figures", "failed", "left_out")


def document_of(report: Report, packages: Sequence[str], samples: Mapping[str, object]) -> dict[str, Any]:
    """Return the document of a benchmark that has parts. `samples`: how many were taken, beside the parts' own."""
    return {
        "figures": report.figures,
        "failed": report.failed,
        "left_out": report.left_out,
        "machine": describe_machine(report.load_before),
        "versions": versions_of(packages),
        "samples": {**samples, **report.samples},
    }


def publish(document: Document, path: Path | None) -> int:
    """Print the figures, write the document where a path is given; return the exit code: 1 where a part has failed."""
    print(json.dumps({key: document[key] for key in PRINTED if key in document}, indent=2))
    if path:
        write_document(document, path)
    return 1 if document.get("failed") else 0


def write_document(document: Document, path: Path) -> None:
    """Write the document, with the folders that it wants."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
