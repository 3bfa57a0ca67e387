"""Eq. (3) of the report, section 2.3.2, and the losses that it is compared with."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tandem_api.job.recipe import Normalization, ObjectiveName, ObjectiveSpec
from tandem_master.rewards.group import advantages
from tandem_sidecars.megatron.objective import Likelihoods, StepSize, policy_loss

TAU = 0.3
REWARDS = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.5], dtype=torch.float64)
ADVANTAGE = REWARDS - REWARDS.mean()
NOTHING = torch.zeros(5, dtype=torch.float64)
LENGTHS = torch.tensor([3, 1, 4, 2, 5])
"""Tokens of each response, all of them in the loss."""
POSITIONS = LENGTHS + torch.tensor([2, 1, 0, 3, 1])
"""With those of its prompt, which lie before them."""
MASK = torch.cat([(torch.arange(all_) >= all_ - own).double() for all_, own in zip(POSITIONS, LENGTHS, strict=True)])
STEP = StepSize(num_samples=5, num_tokens=15)
MIRROR = ObjectiveSpec(tau=TAU)
START = torch.tensor([0.1, -0.5, 0.4], dtype=torch.float64)


def policy_logprob(weights: torch.Tensor) -> torch.Tensor:
    """A toy policy: log-probabilities of a row of five samples, smooth in three parameters, float64 [22]."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(int(POSITIONS.sum()), 3, dtype=torch.float64, generator=generator)
    return torch.nn.functional.logsigmoid(features @ weights)


def responses(weights: torch.Tensor) -> torch.Tensor:
    """L_j of the five responses, float64 [5]."""
    return torch.stack([part.sum() for part in torch.split(policy_logprob(weights) * MASK, POSITIONS.tolist())])


def likelihoods(
    weights: torch.Tensor, reference: torch.Tensor | None = None, sampled: torch.Tensor | None = None
) -> Likelihoods:
    """What the policy of `weights` makes of the responses; without others it is where the iteration began."""
    here = policy_logprob(weights)
    reference_T = here.detach() if reference is None else reference
    return Likelihoods(here, reference_T, reference_T if sampled is None else sampled, MASK, POSITIONS)


def some(whole: Likelihoods, part: slice) -> Likelihoods:
    """Return some of the samples."""
    ends = POSITIONS.cumsum(0).tolist()
    first, last = (0, *ends)[part.start], ends[part.stop - 1]
    logprob_T, reference_T, sampled_T, mask_T = (
        item[first:last] for item in (whole.logprob_T, whole.reference_T, whole.sampled_T, whole.mask_T)
    )
    return Likelihoods(logprob_T, reference_T, sampled_T, mask_T, POSITIONS[part])


def equation_3(weights: torch.Tensor) -> torch.Tensor:
    """The report's gradient, written out: 1/k sum_j [ grad L_j (r_j - mean r) - tau/2 grad (L_j - L_ref_j)^2 ]."""
    score: torch.Tensor = torch.func.jacrev(responses)(weights.detach())
    ratio = (responses(weights) - responses(START)).detach()
    return (score * (ADVANTAGE - TAU * ratio)[:, None]).mean(0)


def ours(weights: torch.Tensor) -> torch.Tensor:
    return policy_loss(MIRROR, likelihoods(weights, policy_logprob(START)), ADVANTAGE, STEP)


def per_token(weights: torch.Tensor) -> torch.Tensor:
    """The loss that others call the same: the square is of each token's log-ratio, not of the response's."""
    log_ratio = (policy_logprob(weights) - policy_logprob(START)) * MASK
    return (-ADVANTAGE @ responses(weights) + TAU / 2 * log_ratio.square().sum()) / 5


def per_token_mean(weights: torch.Tensor) -> torch.Tensor:
    """Another: L_j is a mean over the response's tokens."""
    log_ratio = (responses(weights) - responses(START)) / LENGTHS
    return (-ADVANTAGE * responses(weights) / LENGTHS + TAU / 2 * log_ratio**2).mean()


