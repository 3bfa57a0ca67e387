"""Parts of benchmarks/rollout.py: the simulator, the real jobs, and the page."""
