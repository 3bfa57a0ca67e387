"""The report's surrogate loss (eq. 3, section 2.3.2), at sequence level, with the mean reward as baseline.

Axis letters: N samples, T tokens.
"""

import torch


def mirror_descent_loss(
    logprob_N: torch.Tensor, reference_N: torch.Tensor, advantage_N: torch.Tensor, tau: float, num_samples: int
) -> torch.Tensor:
    """Return the loss whose negative gradient is eq. (3), for a part of a step's samples.

        loss = (1 / num_samples) * sum_j [ -(r_j - mean r) * L_j + tau / 2 * (L_j - L_ref_j)^2 ]

    L_j is the log-probability of the whole response, a sum over its tokens, not a mean: (sum d)^2 is not sum d^2.

    Args:
        logprob_N: float [N], L_j under the current parameters, with gradient.
        reference_N: float [N], L_j under the iteration's reference policy.
        advantage_N: float [N], r_j minus the mean reward of the problem's k samples.
        tau: weight of the regularisation.
        num_samples: samples of the whole step, over all ranks and micro-batches.
    Returns: scalar with gradient.
    """
    surrogate_N = -advantage_N * logprob_N + tau / 2 * (logprob_N - reference_N) ** 2
    return surrogate_N.sum() / num_samples
