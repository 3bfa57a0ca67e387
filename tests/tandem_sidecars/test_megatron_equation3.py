"""One optimizer step of the real trainer against eq. (3) in float64: loss, gradient, clipping, rate and decay."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch

from tandem_api.engine import Sample
from tandem_api.job.pods import OptimizerSpec, Schedule, TrainerParallelism
from tandem_api.job.recipe import ObjectiveSpec
from tandem_checkpoint.layouts.pod import PodRanks, split_of
from tandem_checkpoint.process.commands import FolderSource, Load, Loaded, Trained
from tests.families.policies import write_policy
from tests.tandem_checkpoint.jobs import job_config
from tests.tandem_sidecars.equation3 import Equation3, distance, doubled, gradient_of_step, norm
from tests.tandem_sidecars.forge import Forge, RankProcess, two_places
from tests.tandem_sidecars.pod import Pod
from tests.tandem_sidecars.policies import changed_policy, load_policy, logprobs_by, samples_of
from tests.tandem_sidecars.training import ANY, LIMIT, Tensors, train, weights_in, weights_of

pytestmark = pytest.mark.megatron

TAU = 2.0
CLIP = 0.5
INVERTIBLE = OptimizerSpec(learning_rate=1.0, betas=(0.0, 0.0), epsilon=1.0, weight_decay=0.0, gradient_clip=1e6)
CLIPPED = INVERTIBLE.model_copy(update={"gradient_clip": CLIP})
CASES = [
    (1, TrainerParallelism(), 16384),
    (1, TrainerParallelism(), 30),
    (1, TrainerParallelism(), 17),
    (2, TrainerParallelism(), 24),
    (2, TrainerParallelism(tensor=2), 24),
    (2, TrainerParallelism(pipeline=2), 40),
    (2, TrainerParallelism(pipeline=2, virtual_pipeline=2), 40),
    (4, TrainerParallelism(tensor=2), 20),
    (4, TrainerParallelism(pipeline=2), 20),
]
"""Ranks, their split, and positions of a row."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A policy, responses to it, and what float64 makes of the first step."""

    policy: Path
    samples: tuple[Sample, ...]
    loss: float
    gradient: Tensors


@pytest.fixture(scope="module")
def forge() -> Iterator[Forge]:
    with Forge() as forge:
        yield forge


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """65 tokens: with two tensor ranks the embeddings have a row of padding."""
    policy = write_policy(tmp_path_factory.mktemp("scene") / "policy", "qwen2", num_hidden_layers=4, vocab_size=65)
    samples = samples_of(policy, num_samples=9, dtype=torch.float64)
    weights, reference = weights_in(policy), Equation3(policy, samples, TAU)
    loss = float(reference.loss(doubled(weights), doubled(weights)))
    return Scene(policy, samples, loss, reference.gradient(weights, weights))


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did to the weights, and what was said of it."""

    trained: Trained
    gradient: Tensors


def named(case: tuple[int, TrainerParallelism, int]) -> str:
    """Return what a case is called in the report."""
    num_ranks, parallelism, row_tokens = case
    split = "".join(f" {name} {value}" for name, value in parallelism.model_dump(exclude_defaults=True).items())
    return f"{num_ranks} ranks{split}, rows of {row_tokens}"


@pytest.fixture(scope="module", params=CASES, ids=named)
def step(
    request: pytest.FixtureRequest, forge: Forge, scene: Scene, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Step]:
    """One step with a clipped gradient, with the samples in an order of its own."""
    num_ranks, parallelism, row_tokens = request.param
    folder = tmp_path_factory.mktemp("step")
    config = job_config(
        scene.policy,
        num_ranks=num_ranks,
        parallelism=parallelism,
        optimizer=CLIPPED,
        objective=ObjectiveSpec(tau=TAU),
        micro_batch_tokens=row_tokens,
    )
    ranks = forge.start_all(config, folder, two_places(num_ranks))
    pod = Pod(ranks, PodRanks(split_of(parallelism), num_ranks), scene.policy, folder)
    order = random.Random(row_tokens + num_ranks).sample(scene.samples, len(scene.samples))
    trained = pod.train(order, LIMIT, num_steps=1)
    after = pod.save("after")
    yield Step(trained[0], gradient_of_step(weights_in(scene.policy), after, CLIPPED.learning_rate))
    for rank in ranks:
        rank.close()


def test_the_loss_of_any_split_is_that_of_float64(step: Step, scene: Scene) -> None:
    assert step.trained.steps[0].loss == pytest.approx(scene.loss, rel=1e-5)


def test_the_norm_of_the_whole_gradient_is_told_before_it_is_clipped(step: Step, scene: Scene) -> None:
    assert step.trained.steps[0].gradient_norm == pytest.approx(norm(scene.gradient), rel=1e-5)


def test_the_step_is_that_of_the_gradient_scaled_to_the_largest_norm(step: Step, scene: Scene) -> None:
    scale = CLIP / norm(scene.gradient)
    assert scale < 0.5

    assert distance(step.gradient, {name: part * scale for name, part in scene.gradient.items()}) <= 1e-4


class Bench:
    """One rank that starts each time from a policy's folder."""

    def __init__(self, rank: RankProcess, policy: Path, folder: Path) -> None:
        self._rank = rank
        self._policy = policy
        self._folder = folder
        self._number = 0

    def after(self, *steps: tuple[Sample, ...], iteration: int = 1) -> tuple[Trained, Tensors]:
        """Take steps from the policy's folder; return what was said, and the weights."""
        self._rank.ask(Load(source=FolderSource(path=str(self._policy))), Loaded)
        command = train(*steps, limit=ANY).model_copy(update={"iteration": iteration})
        trained = self._rank.ask(command, Trained)
        self._number += 1
        return trained, weights_of(self._rank, self._folder / f"after-{self._number}")


