"""Eq. (3) of the report, section 2.3.2, and the losses that it is compared with."""

import pytest
import torch

from tandem_api.job.recipe import Normalization, ObjectiveName, ObjectiveSpec
from tandem_sidecars.megatron.objective import Likelihoods, StepSize, policy_loss

TAU = 0.3
REWARDS = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.5], dtype=torch.float64)
ADVANTAGE = REWARDS - REWARDS.mean()
NOTHING = torch.zeros(5, dtype=torch.float64)
LENGTHS = torch.tensor([3, 1, 4, 2, 5])
MASK = (torch.arange(5)[None] < LENGTHS[:, None]).double()
STEP = StepSize(num_samples=5, num_tokens=15)
MIRROR = ObjectiveSpec(tau=TAU)
START = torch.tensor([0.1, -0.5, 0.4], dtype=torch.float64)


def policy_logprob(weights: torch.Tensor) -> torch.Tensor:
    """A toy policy: log-probabilities of the tokens of five responses, smooth in three parameters, float64 [5, 5]."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(5, 5, 3, dtype=torch.float64, generator=generator)
    return torch.nn.functional.logsigmoid(features @ weights)


def responses(weights: torch.Tensor) -> torch.Tensor:
    """L_j of the five responses, float64 [5]."""
    return (policy_logprob(weights) * MASK).sum(1)


def likelihoods(
    weights: torch.Tensor, reference: torch.Tensor | None = None, sampled: torch.Tensor | None = None
) -> Likelihoods:
    """What the policy of `weights` makes of the responses; without others it is where the iteration began."""
    here = policy_logprob(weights)
    reference_BS = here.detach() if reference is None else reference
    return Likelihoods(here, reference_BS, reference_BS if sampled is None else sampled, MASK)


def rows(whole: Likelihoods, part: slice) -> Likelihoods:
    """Return some of the responses."""
    return Likelihoods(whole.logprob_BS[part], whole.reference_BS[part], whole.sampled_BS[part], whole.mask_BS[part])


@pytest.fixture
def weights() -> torch.Tensor:
    return torch.tensor([0.3, -0.7, 0.2], dtype=torch.float64, requires_grad=True)


@pytest.fixture
def reference() -> torch.Tensor:
    return policy_logprob(START)


def gradient(loss: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    (result,) = torch.autograd.grad(loss, weights)
    return result


def test_its_negative_gradient_is_equation_3(weights: torch.Tensor, reference: torch.Tensor) -> None:
    loss = policy_loss(MIRROR, likelihoods(weights, reference), ADVANTAGE, STEP)

    score = torch.func.jacrev(responses)(weights.detach())
    ratio = (responses(weights) - responses(START)).detach()
    # 1/k sum_j [ grad log pi(y_j) (r_j - mean r) - tau/2 grad (log pi(y_j)/pi_ref(y_j))^2 ]
    expected = (score * (ADVANTAGE - TAU * ratio)[:, None]).mean(0)
    torch.testing.assert_close(-gradient(loss, weights), expected, atol=1e-12, rtol=1e-12)


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

    first = policy_loss(objective, rows(whole, slice(0, 2)), ADVANTAGE[:2], STEP)
    rest = policy_loss(objective, rows(whole, slice(2, 5)), ADVANTAGE[2:], STEP)

    torch.testing.assert_close(first + rest, policy_loss(objective, whole, ADVANTAGE, STEP))


def test_the_squared_log_ratio_is_of_the_response_not_of_its_tokens() -> None:
    tokens = torch.tensor([[0.2, -0.1, 0.4]], dtype=torch.float64, requires_grad=True)
    nothing = torch.zeros(1, 3, dtype=torch.float64)
    found = Likelihoods(tokens, nothing, nothing, torch.ones(1, 3, dtype=torch.float64))

    ours = policy_loss(MIRROR, found, torch.zeros(1, dtype=torch.float64), StepSize(1, 3))
    per_token = TAU / 2 * tokens.square().sum()

    assert ours.item() == pytest.approx(TAU / 2 * 0.5**2)
    assert not torch.allclose(gradient(ours, tokens), gradient(per_token, tokens))


def test_long_responses_are_not_averaged_over_their_tokens(weights: torch.Tensor, reference: torch.Tensor) -> None:
    ours = policy_loss(MIRROR, likelihoods(weights, reference), ADVANTAGE, STEP)
    log_ratio = (responses(weights) - responses(START)) / LENGTHS
    mean = (-ADVANTAGE * responses(weights) / LENGTHS + TAU / 2 * log_ratio**2).mean()

    assert not torch.allclose(gradient(ours, weights), gradient(mean, weights))


def test_normalised_over_tokens_it_is_the_same_sum_over_another_number(
    weights: torch.Tensor, reference: torch.Tensor
) -> None:
    by_token = ObjectiveSpec(tau=TAU, normalization=Normalization.TOKEN)
    found = likelihoods(weights, reference)

    ours = policy_loss(by_token, found, ADVANTAGE, STEP)

    torch.testing.assert_close(ours * 15, policy_loss(MIRROR, found, ADVANTAGE, STEP) * 5)


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
    here = torch.tensor([[ratio]], dtype=torch.float64).log().requires_grad_()
    before, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)

    loss = policy_loss(
        ObjectiveSpec(name=name), Likelihoods(here, before, before, one), advantage * one[0], StepSize(1, 1)
    )

    assert bool(gradient(loss, here).item()) is moves


def test_a_response_that_the_policy_finds_likelier_than_its_sampler_did_counts_more_up_to_the_limit(
    weights: torch.Tensor,
) -> None:
    here = policy_logprob(weights).detach()
    shift = torch.tensor([0.1, -0.2, 0.0, 0.5, 0.3], dtype=torch.float64)[:, None]
    objective = ObjectiveSpec(name=ObjectiveName.REINFORCE, max_importance_weight=1.5)

    loss = policy_loss(objective, likelihoods(weights, here, here - shift), ADVANTAGE, STEP)

    weight = (shift[:, 0] * LENGTHS).exp().clamp(max=1.5)
    expected = -(weight * ADVANTAGE * responses(weights)).mean()
    torch.testing.assert_close(gradient(loss, weights), gradient(expected, weights))


def test_grpo_weighs_tokens_by_what_their_own_sampler_found(weights: torch.Tensor) -> None:
    here = policy_logprob(weights).detach()
    shift = torch.linspace(-0.5, 0.9, 25, dtype=torch.float64).reshape(5, 5)
    objective = ObjectiveSpec(name=ObjectiveName.GRPO, max_importance_weight=1.5)

    loss = policy_loss(objective, likelihoods(weights, here, here - shift), ADVANTAGE, STEP)

    weight = shift.exp().clamp(max=1.5)
    expected = -(ADVANTAGE * (weight * policy_logprob(weights) * MASK).sum(1) / LENGTHS).mean()
    torch.testing.assert_close(gradient(loss, weights), gradient(expected, weights))


def test_without_a_limit_nothing_is_weighted(weights: torch.Tensor, reference: torch.Tensor) -> None:
    plain = policy_loss(MIRROR, likelihoods(weights, reference, reference - 0.4), ADVANTAGE, STEP)

    assert plain == policy_loss(MIRROR, likelihoods(weights, reference), ADVANTAGE, STEP)
