"""What `benchmarks/learning.py` runs: the real loop of the master against one tiny torch model."""