def bench(forge: Forge, scene: Scene, folder: Path, optimizer: OptimizerSpec) -> Bench:
    config = job_config(
        scene.policy, optimizer=optimizer, objective=ObjectiveSpec(tau=TAU), micro_batch_tokens=30, iterations=10
    )
    return Bench(forge.start(config, folder), scene.policy, folder)


def test_away_from_the_reference_it_is_equation_3_by_finite_differences(
    forge: Forge, scene: Scene, tmp_path: Path
) -> None:
    optimizer = INVERTIBLE.model_copy(update={"learning_rate": 0.02})
    trainer = bench(forge, scene, tmp_path, optimizer)
    start = doubled(weights_in(scene.policy))
    _, first = trainer.after(scene.samples)

    _, second = trainer.after(scene.samples, scene.samples)

    gradient = gradient_of_step(first, second, optimizer.learning_rate)
    reference = Equation3(scene.policy, scene.samples, TAU)
    direction = {name: part / norm(gradient) for name, part in gradient.items()}
    along = norm(gradient)
    assert along == pytest.approx(slope(reference, first, start, direction), rel=1e-4)
    assert along != pytest.approx(slope(reference, first, start, direction, per_token=True), rel=0.02)
    assert distance(gradient, reference.gradient(first, start)) <= 1e-4


@pytest.mark.parametrize(
    ("family", "parallelism"),
    [
        ("qwen3_moe", TrainerParallelism(expert=2)),
        ("deepseek_v3", TrainerParallelism(tensor=2)),
    ],
    ids=["experts apart", "latent attention and experts, positions shared"],
)
def test_policies_with_experts_rise_along_their_gradient_as_finite_differences_say(
    forge: Forge, tmp_path: Path, family: str, parallelism: TrainerParallelism
) -> None:
    policy = write_policy(tmp_path / "policy", family)
    samples = samples_of(policy, num_samples=7, dtype=torch.float64)
    config = job_config(
        policy, num_ranks=2, parallelism=parallelism, optimizer=INVERTIBLE, micro_batch_tokens=20, iterations=10
    )
    pod = Pod(forge.start_all(config, tmp_path, two_places()), PodRanks(split_of(parallelism), 2), policy, tmp_path)
    start = weights_in(policy)

    pod.train(samples, LIMIT, num_steps=1)

    gradient = gradient_of_step(start, pod.save("after"), INVERTIBLE.learning_rate)
    kept = {name: part for name, part in gradient.items() if "e_score_correction_bias" not in name}
    for direction in (unit(kept), unit(random_like(kept))):
        along = sum(float((part * direction[name]).sum()) for name, part in kept.items())
        assert along == pytest.approx(slope_of_folders(policy, samples, direction, tmp_path), rel=2e-3, abs=2e-3)