def differences(
    loss: Callable[[torch.Tensor], torch.Tensor], weights: torch.Tensor, step: float = 1e-5
) -> torch.Tensor:
    """The gradient of a loss by central differences."""
    point = weights.detach()
    moves = step * torch.eye(len(point), dtype=point.dtype)
    return torch.stack([(loss(point + move) - loss(point - move)) / (2 * step) for move in moves])


@pytest.fixture
def weights() -> torch.Tensor:
    return torch.tensor([0.3, -0.7, 0.2], dtype=torch.float64, requires_grad=True)


@pytest.fixture
def reference() -> torch.Tensor:
    return policy_logprob(START)


def gradient(loss: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    (result,) = torch.autograd.grad(loss, weights)
    return result


def test_its_negative_gradient_is_equation_3(weights: torch.Tensor) -> None:
    torch.testing.assert_close(-gradient(ours(weights), weights), equation_3(weights), atol=1e-12, rtol=1e-12)


def test_so_it_is_by_finite_differences(weights: torch.Tensor) -> None:
    torch.testing.assert_close(-differences(ours, weights), equation_3(weights), atol=1e-9, rtol=1e-8)


@pytest.mark.parametrize("variant", [per_token, per_token_mean])
def test_variants_per_token_fail_the_same_check(
    variant: Callable[[torch.Tensor], torch.Tensor], weights: torch.Tensor
) -> None:
    distance = (differences(variant, weights) + equation_3(weights)).norm()

    assert distance > 0.1 * equation_3(weights).norm()


def test_at_the_solution_of_equation_2_nothing_moves(weights: torch.Tensor) -> None:
    """Eq. (2) is solved by pi(y) = pi_ref(y) exp(r(y) / tau) / Z; there r - tau log Z is tau times the log-ratio."""
    log_ratio = responses(weights).detach() - responses(START)
    rewards_less_baseline = TAU * log_ratio

    found = likelihoods(weights, policy_logprob(START))
    loss = policy_loss(MIRROR, found, rewards_less_baseline, STEP)

    torch.testing.assert_close(gradient(loss, weights), torch.zeros(3, dtype=torch.float64), atol=1e-15, rtol=0.0)


@pytest.mark.parametrize("name", ObjectiveName)
def test_every_gradient_agrees_with_finite_differences(
    name: ObjectiveName, weights: torch.Tensor, reference: torch.Tensor
) -> None:
    objective = ObjectiveSpec(name=name, tau=TAU, max_importance_weight=1.5)

    assert torch.autograd.gradcheck(
        lambda point: policy_loss(objective, likelihoods(point, reference, reference - 0.1), ADVANTAGE, STEP), [weights]
    )


@pytest.mark.parametrize("name", [ObjectiveName.MIRROR_DESCENT, ObjectiveName.REINFORCE, ObjectiveName.RLOO])
def test_at_the_first_step_it_is_reinforce_with_the_mean_reward_as_baseline(
    name: ObjectiveName, weights: torch.Tensor
) -> None:
    loss = policy_loss(ObjectiveSpec(name=name, tau=TAU), likelihoods(weights), ADVANTAGE, STEP)
    reinforce = -((REWARDS - REWARDS.mean()) * responses(weights)).mean()

    torch.testing.assert_close(gradient(loss, weights), gradient(reinforce, weights), atol=1e-14, rtol=0.0)


@pytest.mark.parametrize("name", ObjectiveName)
def test_equal_rewards_at_the_first_step_move_nothing(name: ObjectiveName, weights: torch.Tensor) -> None:
    loss = policy_loss(ObjectiveSpec(name=name, tau=TAU), likelihoods(weights), NOTHING, STEP)

    assert torch.equal(gradient(loss, weights), torch.zeros(3, dtype=torch.float64))


def test_equal_rewards_later_only_pull_back_to_the_reference(weights: torch.Tensor, reference: torch.Tensor) -> None:
    before = (responses(weights) - responses(START)).square().sum()
    loss = policy_loss(MIRROR, likelihoods(weights, reference), NOTHING, STEP)

    moved = weights - 1e-3 * gradient(loss, weights)

    assert (responses(moved) - responses(START)).square().sum() < before


@pytest.mark.parametrize("name", ObjectiveName)
@pytest.mark.parametrize("normalization", Normalization)
def test_parts_of_a_step_add_up_to_the_whole(
    name: ObjectiveName, normalization: Normalization, weights: torch.Tensor, reference: torch.Tensor
) -> None:
    objective = ObjectiveSpec(name=name, tau=TAU, normalization=normalization, max_importance_weight=1.5)
    whole = likelihoods(weights, reference, reference - 0.1)

    first = policy_loss(objective, some(whole, slice(0, 2)), ADVANTAGE[:2], STEP)
    rest = policy_loss(objective, some(whole, slice(2, 5)), ADVANTAGE[2:], STEP)

    torch.testing.assert_close(first + rest, policy_loss(objective, whole, ADVANTAGE, STEP))


def test_normalised_over_tokens_it_is_the_same_sum_over_another_number(
    weights: torch.Tensor, reference: torch.Tensor
) -> None:
    by_token = ObjectiveSpec(tau=TAU, normalization=Normalization.TOKEN)
    found = likelihoods(weights, reference)

    loss = policy_loss(by_token, found, ADVANTAGE, STEP)

    torch.testing.assert_close(loss * 15, policy_loss(MIRROR, found, ADVANTAGE, STEP) * 5)


def test_grpo_at_the_first_step_is_the_score_of_each_token_averaged_over_its_response(weights: torch.Tensor) -> None:
    loss = policy_loss(ObjectiveSpec(name=ObjectiveName.GRPO), likelihoods(weights), ADVANTAGE, STEP)

    expected = -(ADVANTAGE * responses(weights) / LENGTHS).mean()
    torch.testing.assert_close(gradient(loss, weights), gradient(expected, weights), atol=1e-14, rtol=1e-12)


def test_dapo_at_the_first_step_is_the_score_of_each_token_averaged_over_all_tokens(weights: torch.Tensor) -> None:
    loss = policy_loss(ObjectiveSpec(name=ObjectiveName.DAPO), likelihoods(weights), ADVANTAGE, STEP)

    expected = -(ADVANTAGE * responses(weights)).sum() / 15
    torch.testing.assert_close(gradient(loss, weights), gradient(expected, weights), atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "ratio", "advantage", "moves"),
    [
        (ObjectiveName.GRPO, 1.19, 1.0, True),
        (ObjectiveName.GRPO, 1.21, 1.0, False),
        (ObjectiveName.DAPO, 1.21, 1.0, True),
        (ObjectiveName.DAPO, 1.29, 1.0, False),
        (ObjectiveName.GRPO, 1.21, -1.0, True),
        (ObjectiveName.GRPO, 0.79, -1.0, False),
        (ObjectiveName.DAPO, 0.79, -1.0, False),
        (ObjectiveName.GRPO, 0.79, 1.0, True),
    ],
)
def test_a_token_beyond_the_clip_is_pushed_no_further_but_is_called_back(
    name: ObjectiveName, ratio: float, advantage: float, *, moves: bool
) -> None:
    here = torch.tensor([ratio], dtype=torch.float64).log().requires_grad_()
    before, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    found = Likelihoods(here, before, before, one, torch.tensor([1]))

    loss = policy_loss(ObjectiveSpec(name=name), found, advantage * one, StepSize(1, 1))

    assert bool(gradient(loss, here).item()) is moves


