"""The engine around Megatron and vLLM: process lifecycle, phase switch, weight segments, HTTP API."""
