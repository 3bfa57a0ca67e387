"""The losses by name. The report's is eq. (3) of section 2.3.2, at sequence level, with the mean reward as baseline.

Advantages are the master's part; here is what is made of them. Axis letters: B samples, S positions.
"""

from dataclasses import dataclass

import torch

from tandem_api.job.recipe import Normalization, ObjectiveName, ObjectiveSpec

TOKEN_LEVEL = frozenset({ObjectiveName.GRPO, ObjectiveName.DAPO})


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """Log-probabilities of the next tokens of a micro-batch, nats, float [B, S]; those that mask_BS makes 0 are not in
    the loss.

    logprob_BS: under the current parameters, with gradient. reference_BS: under the parameters that the iteration began
    with. sampled_BS: under the policy that sampled, as its server gave them. mask_BS: 1 or 0.
    """

    logprob_BS: torch.Tensor  # noqa: N815 - shape letters
    reference_BS: torch.Tensor  # noqa: N815 - shape letters
    sampled_BS: torch.Tensor  # noqa: N815 - shape letters
    mask_BS: torch.Tensor  # noqa: N815 - shape letters


@dataclass(frozen=True, slots=True)
class StepSize:
    """What one optimizer step holds over all ranks and micro-batches."""

    num_samples: int
    num_tokens: int
    """Tokens in the loss."""


def policy_loss(
    objective: ObjectiveSpec, likelihoods: Likelihoods, advantage_B: torch.Tensor, step: StepSize
) -> torch.Tensor:
    """Return the part of a step's loss that a micro-batch adds, a scalar with gradient.

    advantage_B: float [B], as the objective wants them (tandem_master.rewards.group).
    """
    if objective.name in TOKEN_LEVEL:
        return _clipped_loss(objective, likelihoods, advantage_B, step)
    mask_BS = likelihoods.mask_BS
    tau = objective.tau if objective.name is ObjectiveName.MIRROR_DESCENT else 0.0
    surrogate_B = mirror_descent_terms(
        (likelihoods.logprob_BS * mask_BS).sum(1), (likelihoods.reference_BS * mask_BS).sum(1), advantage_B, tau
    )
    if objective.max_importance_weight:
        gap_B = ((likelihoods.reference_BS - likelihoods.sampled_BS) * mask_BS).sum(1)
        surrogate_B = surrogate_B * truncated_weight(gap_B, objective.max_importance_weight)
    by_token = normalization_of(objective) is Normalization.TOKEN
    return surrogate_B.sum() / max(1, step.num_tokens if by_token else step.num_samples)


def mirror_descent_terms(
    logprob_B: torch.Tensor, reference_B: torch.Tensor, advantage_B: torch.Tensor, tau: float
) -> torch.Tensor:
    """Return what each response adds to the loss whose negative gradient is eq. (3), float [B].

        -(r_j - mean r) * L_j + tau / 2 * (L_j - L_ref_j)^2

    L_j is the log-probability of the whole response, a sum over its tokens, not a mean: (sum d)^2 is not sum d^2.

    Args:
        logprob_B: float [B], L_j under the current parameters, with gradient.
        reference_B: float [B], L_j under the iteration's reference policy.
        advantage_B: float [B], r_j minus the mean reward of the problem's k samples.
        tau: weight of the regularisation; 0 makes it REINFORCE.
    """
    return -advantage_B * logprob_B + tau / 2 * (logprob_B - reference_B) ** 2


def truncated_weight(log_ratio: torch.Tensor, most: float) -> torch.Tensor:
    """Return min(exp(log_ratio), most), without gradient: the truncated importance weight (arXiv:1802.01561)."""
    return log_ratio.detach().exp().clamp(max=most)


def normalization_of(objective: ObjectiveSpec) -> Normalization:
    """Return what a step's losses are divided by."""
    if objective.normalization is not None:
        return objective.normalization
    return Normalization.TOKEN if objective.name is ObjectiveName.DAPO else Normalization.SEQUENCE


def _clipped_loss(
    objective: ObjectiveSpec, likelihoods: Likelihoods, advantage_B: torch.Tensor, step: StepSize
) -> torch.Tensor:
    """Return the clipped surrogate of tokens: -min(ratio * A, clip(ratio) * A), normalised."""
    mask_BS = likelihoods.mask_BS
    ratio_BS = ((likelihoods.logprob_BS - likelihoods.reference_BS) * mask_BS).exp()
    above = objective.clip_high if objective.name is ObjectiveName.DAPO else objective.clip_low
    clipped_BS = ratio_BS.clamp(1 - objective.clip_low, 1 + above)
    surrogate_BS = -torch.minimum(ratio_BS * advantage_B[:, None], clipped_BS * advantage_B[:, None]) * mask_BS
    if objective.max_importance_weight:
        gap_BS = (likelihoods.reference_BS - likelihoods.sampled_BS) * mask_BS
        surrogate_BS = surrogate_BS * truncated_weight(gap_BS, objective.max_importance_weight)
    if normalization_of(objective) is Normalization.TOKEN:
        return surrogate_BS.sum() / max(1, step.num_tokens)
    mean_B = surrogate_BS.sum(1) / mask_BS.sum(1).clamp(min=1)
    return mean_B.sum() / max(1, step.num_samples)
