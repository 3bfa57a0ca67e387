"""docs/observability.md names every metric and every value of its labels."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from tandem_api.job.status import Direction
from tandem_api.metrics import MEMBER, OTHER, STAGES, TOTAL, Activity, Interruption, SwitchResult, Wait
from tandem_api.registry import FailureReason
from tandem_checkpoint.metrics import CHILDREN, WAYS, EngineMetrics
from tandem_master.metrics import MasterMetrics
from tests.tandem_master.switches import switch_record

PAGE = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
VALUES = sorted(
    {*STAGES, MEMBER, OTHER, TOTAL, *Direction, *SwitchResult, *FailureReason, *Interruption, *Wait, *Activity}
    | {*CHILDREN, *WAYS}
)


def registry_of_engine() -> CollectorRegistry:
    """Return the registry of an engine that has seen something of everything."""
    metrics = EngineMetrics()
    metrics.stage(Direction.TRAIN_TO_INFER, "export", 1.0)
    metrics.exported(1, 1.0)
    return metrics.registry


def registry_of_master() -> CollectorRegistry:
    metrics = MasterMetrics()
    metrics.record(switch_record())
    return metrics.registry


REGISTRIES = pytest.mark.parametrize("registry", [registry_of_engine(), registry_of_master()], ids=["engine", "master"])


def names(registry: CollectorRegistry) -> list[str]:
    """Return the names of our own metrics as they are scraped."""
    families = [family for family in registry.collect() if family.name.startswith("tandem_")]
    return [family.name + ("_total" if family.type == "counter" else "") for family in families]


@REGISTRIES
def test_every_metric_is_on_the_page(registry: CollectorRegistry) -> None:
    assert [name for name in names(registry) if f"`{name}`" not in PAGE] == []


@REGISTRIES
def test_no_label_can_hold_the_name_of_a_job_or_a_pod(registry: CollectorRegistry) -> None:
    labels = {label for family in registry.collect() for sample in family.samples for label in sample.labels}

    assert not labels & {"job", "pod", "node", "namespace"}


@pytest.mark.parametrize("value", [value for value in VALUES if value])
def test_every_value_of_a_label_is_on_the_page(value: str) -> None:
    assert f"`{value}`" in PAGE
