"""The ranks of a job: how they find each other, and Megatron's groups over them."""

import socket
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import HashStore, Store, TCPStore  # type: ignore[attr-defined]

from tandem_checkpoint.layouts.place import TrainerSplit
from tandem_checkpoint.process.commands import RankPlace
from tandem_sidecars.megatron.device import Device

RENDEZVOUS_TIMEOUT = timedelta(seconds=300)


def join(place: RankPlace, split: TrainerSplit, device: Device) -> None:
    """Meet the other ranks and build Megatron's groups over them; holds no device memory."""
    dist.init_process_group(
        device.backend, store=_store(place), rank=place.rank, world_size=place.world_size, timeout=RENDEZVOUS_TIMEOUT
    )
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=split.tensor,
        pipeline_model_parallel_size=split.pipeline,
        virtual_pipeline_model_parallel_size=split.virtual_pipeline if split.virtual_pipeline > 1 else None,
        context_parallel_size=split.context,
        expert_model_parallel_size=split.expert,
        expert_tensor_parallel_size=split.expert_tensor,
        create_gloo_process_groups=False,
    )


def seed(device: Device) -> None:
    """Set up Megatron's random states, which live on the device."""
    from megatron.core.tensor_parallel.random import initialize_rng_tracker, model_parallel_cuda_manual_seed

    if device.backend == "nccl":
        model_parallel_cuda_manual_seed(1)
    else:
        initialize_rng_tracker(inference_rng_tracker=True)


def _store(place: RankPlace) -> Store:
    """Return the rendezvous store. Rank 0 listens on its pod's address only, never on every interface."""
    if place.world_size == 1:
        return HashStore()
    if place.rank != 0:
        return TCPStore(
            place.rendezvous_address,
            place.rendezvous_port,
            place.world_size,
            is_master=False,
            timeout=RENDEZVOUS_TIMEOUT,
        )
    listener = socket.create_server((place.rendezvous_address, place.rendezvous_port), backlog=place.world_size)
    return TCPStore(
        place.rendezvous_address,
        place.rendezvous_port,
        place.world_size,
        is_master=True,
        timeout=RENDEZVOUS_TIMEOUT,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
        use_libuv=True,
    )
