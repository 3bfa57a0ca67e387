"""What Megatron-Core 0.16 takes for granted about Transformer Engine, answered where that is not installed."""

from importlib.util import find_spec

from megatron.core.transformer import multi_latent_attention
from megatron.core.transformer.moe import moe_utils

HAS_ENGINE = find_spec("transformer_engine") is not None


def do_without_engine() -> None:
    """Tell two modules of Megatron that there is no Transformer Engine, for this process; nothing where there is."""
    if HAS_ENGINE:
        return
    # Named in a router's product, but not defined (moe_utils.py, RouterGatingLinearFunction)
    moe_utils.te_general_gemm = None
    # Set although the class that is then asked for is None (multi_latent_attention.py, MultiLatentAttention)
    multi_latent_attention.HAVE_TE = False
