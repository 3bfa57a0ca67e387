"""Eq. (3) of the report in float64, by transformers: the reference of loss and gradient."""

from collections.abc import Sequence
from pathlib import Path

import torch

from tandem_api.engine import Sample
from tests.tandem_sidecars.policies import load_policy
from tests.tandem_sidecars.training import Tensors

INVERTIBLE_EPSILON = 1.0


class Equation3:
    """The loss of one step over some samples as a function of a policy's weights, float64."""

    def __init__(self, policy: Path, samples: Sequence[Sample], tau: float) -> None:
        self._model = load_policy(policy, torch.float64)
        self._samples = samples
        self._tau = tau

    def responses(self, weights: Tensors) -> list[torch.Tensor]:
        """The log-probability of each token of each response under some weights."""
        found = []
        for sample in self._samples:
            ids = torch.tensor([sample.token_ids])
            logits = torch.func.functional_call(self._model, dict(weights), (ids,), {"use_cache": False}).logits
            logprobs = logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
            found.append(logprobs[sample.first_loss_token - 1 :])
        return found

    def loss(self, weights: Tensors, start: Tensors, *, per_token: bool = False) -> torch.Tensor:
        """1/N sum_j [ -A_j L_j + tau/2 (L_j - L_ref_j)^2 ]; `per_token`: with the squares of each token's log-ratio."""
        terms = []
        for sample, now, then in zip(self._samples, self.responses(weights), self.responses(start), strict=True):
            ratio = now - then.detach()
            square = ratio.square().sum() if per_token else ratio.sum().square()
            terms.append(-sample.advantage * now.sum() + self._tau / 2 * square)
        return torch.stack(terms).mean()

    def gradient(self, weights: Tensors, start: Tensors) -> Tensors:
        leaves = {name: tensor.double().requires_grad_() for name, tensor in weights.items()}
        gradients = torch.autograd.grad(self.loss(leaves, doubled(start)), list(leaves.values()))
        return dict(zip(leaves, gradients, strict=True))


def doubled(weights: Tensors) -> Tensors:
    return {name: tensor.double() for name, tensor in weights.items()}


def gradient_of_step(before: Tensors, after: Tensors, learning_rate: float) -> Tensors:
    """Return the gradient that made a step of Adam whose moments forget at once and whose epsilon is 1.

    Such a step is learning_rate * g / (|g| + 1).
    """
    moved = {name: (before[name].double() - after[name].double()) / learning_rate for name in before}
    return {name: move / (INVERTIBLE_EPSILON - move.abs()) for name, move in moved.items()}


def norm(tensors: Tensors) -> float:
    return float(torch.stack([tensor.double().square().sum() for tensor in tensors.values()]).sum().sqrt())


def distance(one: Tensors, other: Tensors) -> float:
    """Return how far two gradients are apart, over the length of the second."""
    assert one.keys() == other.keys()
    return norm({name: one[name].double() - other[name] for name in other}) / norm(other)