def test_a_response_that_the_policy_finds_likelier_than_its_sampler_did_counts_more_up_to_the_limit(
    weights: torch.Tensor,
) -> None:
    here = policy_logprob(weights).detach()
    shift = torch.tensor([0.1, -0.2, 0.0, 0.5, 0.3], dtype=torch.float64)
    objective = ObjectiveSpec(name=ObjectiveName.REINFORCE, max_importance_weight=1.5)

    loss = policy_loss(
        objective, likelihoods(weights, here, here - shift.repeat_interleave(POSITIONS)), ADVANTAGE, STEP
    )

    weight = (shift * LENGTHS).exp().clamp(max=1.5)
    expected = -(weight * ADVANTAGE * responses(weights)).mean()
    torch.testing.assert_close(gradient(loss, weights), gradient(expected, weights))


def test_grpo_weighs_tokens_by_what_their_own_sampler_found(weights: torch.Tensor) -> None:
    here = policy_logprob(weights).detach()
    shift = torch.linspace(-0.5, 0.9, len(MASK), dtype=torch.float64)
    objective = ObjectiveSpec(name=ObjectiveName.GRPO, max_importance_weight=1.5)

    loss = policy_loss(objective, likelihoods(weights, here, here - shift), ADVANTAGE, STEP)

    weight = shift.exp().clamp(max=1.5)
    of_samples = torch.split(weight * policy_logprob(weights) * MASK, POSITIONS.tolist())
    expected = -(ADVANTAGE * torch.stack([part.sum() for part in of_samples]) / LENGTHS).mean()
    torch.testing.assert_close(gradient(loss, weights), gradient(expected, weights))


