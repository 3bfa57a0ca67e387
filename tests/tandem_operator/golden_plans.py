"""Whole plans as files, for people to read: `python -m tests.tandem_operator.golden_plans` writes them anew."""

from pathlib import Path

import yaml

from tandem_api.job import RLJob
from tandem_operator.plan.job import Plan, plan_job
from tests.tandem_operator.jobs import SURROUNDINGS


class Readable(yaml.SafeDumper):
    """Writes text of several lines as a block."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Readable.add_representer(str, _text)

FOLDER = Path(__file__).parent / "golden"
NAMES = ("cpu", "gpu")


def stored_job(name: str) -> RLJob:
    """Return a job as an API server keeps it, with every default written down."""
    return RLJob.model_validate(yaml.safe_load((FOLDER / f"stored-{name}.yaml").read_text()))


def plan_of_stored_job(name: str) -> Plan:
    """Return the plan of a stored job."""
    return plan_job(stored_job(name), SURROUNDINGS)


def plan_file(name: str) -> Path:
    """Return the file that holds the plan of a stored job."""
    return FOLDER / f"plan-{name}.yaml"


def plan_text(name: str) -> str:
    """Return all manifests of the plan of a stored job, in the order in which they are applied."""
    manifests = [item.manifest() for item in plan_of_stored_job(name).objects]
    return yaml.dump_all(manifests, Dumper=Readable, sort_keys=False, width=120)


if __name__ == "__main__":
    for each in NAMES:
        plan_file(each).write_text(plan_text(each))
