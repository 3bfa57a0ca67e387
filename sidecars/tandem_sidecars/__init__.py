"""The programs inside the engine: the Megatron trainer and the vLLM server."""
