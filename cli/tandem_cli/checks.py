"""What can be known to fail before anything is started: the policy's folder, the data, what this machine can run."""

from collections.abc import Iterator
from pathlib import Path

from tandem_api.job import RLJob, RLJobSpec
from tandem_api.job.pods import GpuSharing
from tandem_api.job.policy import Dtype
from tandem_checkpoint.architectures import UnsupportedArchitecture
from tandem_checkpoint.architectures.config import PolicyConfig, PolicyFolderError, read_policy_config
from tandem_checkpoint.architectures.split import SplitRefused, check_split, check_trainer_split
from tandem_checkpoint.disk.policy_check import policy_problems
from tandem_checkpoint.layouts.pod import split_of
from tandem_checkpoint.segments.layout import segment_layout
from tandem_cli.errors import UserError
from tandem_cli.local.environment import POD_FIELDS, is_known
from tandem_master.data.catalogue import load_catalogue, too_few, unlabelled
from tandem_master.data.problems import read_problem_set
from tandem_master.errors import DataError
from tandem_master.evaluation.held_out import load_held_out, overlaps
from tandem_operator.plan.errors import SpecError
from tandem_operator.plan.job import Surroundings, plan_job

CPU_HEAD_MULTIPLE = 32
"""vLLM's CPU attention takes head dimensions that are multiples of this."""
GPU_CONTROL = Path("/dev/nvidiactl")


def check_job(job: RLJob) -> None:
    """Raise UserError with one line for every problem that can be found without starting anything."""
    policy, data = [*_policy_problems(job.spec)], [*_data_problems(job.spec)]
    problems = [*policy, *_placement_problems(job.spec), *_lifecycle_problems(job.spec), *_plan_problems(job), *data]
    if not policy and not data:
        problems += _budget_problems(job.spec)
    if problems:
        raise UserError(*problems)


def doubts_about(job: RLJob) -> tuple[str, ...]:
    """Return what of a job in order is probably not meant so, one line each."""
    if not job.spec.data.evaluation:
        return ()
    catalogue = load_catalogue(job.spec.policy, job.spec.data)
    return overlaps(load_held_out(job.spec, catalogue), catalogue)


def segment_bytes(job: RLJob) -> int:
    """Return the size of one weight segment of a pod."""
    config = read_policy_config(Path(job.spec.policy.model.path))
    return segment_layout(config, job.spec.policy.dtype.value.lower()).num_bytes


def _policy_problems(spec: RLJobSpec) -> Iterator[str]:
    field = "spec.policy.model.path"
    folder = Path(spec.policy.model.path)
    try:
        config = read_policy_config(folder)
        yield from (f"{field}: {problem}" for problem in policy_problems(folder, config))
    except PolicyFolderError as error:
        yield f"{field}: {error}"
        return
    except UnsupportedArchitecture as error:
        yield f"{field}: the architecture {error}"
        return
    yield from _split_problems(spec, config)
    if spec.hybrid.gpu.sharing is GpuSharing.NONE:
        yield from _cpu_problems(spec, config)


def _split_problems(spec: RLJobSpec, config: PolicyConfig) -> Iterator[str]:
    try:
        check_split(config, spec.rollout.parallelism.tensor, spec.rollout.parallelism.pipeline)
    except SplitRefused as error:
        yield str(error)
    try:
        check_trainer_split(config, split_of(spec.trainer.parallelism))
    except SplitRefused as error:
        yield str(error)


def _cpu_problems(spec: RLJobSpec, config: PolicyConfig) -> Iterator[str]:
    if spec.policy.dtype is not Dtype.FLOAT32:
        yield f"spec.policy.dtype: {spec.policy.dtype} does not run on a CPU; use Float32"
    if config.head_dim % CPU_HEAD_MULTIPLE:
        yield (
            f"spec.policy.model.path: the head dimension is {config.head_dim}, vLLM on a CPU wants a multiple of "
            f"{CPU_HEAD_MULTIPLE}; use another policy or a GPU"
        )


def _placement_problems(spec: RLJobSpec) -> Iterator[str]:
    if spec.hybrid.gpu.sharing is not GpuSharing.NONE and not GPU_CONTROL.exists():
        yield "spec.hybrid.gpu.sharing: this machine has no NVIDIA GPU; use None to run on its CPU"


def _lifecycle_problems(spec: RLJobSpec) -> Iterator[str]:
    """Yield what only the operator does over a job's life; where pods run, and in which images, is no matter here."""
    if spec.suspend:
        yield "spec.suspend: is true, but only the operator keeps a job for later; remove it (Ctrl-C stops a run)"
    if spec.active_deadline_seconds is not None:
        yield "spec.activeDeadlineSeconds: only the operator ends a job in time; remove it"
    if spec.failure_policy.rules:
        yield "spec.failurePolicy.rules: only the operator follows them; remove them"


def _plan_problems(job: RLJob) -> Iterator[str]:
    try:
        plan = plan_job(job, Surroundings(etcd_endpoints=("127.0.0.1:2379",), token="", shared_memory_bytes=1))
    except SpecError as error:
        yield str(error)
        return
    containers = {container.name: container for pod in plan.pods for container in pod.spec.containers}
    for container in containers.values():
        for item in container.env:
            if not is_known(item):
                yield (
                    f"spec.podTemplate.spec.containers[{container.name}].env[{item.name}].valueFrom: cannot be told "
                    f"without a cluster; use value, or a fieldRef to {', '.join(POD_FIELDS[:-1])} or {POD_FIELDS[-1]}"
                )


def _data_problems(spec: RLJobSpec) -> Iterator[str]:
    for item in (*spec.data.train, *spec.data.evaluation):
        try:
            read_problem_set(item)
        except DataError as error:
            yield str(error)


def _budget_problems(spec: RLJobSpec) -> Iterator[str]:
    try:
        catalogue = load_catalogue(spec.policy, spec.data)
        load_held_out(spec, catalogue)
    except DataError as error:
        yield str(error)
        return
    longest, prompt = max((len(tokens), name) for name, tokens in catalogue.prompt_token_ids.items())
    budget = spec.recipe.partial_rollout.token_budget
    if budget < longest:
        yield (
            f"spec.recipe.partialRollout.tokenBudget: {budget} is less than the longest prompt ({longest} tokens, "
            f"problem {prompt}); use {longest} or more"
        )
    wanted = (too_few(catalogue, spec.recipe), unlabelled(catalogue, spec.recipe))
    yield from (problem for problem in wanted if problem is not None)
