"""The learning rate of a step: a pure function of where in the run it is, so that nothing is lost by a restart."""

import math

from tandem_api.job.pods import OptimizerSpec, Schedule


def learning_rate(spec: OptimizerSpec, iterations: int, iteration: int, step: int, num_steps: int) -> float:
    """Return the learning rate of one optimizer step.

    The rise counts the step itself, so that no step is without effect and the last one of the warm-up has the whole
    rate. The fall counts what is behind, so that it begins with the whole rate, and the last step of the run is one
    step's share above its end. Past the last iteration it stays at the end.

    Args: iterations: of the run. iteration: counts from 1. step: counts from 0, of the iteration's `num_steps`.
    """
    behind, warmup = (iteration - 1) * num_steps + step, spec.warmup_iterations * num_steps
    if behind < warmup:
        return spec.learning_rate * (behind + 1) / warmup
    fallen = min(1.0, (behind - warmup) / max(1, iterations * num_steps - warmup))
    match spec.schedule:
        case Schedule.CONSTANT:
            share = 1.0
        case Schedule.LINEAR:
            share = 1 - fallen
        case Schedule.COSINE:
            share = (1 + math.cos(math.pi * fallen)) / 2
    return spec.learning_rate * (spec.end_share + (1 - spec.end_share) * share)
