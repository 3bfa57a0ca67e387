"""The server program: vLLM forked from a zygote, bound to a weight segment."""
