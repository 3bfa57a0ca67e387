"""Eq. (3) of the report, section 2.3.2."""

import pytest
import torch

from tandem_sidecars.megatron.objective import mirror_descent_loss

TAU = 0.3
REWARDS = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.5], dtype=torch.float64)
ADVANTAGE = REWARDS - REWARDS.mean()
LENGTHS = [3, 1, 4, 2, 5]


def policy_logprob(weights: torch.Tensor) -> torch.Tensor:
    """A toy policy: L_j of five responses, smooth in three parameters. Returns float64 [5]."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(sum(LENGTHS), 3, dtype=torch.float64, generator=generator)
    per_token = torch.nn.functional.logsigmoid(features @ weights)
    return torch.stack([part.sum() for part in torch.split(per_token, LENGTHS)])


@pytest.fixture
def weights() -> torch.Tensor:
    return torch.tensor([0.3, -0.7, 0.2], dtype=torch.float64, requires_grad=True)


@pytest.fixture
def reference() -> torch.Tensor:
    return policy_logprob(torch.tensor([0.1, -0.5, 0.4], dtype=torch.float64))


def gradient(loss: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    (result,) = torch.autograd.grad(loss, weights)
    return result


def test_its_negative_gradient_is_equation_3(weights: torch.Tensor, reference: torch.Tensor) -> None:
    loss = mirror_descent_loss(policy_logprob(weights), reference, ADVANTAGE, TAU, num_samples=5)

    score = torch.func.jacrev(policy_logprob)(weights.detach())
    ratio = (policy_logprob(weights) - reference).detach()
    # 1/k sum_j [ grad log pi(y_j) (r_j - mean r) - tau/2 grad (log pi(y_j)/pi_ref(y_j))^2 ]
    expected = (score * (ADVANTAGE - TAU * ratio)[:, None]).mean(0)
    torch.testing.assert_close(-gradient(loss, weights), expected, atol=1e-12, rtol=1e-12)


def test_its_gradient_agrees_with_finite_differences(weights: torch.Tensor, reference: torch.Tensor) -> None:
    assert torch.autograd.gradcheck(
        lambda point: mirror_descent_loss(policy_logprob(point), reference, ADVANTAGE, TAU, num_samples=5), [weights]
    )


def test_at_the_first_step_it_is_reinforce_with_the_mean_reward_as_baseline(weights: torch.Tensor) -> None:
    here = policy_logprob(weights).detach()

    loss = mirror_descent_loss(policy_logprob(weights), here, ADVANTAGE, TAU, num_samples=5)
    reinforce = -((REWARDS - REWARDS.mean()) * policy_logprob(weights)).mean()

    torch.testing.assert_close(gradient(loss, weights), gradient(reinforce, weights), atol=1e-14, rtol=0.0)


def test_equal_rewards_at_the_first_step_move_nothing(weights: torch.Tensor) -> None:
    here = policy_logprob(weights).detach()

    loss = mirror_descent_loss(policy_logprob(weights), here, torch.zeros(5, dtype=torch.float64), TAU, num_samples=5)

    assert torch.equal(gradient(loss, weights), torch.zeros(3, dtype=torch.float64))


def test_equal_rewards_later_only_pull_back_to_the_reference(weights: torch.Tensor, reference: torch.Tensor) -> None:
    before = (policy_logprob(weights) - reference).square().sum()
    loss = mirror_descent_loss(
        policy_logprob(weights), reference, torch.zeros(5, dtype=torch.float64), TAU, num_samples=5
    )

    moved = weights - 1e-3 * gradient(loss, weights)

    assert (policy_logprob(moved) - reference).square().sum() < before


def test_parts_of_a_step_add_up_to_the_whole(weights: torch.Tensor, reference: torch.Tensor) -> None:
    whole = mirror_descent_loss(policy_logprob(weights), reference, ADVANTAGE, TAU, num_samples=5)
    first = mirror_descent_loss(policy_logprob(weights)[:2], reference[:2], ADVANTAGE[:2], TAU, num_samples=5)
    rest = mirror_descent_loss(policy_logprob(weights)[2:], reference[2:], ADVANTAGE[2:], TAU, num_samples=5)

    torch.testing.assert_close(first + rest, whole)


def test_the_squared_log_ratio_is_of_the_response_not_of_its_tokens() -> None:
    tokens = torch.tensor([[0.2, -0.1, 0.4]], dtype=torch.float64, requires_grad=True)
    nothing = torch.zeros(1, dtype=torch.float64)

    ours = mirror_descent_loss(tokens.sum(1), nothing, nothing, TAU, num_samples=1)
    per_token = TAU / 2 * tokens.square().sum()

    assert ours.item() == pytest.approx(TAU / 2 * 0.5**2)
    assert not torch.allclose(gradient(ours, tokens), gradient(per_token, tokens))


def test_long_responses_are_not_averaged_over_their_tokens(weights: torch.Tensor, reference: torch.Tensor) -> None:
    lengths = torch.tensor(LENGTHS, dtype=torch.float64)

    ours = mirror_descent_loss(policy_logprob(weights), reference, ADVANTAGE, TAU, num_samples=5)
    mean = mirror_descent_loss(policy_logprob(weights) / lengths, reference / lengths, ADVANTAGE, TAU, num_samples=5)

    assert not torch.allclose(gradient(ours, weights), gradient(mean, weights))
