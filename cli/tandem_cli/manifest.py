"""Reading an RLJob file: parsed, with its paths made absolute."""

from pathlib import Path

import yaml

from tandem_api.job import RLJob
from tandem_api.job.policy import DataSpec, ModelSource, PolicySpec
from tandem_api.job.rewards import RewardSpec
from tandem_api.problems import InvalidJob, parse_job
from tandem_cli.errors import UserError


def read_job(path: Path) -> RLJob:
    """Return the job of a file; raise UserError with one line a mistake."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the RLJob's file with -f") from None
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply; make it flatter") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: bytes that are not UTF-8, dates that do not exist
        raise UserError(f"{path}: is not YAML ({' '.join(str(error).split())}); correct its syntax") from None
    try:
        return resolve_paths(parse_job(document), path.resolve().parent)
    except InvalidJob as error:
        raise UserError(*error.problems) from None


def resolve_paths(job: RLJob, folder: Path) -> RLJob:
    """Return the job with relative paths taken from `folder`: its processes run elsewhere."""
    spec = job.spec
    policy: PolicySpec = spec.policy.model_copy(
        update={"model": ModelSource(path=str((folder / spec.policy.model.path).resolve()))}
    )
    train = tuple(item.model_copy(update={"path": str((folder / item.path).resolve())}) for item in spec.data.train)
    held_out = tuple(
        item.model_copy(update={"path": str((folder / item.path).resolve())}) for item in spec.data.evaluation
    )
    data: DataSpec = spec.data.model_copy(update={"train": train, "evaluation": held_out})
    rewards = tuple(_resolve_reward(term, folder) for term in spec.rewards)
    return job.model_copy(update={"spec": spec.model_copy(update={"policy": policy, "data": data, "rewards": rewards})})


def _resolve_reward(term: RewardSpec, folder: Path) -> RewardSpec:
    """Return the term with the folder of its modules: the RLJob file's own where it names none."""
    if term.python is None:
        return term
    modules = str((folder / (term.python.folder or ".")).resolve())
    return term.model_copy(update={"python": term.python.model_copy(update={"folder": modules})})
