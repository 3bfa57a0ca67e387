"""Which tensor-parallel splits a policy can be served with: vLLM's own conditions, known before it is started.

Query heads and the feed-forward are cut evenly. With more ranks than key/value heads neighbours hold the same head, so
then the ranks are a multiple of the heads.
"""

from collections.abc import Iterator
from typing import get_args

from tandem_api.job.pods import ServerSplit
from tandem_checkpoint.architectures.config import PolicyConfig

FIELD = "spec.rollout.parallelism.tensor"


class SplitRefused(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """The policy cannot be cut into so many parts; the message names the field and the fix."""


def check_split(policy: PolicyConfig, num_ranks: int) -> None:
    """Raise SplitRefused where a server of `num_ranks` ranks cannot hold the policy; before anything is started."""
    uncut = next(_uncut(policy, num_ranks), None)
    if uncut is not None:
        others = [split for split in get_args(ServerSplit) if not any(_uncut(policy, split))]
        raise SplitRefused(f"{FIELD}: {num_ranks} does not divide {uncut}; use {_listed(others)}")


def _uncut(policy: PolicyConfig, num_ranks: int) -> Iterator[str]:
    """Yield what of a policy does not divide by a number of ranks."""
    if policy.num_key_value_heads % num_ranks and num_ranks % policy.num_key_value_heads:
        yield f"{policy.num_key_value_heads} key/value heads"
    if policy.num_heads % num_ranks:
        yield f"{policy.num_heads} query heads"
    if policy.intermediate % num_ranks:
        yield f"{policy.intermediate} rows of the feed-forward"


def _listed(numbers: list[int]) -> str:
    """Return `1, 2 or 4`."""
    *first, last = map(str, numbers)
    return f"{', '.join(first)} or {last}" if first else last
