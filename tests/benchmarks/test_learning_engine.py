"""The tiny engine of the benchmark of learning: it speaks as servers and trainers do, and what it says is true."""

import math
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import pytest
import torch
from benchmarks.learning_bench.engine import TinyEngine
from benchmarks.learning_bench.loop import load_policy, run_trial
from benchmarks.learning_bench.sampler import Sampled, SampleRequest, sample
from benchmarks.learning_bench.tasks import EXTRA, Task, WarmUp, example, make_task, read_task, right_chances
from benchmarks.learning_bench.trainer import TinyTrainer
from benchmarks.learning_bench.trials import Trial

from tandem_api.engine import Sample, TrainRequest
from tandem_api.job.recipe import ObjectiveName, ObjectiveSpec
from tandem_api.trajectory import Trajectory
from tandem_checkpoint.process.commands import Trained
from tandem_master.rollout import server
from tandem_master.rollout.exchange import Exchange
from tandem_master.rollout.segments import Ask, Completion, FinishReason, Piece
from tandem_master.rollout.server import CompletionApi
from tests.tandem_checkpoint.jobs import TOKEN, job_config
from tests.tandem_sidecars.forge import Forge
from tests.tandem_sidecars.policies import logprobs, samples_of, write_policy
from tests.tandem_sidecars.training import SMOOTH, train, weights_of

EOS = 2
LIMIT = 1e-5
"""Nats between one pass over whole sequences and sampling with a cache, float32."""
CHI_SQUARE_LIMIT = 150.0
"""For at most 63 degrees of freedom: a right sampler is above it less often than once in 10^8 runs."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random policy whose responses soon end."""
    return write_policy(tmp_path_factory.mktemp("policy") / "policy", tied=False)


@pytest.fixture
async def engine(policy: Path) -> TinyEngine:
    config = job_config(policy, optimizer=SMOOTH)
    return TinyEngine(load_policy(policy), EOS, config, TOKEN)


@pytest.fixture
async def url(engine: TinyEngine) -> AsyncIterator[str]:
    async with engine.listening() as port:
        yield f"http://127.0.0.1:{port}"


def ask_for(*prompt: int, num_samples: int = 4, max_tokens: int = 12, seed: int = 5) -> Ask:
    trajectories = (
        Trajectory(id=str(i), group="g", problem_id="p", prompt_token_ids=prompt) for i in range(num_samples)
    )
    return Ask(tuple(trajectories), prompt, max_tokens, seed)


async def answer(url: str, ask: Ask) -> Sequence[Completion]:
    """Ask as the master does."""
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        exchange = Exchange(CompletionApi(client, 1.0), url, ask)
        try:
            pieces: list[Piece] = []
            while ended := await exchange.ended_samples():
                pieces += ended
        finally:
            await exchange.close()
    assert exchange.failure is None
    return [piece.completion for piece in sorted(pieces, key=lambda piece: int(piece.trajectory.id))]


def request_of(*steps: tuple[Sample, ...], generation: int = 0, limit: float = LIMIT) -> TrainRequest:
    return TrainRequest(
        epoch=1,
        generation=generation,
        max_logprob_difference=limit,
        steps=tuple((step,) for step in steps),
        samples_per_step=tuple(len(step) for step in steps),
    )


async def post_training(url: str, request: TrainRequest, token: str = TOKEN) -> httpx.Response:
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as client:
        return await client.post(f"{url}/v1/train", content=request.model_dump_json())


async def test_each_sample_ends_with_the_end_token_or_with_the_tokens_that_were_asked_for(url: str) -> None:
    completions = await answer(url, ask_for(7, 8, 9, num_samples=64))

    stopped = [one for one in completions if one.finish_reason is FinishReason.STOP]
    cut = [one for one in completions if one.finish_reason is FinishReason.LENGTH]
    assert len(completions) == len(stopped) + len(cut) == 64
    assert {one.token_ids.index(EOS) - len(one.token_ids) for one in stopped} == {-1}
    assert {len(one.token_ids) for one in cut} == {12}


async def test_what_streams_in_by_pieces_is_what_comes_at_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = await answer(url, ask_for(7, 8, 9))
    monkeypatch.setattr(server, "STREAM_TOKENS", 3)

    assert await answer(url, ask_for(7, 8, 9)) == whole


async def test_who_does_not_show_the_jobs_token_gets_neither_samples_nor_training(url: str) -> None:
    async with httpx.AsyncClient() as client:
        sampled = await client.post(f"{url}/v1/completions", json={"prompt": [7]})
    trained = await post_training(url, request_of(), token="other")

    assert (sampled.status_code, trained.status_code) == (401, 401)


def known_logprobs(policy: Path, prompt: tuple[int, ...], one: Sampled, temperature: float) -> tuple[float, ...]:
    """What transformers gives each token of a response, in one pass over it."""
    return logprobs(policy, (*prompt, *one.token_ids), temperature)[len(prompt) - 1 :]


def test_log_probabilities_of_samples_are_those_of_a_pass_over_the_whole_sequence(policy: Path) -> None:
    prompts = ((7, 8, 9), (5, 6, 7, 8, 9, 10, 11))
    wanted = [SampleRequest(prompt, 2, 10, 0.8, seed=3) for prompt in prompts]

    groups = sample(load_policy(policy), wanted, EOS)

    gaps = [
        abs(given - known)
        for prompt, group in zip(prompts, groups, strict=True)
        for one in group
        for given, known in zip(
            one.logprobs, logprobs(policy, (*prompt, *one.token_ids), 0.8)[len(prompt) - 1 :], strict=True
        )
    ]
    assert max(gaps) <= LIMIT