def test_without_a_limit_nothing_is_weighted(weights: torch.Tensor, reference: torch.Tensor) -> None:
    plain = policy_loss(MIRROR, likelihoods(weights, reference, reference - 0.4), ADVANTAGE, STEP)

    assert plain == policy_loss(MIRROR, likelihoods(weights, reference), ADVANTAGE, STEP)


def written_out(name: ObjectiveName, tokens: list[np.ndarray], before: list[np.ndarray]) -> float:
    """The losses of others in NumPy, from their papers: log-probabilities of the tokens of five responses to one
    problem, now and when the iteration began. Rewards 1, 0, 0, 1, 0.5; k is 5."""
    rewards = np.array([1.0, 0.0, 0.0, 1.0, 0.5])
    if name is ObjectiveName.RLOO:  # arXiv:2402.14740: the mean of the k - 1 others is the baseline
        baselines = [np.delete(rewards, index).mean() for index in range(5)]
        terms = [(reward - mean) * now.sum() for reward, mean, now in zip(rewards, baselines, tokens, strict=True)]
        return -float(np.mean(terms))
    # arXiv:2402.03300, without its divergence; arXiv:2503.14476
    advantage = (rewards - rewards.mean()) / rewards.std()
    high = 1.28 if name is ObjectiveName.DAPO else 1.2
    clipped = []
    for now, then, own in zip(tokens, before, advantage, strict=True):
        ratio = np.exp(now - then)
        clipped.append(np.minimum(ratio * own, np.clip(ratio, 0.8, high) * own))
    if name is ObjectiveName.DAPO:
        return -float(np.concatenate(clipped).mean())
    return -float(np.mean([part.mean() for part in clipped]))


@pytest.mark.parametrize("name", [ObjectiveName.RLOO, ObjectiveName.GRPO, ObjectiveName.DAPO])
def test_the_others_are_what_their_papers_write(
    name: ObjectiveName, weights: torch.Tensor, reference: torch.Tensor
) -> None:
    given = advantages(REWARDS.numpy(), POSITIONS.numpy(), np.zeros(5, dtype=np.bool_), 0.0, name)
    found = likelihoods(weights, reference)

    loss = policy_loss(ObjectiveSpec(name=name), found, torch.from_numpy(given), STEP)

    now, then = (
        [
            part[-own:].detach().numpy()
            for part, own in zip(torch.split(row, POSITIONS.tolist()), LENGTHS.tolist(), strict=True)
        ]
        for row in (found.logprob_T, found.reference_T)
    )
    assert loss.item() == pytest.approx(written_out(name, now, then), rel=1e-6)
