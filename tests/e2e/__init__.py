"""Whole jobs on real parts: real etcd, Megatron-Core and vLLM, started by the real command."""
