"""How long a server takes: a roofline of decoding, which reads, and of prefill and training, which compute. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of one server's work."""

    step_seconds: float
    """A decoding step, whatever is in it: the weights are read once."""
    sequence_seconds: float
    """Further, for each sequence in it."""
    context_seconds: float
    """Further, for each token of the sequences' contexts."""
    prefill_seconds: float
    """Reading a token of a prefix."""
    train_seconds: float
    """Training on a token, all servers' devices as one: divide by the number of servers."""

    def steps_seconds(self, num_steps: int, num_sequences: int, context_tokens: int) -> float:
        """Return the duration of so many steps with the same sequences; each appends one token to every context.

        `context_tokens`: of all sequences together, before the first step.
        """
        flat = self.step_seconds + self.sequence_seconds * num_sequences
        read = num_steps * context_tokens + num_sequences * num_steps * (num_steps - 1) // 2
        return num_steps * flat + self.context_seconds * read


PARAMETERS, LAYERS, KV_HEADS, HEAD_DIM, BYTES = 32.8e9, 64, 8, 128, 2
"""Qwen2.5-32B in bfloat16, as its config.json and model card have it."""
DEVICES, BYTES_PER_SECOND, FLOPS = 4, 3.35e12, 989e12
"""H100 SXM, NVIDIA's data sheet: memory bandwidth, dense bfloat16."""
EFFICIENCY = 0.4
"""Share of the peak that matrix products reach: an assumption."""


def roofline() -> Pace:
    """Return the pace of a server of 32 billion parameters on four H100, with nothing but reads and products."""
    bandwidth, compute = DEVICES * BYTES_PER_SECOND, DEVICES * FLOPS * EFFICIENCY
    return Pace(
        step_seconds=PARAMETERS * BYTES / bandwidth,
        sequence_seconds=2 * PARAMETERS / compute,
        context_seconds=2 * LAYERS * KV_HEADS * HEAD_DIM * BYTES / bandwidth,
        prefill_seconds=2 * PARAMETERS / compute,
        train_seconds=6 * PARAMETERS / compute,
    )