def test_samples_go_on_as_before_when_others_of_their_batch_have_ended(policy: Path) -> None:
    prompt = (7, 8, 9)
    (samples,) = sample(load_policy(policy), [SampleRequest(prompt, 24, 12, 1.0, seed=3)], EOS)

    gaps = [
        abs(given - known)
        for one in samples
        for given, known in zip(one.logprobs, known_logprobs(policy, prompt, one, 1.0), strict=True)
    ]
    assert len({len(one.token_ids) for one in samples}) > 3
    assert max(gaps) <= LIMIT


def test_a_seed_gives_the_same_samples_whatever_they_are_batched_with(policy: Path) -> None:
    model, one = load_policy(policy), SampleRequest((7, 8, 9), 4, 10, 1.0, seed=3)
    other = SampleRequest((5, 6, 7, 8, 9, 10, 11), 4, 6, 1.0, seed=4)

    alone, beside = sample(model, [one], EOS)[0], sample(model, [other, one], EOS)[1]

    assert [sampled.token_ids for sampled in alone] == [sampled.token_ids for sampled in beside]


def test_tokens_are_drawn_as_often_as_their_probabilities_say(policy: Path) -> None:
    num_samples = 8192
    (samples,) = sample(load_policy(policy), [SampleRequest((7, 8, 9), num_samples, 1, 1.0, seed=1)], EOS)

    counts = Counter(one.token_ids[0] for one in samples)
    expected = {one.token_ids[0]: num_samples * math.exp(one.logprobs[0]) for one in samples}
    chi_square = sum((counts[token] - number) ** 2 / number for token, number in expected.items() if number >= 5)
    assert chi_square < CHI_SQUARE_LIMIT


async def test_a_batch_of_another_generation_is_refused(url: str, policy: Path) -> None:
    response = await post_training(url, request_of(samples_of(policy), generation=1))

    assert response.status_code == 409


async def test_a_batch_that_other_weights_sampled_is_refused_and_changes_nothing(
    engine: TinyEngine, url: str, policy: Path
) -> None:
    first, *others = samples_of(policy)
    wrong = first.model_copy(update={"sampled_logprobs": tuple(value + 1e-3 for value in first.sampled_logprobs)})

    response = await post_training(url, request_of((wrong, *others)))

    before = load_policy(policy).state_dict()
    assert response.status_code == 422
    assert all(torch.equal(value, before[name]) for name, value in engine.model.state_dict().items())


@pytest.mark.megatron
@pytest.mark.parametrize("name", [ObjectiveName.MIRROR_DESCENT, ObjectiveName.REINFORCE, ObjectiveName.GRPO])
def test_an_iteration_gives_the_weights_that_megatron_gives(policy: Path, tmp_path: Path, name: ObjectiveName) -> None:
    samples, objective = samples_of(policy), ObjectiveSpec(name=name)
    config = job_config(policy, optimizer=SMOOTH, objective=objective)
    model = load_policy(policy)

    ours = TinyTrainer(model, config.spec.trainer, config.spec.recipe).train(request_of(samples, samples, samples))
    with Forge() as forge:
        rank = forge.start(config, tmp_path)
        theirs = rank.ask(train(samples, samples, samples), Trained)
        weights = weights_of(rank, tmp_path / "after")

    largest = max(float((model.state_dict()[key] - value).abs().max()) for key, value in weights.items())
    assert largest <= 1e-6
    assert [step.loss for step in ours.steps] == pytest.approx([step.loss for step in theirs.steps], rel=1e-3, abs=1e-6)
    assert [step.gradient_norm for step in ours.steps] == pytest.approx(
        [step.gradient_norm for step in theirs.steps], rel=1e-3
    )


@pytest.fixture(scope="module")
def small_task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Two digits to reverse, which a few supervised steps have begun to teach."""
    folder = tmp_path_factory.mktemp("task")
    make_task(WarmUp({2: 0.3}, (0,), 0.25), [2] * 60, [2] * 20, folder)
    return read_task("small", folder)


def test_the_chance_to_be_right_is_that_of_the_answer_with_any_number_of_tokens_after_it(small_task: Task) -> None:
    model, ids, most = load_policy(small_task.policy), example().ID, 3
    prompt, answer = [ids[c] for c in "47="], [ids[c] for c in "74"]

    known = 0.0
    for number in range(most + 1):
        response = [*answer, *[ids[EXTRA]] * number, ids["<eos>"]]
        known += math.exp(sum(logprobs(small_task.policy, (*prompt, *response), 1.0)[len(prompt) - 1 :]))

    assert right_chances(model, ["47", "05"], most)[0].item() == pytest.approx(known, rel=1e-4)


def test_three_iterations_of_the_real_loop_make_the_policy_better(small_task: Task) -> None:
    outcome = run_trial(Trial("mirror_descent", 3.0e-4, 1, 3), small_task)

    assert len(outcome.rewards) == 3
    assert len(outcome.accuracies) == 4
    assert outcome.max_abs_logprob_difference <= 1e-4
    assert outcome.accuracies[-1] > outcome.accuracies[0] + 0.05
