"""The environment of the engine's children: the container's own, and what keeps numerics and start-up predictable."""

import os
from ipaddress import ip_address

from tandem_checkpoint.settings import Settings

LOOPBACK_INTERFACE = "lo"
COPY_PAST_CACHE = "glibc.cpu.x86_non_temporal_threshold=131072"
"""From this size on glibc writes past the cache, where its own threshold is tens of MiB: a block that is copied into
shared memory is not read again by who copies it, and what it replaces need not be fetched first."""


def child_variables(settings: Settings) -> dict[str, str]:
    """Return the variables of every child; what the container sets itself wins."""
    defaults = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    defaults |= {"GLIBC_TUNABLES": COPY_PAST_CACHE}
    if settings.config.device == "cpu":
        defaults |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if ip_address(settings.address).is_loopback:
        defaults |= {"GLOO_SOCKET_IFNAME": LOOPBACK_INTERFACE, "NCCL_SOCKET_IFNAME": LOOPBACK_INTERFACE}
    return {**defaults, **os.environ}
