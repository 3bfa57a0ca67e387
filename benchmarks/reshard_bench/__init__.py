"""Parts of benchmarks/reshard.py: the shapes of large models, how ranks lay them out, and a model of the network."""
