"""The losses by name. The report's is eq. (3) of section 2.3.2, at sequence level, with the mean reward as baseline.

Advantages are the master's part; here is what is made of them. Axis letters: T positions of a row of samples that lie
end to end, B the samples.
"""

from dataclasses import dataclass

import torch

from tandem_api.job.recipe import Normalization, ObjectiveName, ObjectiveSpec

TOKEN_LEVEL = frozenset({ObjectiveName.GRPO, ObjectiveName.DAPO})


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """Log-probabilities of the next tokens of a micro-batch, nats, float [T]; those that mask_T makes 0 are not in the
    loss.

    logprob_T: under the current parameters, with gradient. reference_T: under the parameters that the iteration began
    with. sampled_T: under the policy that sampled, as its server gave them. mask_T: 1 or 0.
    lengths_B: int64, positions of each sample; they add up to T.
    """

    logprob_T: torch.Tensor  # noqa: N815 - shape letters
    reference_T: torch.Tensor  # noqa: N815 - shape letters
    sampled_T: torch.Tensor  # noqa: N815 - shape letters
    mask_T: torch.Tensor  # noqa: N815 - shape letters
    lengths_B: torch.Tensor  # noqa: N815 - shape letters

    def of_samples(self, values_T: torch.Tensor) -> torch.Tensor:
        """Return the sum over each sample's tokens in the loss, [B]."""
        sums_B: torch.Tensor = torch.segment_reduce(values_T * self.mask_T, "sum", lengths=self.lengths_B)
        return sums_B


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
    tau = objective.tau if objective.name is ObjectiveName.MIRROR_DESCENT else 0.0
    logprob_B, reference_B = map(likelihoods.of_samples, (likelihoods.logprob_T, likelihoods.reference_T))
    surrogate_B = mirror_descent_terms(logprob_B, reference_B, advantage_B, tau)
    if objective.max_importance_weight:
        gap_B = likelihoods.of_samples(likelihoods.reference_T - likelihoods.sampled_T)
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
    mask_T = likelihoods.mask_T
    ratio_T = ((likelihoods.logprob_T - likelihoods.reference_T) * mask_T).exp()
    above = objective.clip_high if objective.name is ObjectiveName.DAPO else objective.clip_low
    clipped_T = ratio_T.clamp(1 - objective.clip_low, 1 + above)
    advantage_T = advantage_B.repeat_interleave(likelihoods.lengths_B)
    surrogate_T = -torch.minimum(ratio_T * advantage_T, clipped_T * advantage_T)
    if objective.max_importance_weight:
        gap_T = (likelihoods.reference_T - likelihoods.sampled_T) * mask_T
        surrogate_T = surrogate_T * truncated_weight(gap_T, objective.max_importance_weight)
    if normalization_of(objective) is Normalization.TOKEN:
        return (surrogate_T * mask_T).sum() / max(1, step.num_tokens)
    mean_B = likelihoods.of_samples(surrogate_T) / likelihoods.of_samples(mask_T).clamp(min=1)
    return mean_B.sum() / max(1, step.num_samples)