def unit(tensors: Tensors) -> Tensors:
    length = norm(tensors)
    return {name: part / length for name, part in tensors.items()}


def random_like(tensors: Tensors) -> Tensors:
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(part.shape, dtype=part.dtype, generator=generator) for name, part in tensors.items()}


def slope_of_folders(policy: Path, samples: tuple[Sample, ...], direction: Tensors, folder: Path) -> float:
    """Return how the loss of a first step rises along a direction, by folders: transformers fuses experts' tensors."""
    step, start, losses = 2e-3, doubled(weights_in(policy)), []
    for sign in (1, -1):
        there = {name: start[name] + sign * step * part for name, part in direction.items()}
        moved_policy = changed_policy(policy, Path(mkdtemp(dir=folder)) / "policy", there)
        model = load_policy(moved_policy, torch.float64)
        tokens = [logprobs_by(model, sample.token_ids, 1.0, torch.float64) for sample in samples]
        terms = [
            -sample.advantage * sum(own[sample.first_loss_token - 1 :])
            for sample, own in zip(samples, tokens, strict=True)
        ]
        losses.append(sum(terms) / len(terms))
    return (losses[0] - losses[1]) / (2 * step)


def slope(reference: Equation3, here: Tensors, start: Tensors, direction: Tensors, *, per_token: bool = False) -> float:
    """Return how the loss rises along a direction, by a central difference in float64."""
    step = 1e-4
    ahead, behind = (
        {name: part.double() + sign * step * direction[name] for name, part in here.items()} for sign in (1, -1)
    )
    with torch.no_grad():
        rise = reference.loss(ahead, start, per_token=per_token) - reference.loss(behind, start, per_token=per_token)
    return float(rise) / (2 * step)


def test_the_rate_follows_the_schedule_by_iteration_and_step(forge: Forge, scene: Scene, tmp_path: Path) -> None:
    changes = {"learning_rate": 0.5, "schedule": Schedule.LINEAR, "warmup_iterations": 4}
    trainer = bench(forge, scene, tmp_path, INVERTIBLE.model_copy(update=changes))
    start = weights_in(scene.policy)

    (early, first), (whole, fourth) = (trainer.after(scene.samples, iteration=iteration) for iteration in (1, 4))
    late, _ = trainer.after(scene.samples, scene.samples, iteration=10)

    assert [early.steps[0].learning_rate, whole.steps[0].learning_rate] == [0.125, 0.5]
    assert [step.learning_rate for step in late.steps] == pytest.approx([0.5 / 6, 0.25 / 6])
    assert norm(moved(start, fourth)) == pytest.approx(4 * norm(moved(start, first)), rel=1e-5)


def test_matrices_decay_and_norms_and_biases_do_not(forge: Forge, scene: Scene, tmp_path: Path) -> None:
    changes = {"learning_rate": 0.1, "weight_decay": 0.5}
    trainer = bench(forge, scene, tmp_path, INVERTIBLE.model_copy(update=changes))
    start = weights_in(scene.policy)
    equal = tuple(sample.model_copy(update={"advantage": 0.0}) for sample in scene.samples)

    _, after = trainer.after(equal)

    left = {name: after[name].double() / start[name].double() for name in start}
    assert {name for name, part in left.items() if torch.equal(part, torch.ones_like(part))} == {
        name for name, part in start.items() if part.dim() == 1
    }
    assert {round(float(part.mean()), 4) for name, part in left.items() if start[name].dim() == 2} == {0.95}


def moved(before: Tensors, after: Tensors) -> Tensors:
    return {name: after[name].double() - before[name].double() for name in before}
